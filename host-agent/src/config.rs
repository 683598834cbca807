//! The operator's file, `cocoon-host.toml`: read whole, judged whole, before anything starts.
//!
//! ```text
//! text ──toml──▶ tables with places ──schema──▶ values ──conflicts──▶ HostConfig
//!          │                           │                    │
//!          └───────────────────────────┴────────────────────┴──▶ Problems, all of them at once
//! ```
//!
//! The schema is closed: a key that is not known is an error with the nearest known one, and what this release cannot
//! do is refused by name rather than accepted and ignored. `host-agent/docs/cocoon-host.toml` is the commented example.

use std::io::Read as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cocoon_protocol::binding::Tee;
use cocoon_protocol::config::OperatorConfig;
use cocoon_qemu::PciAddress;
use cocoon_qemu::accel::Wanted;
use cocoon_qemu::spec::Placement;

use crate::relay::Limits;
use crate::update::check::Updates;
use crate::web::WebSettings;

mod conflicts;
pub mod devices;
pub mod machine;
pub mod problem;
mod reader;
mod schema;
mod shown;
pub mod values;

pub use devices::{GuestAddress, Network};
pub use machine::Machine;
pub use problem::{Problem, Problems};
pub use shown::StatusSettings;

/// Where the file is looked for when it is not named.
pub const DEFAULT_PATH: &str = "/etc/cocoon/host.toml";
/// Where state is kept unless the file says otherwise.
pub const DEFAULT_STATE: &str = "/var/lib/cocoon";
/// The commented example, which every release tests.
pub const EXAMPLE: &str = include_str!("../docs/cocoon-host.toml");
/// Largest file, in bytes: some thousand appliances.
pub const MAX_FILE: u64 = 1 << 20;

/// What the file says.
#[derive(Debug, Clone, PartialEq)]
pub struct HostConfig {
    /// About this machine.
    pub host: HostSettings,
    /// Where documents are shown to anybody, if anywhere.
    pub web: Option<WebSettings>,
    /// Where the operator's own page and metrics are, if anywhere.
    pub status: Option<StatusSettings>,
    /// Whom updates come from.
    pub updates: Updates,
    /// What it runs, in the order of the file, under names of their own.
    pub appliances: Vec<Appliance>,
    /// What may keep one of them from starting, and no other.
    pub warnings: Vec<Problem>,
}

/// `[host]`.
#[derive(Debug, Clone, PartialEq)]
pub struct HostSettings {
    /// Where state is kept.
    pub state: PathBuf,
    /// Where fetched files are kept; `None` is the usual place.
    pub cache: Option<PathBuf>,
    /// QEMU to use in place of one that is found.
    pub qemu: Option<PathBuf>,
    /// Simulator to use in place of the one beside this program.
    pub simulator: Option<PathBuf>,
    /// Folder of the development roots.
    pub development_roots: Option<PathBuf>,
    /// Memory that no appliance may have, in MiB.
    pub memory_reserve_mib: u32,
}

/// `[[appliance]]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Appliance {
    /// Its name.
    pub name: String,
    /// Folder of its image.
    pub image: PathBuf,
    /// Manifest to publish in place of the image's.
    pub manifest: Option<PathBuf>,
    /// Guest memory in MiB.
    pub memory_mib: u32,
    /// Virtual CPUs.
    pub vcpus: u16,
    /// What protects it.
    pub tee: TeeMode,
    /// Public address.
    pub listen: SocketAddr,
    /// QEMU's CPU model, which SEV-SNP measures.
    pub cpu: String,
    /// The GPU that it gets for itself.
    pub gpu: Option<PciAddress>,
    /// How it is reached.
    pub network: Network,
    /// Where its memory and its processors are.
    pub placement: Placement,
    /// KVM or emulation.
    pub accel: Wanted,
    /// Whether it starts with the daemon.
    pub autostart: bool,
    /// Limits of its public listener.
    pub limits: Limits,
    /// What clients are told, measured by the launch.
    pub operator: OperatorConfig,
    /// What to do when it ends by itself.
    pub restart: Restart,
}

