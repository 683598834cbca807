//! Types of the local API, version 1. They accept no unknown fields. `host-agent/docs/api.md` describes the API.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::lifecycle::Lifecycle;
use crate::supervisor::Report;
use crate::update::{Deployment, Update};

pub use super::journal::Entry;

/// Version of the API, and first component of every path.
pub const VERSION: &str = "v1";

/// Answer to `GET /v1`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct About {
    /// Version of the API: [`VERSION`].
    pub api: String,
    /// Release of the daemon.
    pub version: String,
    /// Process id of the daemon.
    pub pid: u32,
    /// Configuration file of the daemon.
    pub file: PathBuf,
    /// State folder of the daemon.
    pub state: PathBuf,
}

/// Answer to `GET /v1/appliances`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct List {
    /// The appliances, in the order of the file.
    pub appliances: Vec<View>,
}

/// Answer to `GET /v1/appliances/NAME`: the appliance's settings, state and VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct View {
    /// Name of the appliance.
    pub name: String,
    /// Folder of the image in the configuration file.
    pub image: PathBuf,
    /// Address of the public listener.
    pub listen: SocketAddr,
    /// TEE of the VM: `tdx`, `sev-snp`, `simulated-tdx` or `simulated-sev-snp`.
    pub tee: String,
    /// Guest memory in MiB.
    pub memory_mib: u32,
    /// Number of virtual CPUs.
    pub vcpus: u16,
    /// Whether the appliance starts with the daemon.
    pub autostart: bool,
    /// Whether the running VM was started with other settings than the current ones; a restart applies them.
    pub outdated: bool,
    /// Folder of the VM, with console, log, timings and published manifest.
    pub folder: PathBuf,
    /// Image and manifest that the appliance runs or would run: those of the file until the first update.
    pub deployment: Deployment,
    /// Image and manifest before the last update, to which a rollback returns.
    pub previous: Option<Deployment>,
    /// Number of runs so far, including those of every VM that an update started. It never falls, even when an update
    /// replaces `life`.
    pub runs: u64,
    /// State of the appliance's life cycle.
    pub life: Lifecycle,
    /// Last report of the VM's supervisor, while there is one.
    pub report: Option<Report>,
    /// The current update, or the last one.
    pub update: Option<UpdateView>,
}

impl View {
    /// How long the kernel may take to reclaim the VM's memory when it is killed.
    #[must_use]
    pub fn reclaim(&self) -> Duration {
        match self.tee.starts_with("simulated-") {
            true => Duration::ZERO,
            false => cocoon_qemu::process::reclaim(self.memory_mib),
        }
    }
}

/// An update, and the second VM while there is one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateView {
    /// State of the update.
    pub update: Update,
    /// Life cycle of the second VM: the new one or, once the update is committed, the old one.
    pub life: Option<Lifecycle>,
    /// Last report of the second VM's supervisor.
    pub report: Option<Report>,
}

/// Body of `POST /v1/appliances/NAME/update`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateRequest {
    /// Path of the manifest. Its signatures are beside it, with the suffix `.dsse`.
    pub manifest: PathBuf,
    /// Folder of the image, if it is not the manifest's folder.
    #[serde(default)]
    pub image: Option<PathBuf>,
    /// Whether the old VM finishes before the new one starts, even if there is room for both.
    #[serde(default)]
    pub drain_first: bool,
    /// Client policy file to judge the new VM's evidence by, instead of that of `[updates]`.
    #[serde(default)]
    pub policy: Option<PathBuf>,
}

/// Every answer that reports no success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refusal {
    /// What is wrong with the request.
    pub error: Problem,
}

/// A problem with a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Problem {
    /// Code for programs.
    pub code: Code,
    /// Sentence for people.
    pub message: String,
}

/// Codes of problems.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// The API has no such path.
    UnknownPath,
    /// The path takes another method.
    WrongMethod,
    /// The configuration file describes no such appliance.
    UnknownAppliance,
    /// The path has no such parameter.
    UnknownParameter,
    /// A parameter has a wrong value or is given twice.
    BadParameter,
    /// The request has a body, and only an update takes one.
    UnexpectedBody,
    /// The body is malformed or too long.
    BadBody,
    /// An update is under way.
    Updating,
    /// The update or rollback was refused.
    UpdateRefused,
    /// There is no deployment to go back to.
    NothingBefore,
    /// The appliance has no log, because it has never run.
    NoLog,
    /// The daemon is ending.
    Ending,
}

impl Code {
    /// HTTP status of an answer with this code.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::UnknownPath | Self::UnknownAppliance | Self::NoLog => 404,
            Self::WrongMethod => 405,
            Self::UnknownParameter | Self::BadParameter | Self::UnexpectedBody | Self::BadBody => {
                400
            }
            Self::Updating | Self::NothingBefore => 409,
            Self::UpdateRefused => 422,
            Self::Ending => 503,
        }
    }
}

impl Refusal {
    /// Creates a refusal.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        let message = message.into();
        Self {
            error: Problem { code, message },
        }
    }
}
