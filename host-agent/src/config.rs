//! The daemon's configuration file, `cocoon-host.toml`: read and checked completely before anything starts.
//!
//! ```text
//! text ──toml──▶ tables with positions ──schema──▶ values ──conflicts──▶ HostConfig
//!          │                              │                    │
//!          └──────────────────────────────┴────────────────────┴──▶ Problems, all reported together
//! ```
//!
//! The schema is closed. An unknown key is an error that names the nearest known one, and what this release cannot do is
//! refused by name instead of being ignored. `host-agent/docs/cocoon-host.toml` is the commented example.

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

/// Default path of the file.
pub const DEFAULT_PATH: &str = "/etc/cocoon/host.toml";
/// Default folder for state.
pub const DEFAULT_STATE: &str = "/var/lib/cocoon";
/// The commented example; a test checks it against the schema.
pub const EXAMPLE: &str = include_str!("../docs/cocoon-host.toml");
/// Maximum length of the file in bytes, enough for some thousand appliances.
pub const MAX_FILE: u64 = 1 << 20;

/// The contents of the file.
#[derive(Debug, Clone, PartialEq)]
pub struct HostConfig {
    /// Settings of the host, from `[host]`.
    pub host: HostSettings,
    /// Address and certificate of the published documents; `None` if `[web]` names no address.
    pub web: Option<WebSettings>,
    /// Address and login of the status page and the metrics; `None` if they are off.
    pub status: Option<StatusSettings>,
    /// Signers of updates and other conditions, from `[updates]`.
    pub updates: Updates,
    /// The appliances, in the order of the file, with distinct names.
    pub appliances: Vec<Appliance>,
    /// Problems that may keep one appliance from starting, but no other.
    pub warnings: Vec<Problem>,
}

/// Settings of the host, from `[host]`.
#[derive(Debug, Clone, PartialEq)]
pub struct HostSettings {
    /// Folder for state.
    pub state: PathBuf,
    /// Folder for fetched files; `None` for the default.
    pub cache: Option<PathBuf>,
    /// QEMU executable to use instead of searching for one.
    pub qemu: Option<PathBuf>,
    /// Simulator executable to use instead of the one beside this program.
    pub simulator: Option<PathBuf>,
    /// Folder of the development roots.
    pub development_roots: Option<PathBuf>,
    /// Memory that is kept from appliances, in MiB.
    pub memory_reserve_mib: u32,
}

/// Settings of an appliance, from `[[appliance]]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Appliance {
    /// Name of the appliance.
    pub name: String,
    /// Folder of the image.
    pub image: PathBuf,
    /// Manifest to publish instead of the image's.
    pub manifest: Option<PathBuf>,
    /// Guest memory in MiB.
    pub memory_mib: u32,
    /// Number of virtual CPUs.
    pub vcpus: u16,
    /// TEE of the VM, real or simulated.
    pub tee: TeeMode,
    /// Address of the public listener.
    pub listen: SocketAddr,
    /// QEMU's CPU model, which SEV-SNP measures.
    pub cpu: String,
    /// GPU for this appliance alone.
    pub gpu: Option<PciAddress>,
    /// Network over which the relay reaches the guest.
    pub network: Network,
    /// Placement of memory and processors.
    pub placement: Placement,
    /// Accelerator: KVM, emulation, or automatic.
    pub accel: Wanted,
    /// Whether the appliance starts with the daemon.
    pub autostart: bool,
    /// Limits of the public listener.
    pub limits: Limits,
    /// Configuration that clients see, measured at launch.
    pub operator: OperatorConfig,
    /// When to start the VM again after a failure.
    pub restart: Restart,
}

/// The TEE of an appliance, real or simulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TeeMode {
    /// The TEE of this machine.
    Real(Tee),
    /// No protection: the simulator imitates this TEE, and clients are told so.
    Simulated(Tee),
}

/// Restart settings, from `[appliance.restart]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restart {
    /// Whether to restart the VM at all.
    pub policy: RestartPolicy,
    /// Back-off before the second restart in a row. The first restart is immediate.
    pub delay: Duration,
    /// Maximum back-off; each failure doubles it.
    pub max_delay: Duration,
    /// Number of failures in a row after which the appliance is given up.
    pub max_failures: u32,
    /// Time of serving after which earlier failures are forgotten.
    pub healthy: Duration,
}

/// Key `policy` of `[appliance.restart]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Restart after every end that nobody asked for.
    OnFailure,
    /// Never restart.
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

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("cannot read {path:?}; `cocoon-host config example` prints one to begin with")]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// The error of the system.
        #[source]
        source: std::io::Error,
    },
    /// The file is not UTF-8 text, or is too long.
    #[error("{path:?} is not UTF-8 text of at most {MAX_FILE} bytes")]
    NotText {
        /// Path of the file.
        path: PathBuf,
    },
    /// The file has problems.
    #[error(transparent)]
    Problems(#[from] Problems),
}

impl HostConfig {
    /// Reads the file at `path` and checks it for `machine`.
    ///
    /// # Errors
    /// Fails with [`LoadError`]; problems in the file are reported all at once.
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

    /// Checks `text` for `machine`. `file` is the name that problems show.
    ///
    /// # Errors
    /// Returns all [`Problems`], in the order of the file.
    pub fn parse(text: &str, file: &str, machine: &Machine) -> Result<Self, Problems> {
        let mut report = reader::Report::new(text);
        let located = schema::read(text, &mut report);
        conflicts::find(&located, machine, &mut report);
        let warnings = report.finish(file)?;
        // Missing values were reported above; this only guards against a bug.
        let config = located.config().ok_or_else(|| Problems::incomplete(file))?;
        Ok(Self { warnings, ..config })
    }

    /// Returns the settings of the status page. An appliance takes precedence at the default address.
    ///
    /// # Errors
    /// Says which appliance has the default address.
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

    /// Returns the appliance called `name`.
    #[must_use]
    pub fn appliance(&self, name: &str) -> Option<&Appliance> {
        self.appliances
            .iter()
            .find(|appliance| appliance.name == name)
    }
}

#[cfg(test)]
mod tests;
