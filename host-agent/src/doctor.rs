//! Examines a machine: what it has for TDX, SEV-SNP and simulated appliances, what is missing and how to get it, and whether
//! clients would accept an image on it.
//!
//! ```text
//! source (files, programs, sockets, registers, clock) ──read──▶ facts ──judge──▶ findings ──▶ ready for which modes
//!                                            image, policy ──────┴──clients──▶ findings ──▶ accepted in which modes
//! ```
//!
//! | module | contents |
//! |---|---|
//! | [`source`] | traits through which a machine is examined; [`real`] implements them for this machine, tests for captured ones |
//! | [`facts`] | what was found out, as plain values |
//! | [`mod@judge`] | turns facts into findings, a pure function |
//! | [`clients`] | predicts this machine's measurements and the clients' verdict |
//! | [`collateral`] | the kept endorsements of this machine |
//! | [`show`] | formats findings for people |
//!
//! **None of this has run on a TEE host.** The expected output of firmware, kernels and tools is taken from their
//! documentation and sources, which each reader names.

pub mod clients;
pub mod collateral;
pub mod facts;
pub mod finding;
pub mod judge;
pub mod policy;
pub mod real;
pub mod show;
pub mod source;

use std::path::Path;

use cocoon_qemu::find::Search;
use serde::Serialize;

pub use facts::{Facts, QemuFacts, Tried, Wanted};
pub use finding::{Finding, Mode, Readiness, Severity};
use source::World;

use crate::text::chain;

/// The outcome of an examination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// All findings about the machine.
    pub findings: Vec<Finding>,
    /// Readiness of the machine for each mode.
    pub modes: Vec<Readiness>,
    /// Whether clients would accept the image, if one was named.
    pub clients: Option<Clients>,
}

/// The clients' expected verdict on an image on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Clients {
    /// The checks that can be predicted before a launch.
    pub findings: Vec<Finding>,
    /// For each mode, whether clients would accept the appliance.
    pub modes: Vec<Readiness>,
}

impl Report {
    /// Creates a report from findings, for `modes` only.
    #[must_use]
    pub fn new(findings: Vec<Finding>, clients: Option<Vec<Finding>>, modes: &[Mode]) -> Self {
        let matters = |finding: &Finding| finding.modes.iter().any(|mode| modes.contains(mode));
        let all = |findings: &[Finding]| {
            let of = |mode: &Mode| Readiness::of(*mode, findings);
            modes.iter().map(of).collect()
        };
        let only = |mut findings: Vec<Finding>| {
            findings.retain(matters);
            findings
        };
        Self {
            modes: all(&findings),
            clients: clients.map(|findings| Clients {
                modes: all(&findings),
                findings: only(findings),
            }),
            findings: only(findings),
        }
    }

    /// Whether there is a mode that the machine is ready for and that clients would accept, if an image was named.
    #[must_use]
    pub fn accepted(&self) -> bool {
        let clients = |mode: Mode| {
            let modes = self.clients.as_ref().map(|clients| &clients.modes);
            modes.is_none_or(|modes| modes.iter().any(|one| one.mode == mode && one.ready))
        };
        (self.modes.iter()).any(|readiness| readiness.ready && clients(readiness.mode))
    }
}

/// Examines the QEMU that `up` would use. Fetches nothing.
pub async fn qemu(world: &(dyn World + Sync), named: Option<&Path>) -> QemuFacts {
    let (qemu, what) = match crate::qemu::here(named).await {
        Ok(Search::Found { qemu, reason }) => (qemu, reason),
        Ok(Search::Unusable { reason }) => return QemuFacts::Private { reason },
        Err(error) => {
            return QemuFacts::Unusable {
                reason: chain(&error),
            };
        }
    };
    let program: Option<Vec<&str>> = qemu.program.iter().map(|word| word.to_str()).collect();
    let objects = program.and_then(|program| {
        let ran = world
            .run(&[&program[..], &["-object", "help"]].concat())
            .ok()?;
        ran.success.then(|| objects(&ran.output))
    });
    QemuFacts::Found {
        version: qemu.version,
        what,
        objects,
    }
}

/// Parses the output of `-object help`: a heading, then one indented type per line.
fn objects(help: &str) -> Vec<String> {
    let lines = help.lines().filter(|line| line.starts_with(' '));
    lines.map(|line| line.trim().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_listed_below_a_heading() {
        let help = "List of user creatable objects:\n  authz-list\n  tdx-guest\n";
        assert_eq!(objects(help), ["authz-list", "tdx-guest"]);
    }
}