/// What protects an appliance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TeeMode {
    /// The machine's own TEE.
    Real(Tee),
    /// Nothing: the simulator imitates this TEE, and clients see it.
    Simulated(Tee),
}

/// `[appliance.restart]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restart {
    /// Whether to start again at all.
    pub policy: RestartPolicy,
    /// Before the second restart in a row; the first comes at once.
    pub delay: Duration,
    /// Never longer than this, however often it was doubled.
    pub max_delay: Duration,
    /// So many failures in a row are a crash loop.
    pub max_failures: u32,
    /// Serving so long makes the failures before it forgotten.
    pub healthy: Duration,
}

/// `policy` of `[appliance.restart]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Whenever it ends although nobody asked it to.
    OnFailure,
    /// Never.
    Never,
}

impl Default for Restart {
    fn default() -> Self {
        Self {
            policy: RestartPolicy::OnFailure,
            delay: Duration::from_secs(1),
            max_delay: Duration::from_secs(300),
            max_failures: 5,
            healthy: Duration::from_secs(600),
        }
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("cannot read {path:?}; `cocoon-host config example` prints one to begin with")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// It is no text.
    #[error("{path:?} is not UTF-8 text of at most {MAX_FILE} bytes")]
    NotText {
        /// The file.
        path: PathBuf,
    },
    /// It says something that cannot be done.
    #[error(transparent)]
    Problems(#[from] Problems),
}

impl HostConfig {
    /// Reads and judges the file at `path` for `machine`.
    ///
    /// # Errors
    /// [`LoadError`]; problems in the file come all at once.
    pub fn load(path: &Path, machine: &Machine) -> Result<Self, LoadError> {
        let fail = |source| LoadError::Read {
            path: path.to_owned(),
            source,
        };
        let mut bytes = Vec::new();
        let file = std::fs::File::open(path).map_err(fail)?;
        file.take(MAX_FILE + 1)
            .read_to_end(&mut bytes)
            .map_err(fail)?;
        let text = match String::from_utf8(bytes) {
            Ok(text) if text.len() as u64 <= MAX_FILE => text,
            _ => {
                return Err(LoadError::NotText {
                    path: path.to_owned(),
                });
            }
        };
        Ok(Self::parse(&text, &path.display().to_string(), machine)?)
    }

    /// Judges `text`, which problems call `file`, for `machine`.
    ///
    /// # Errors
    /// All [`Problems`] at once, in the order of the file.
    pub fn parse(text: &str, file: &str, machine: &Machine) -> Result<Self, Problems> {
        let mut report = reader::Report::new(text);
        let located = schema::read(text, &mut report);
        conflicts::find(&located, machine, &mut report);
        let warnings = report.finish(file)?;
        // What is missing was reported; should that ever be untrue, nothing starts all the same.
        let config = located.config().ok_or_else(|| Problems::incomplete(file))?;
        Ok(Self { warnings, ..config })
    }

    /// The status page, or why there is none where the file does not name its address: appliances come first.
    ///
    /// # Errors
    /// Whose the usual address is.
    pub fn status_page(&self) -> Result<Option<&StatusSettings>, String> {
        let Some(status) = &self.status else {
            return Ok(None);
        };
        let listen = status.web.listen;
        let mut all = self.appliances.iter();
        match all.find(|one| conflicts::same(one.listen, listen)) {
            Some(one) if !status.named => Err(format!(
                "{listen} is {:?}'s: name another address as listen of [status], or \"off\"",
                one.name
            )),
            _ => Ok(Some(status)),
        }
    }

    /// The appliance called `name`.
    #[must_use]
    pub fn appliance(&self, name: &str) -> Option<&Appliance> {
        self.appliances
            .iter()
            .find(|appliance| appliance.name == name)
    }
}

#[cfg(test)]
mod tests;
