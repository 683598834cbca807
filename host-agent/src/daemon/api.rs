//! The types of the local API, version 1: closed, each way. `host-agent/docs/api.md` describes them to strangers.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::lifecycle::Lifecycle;
use crate::supervisor::Report;
use crate::update::{Deployment, Update};

pub use super::journal::Entry;

/// The version, and the first part of every path.
pub const VERSION: &str = "v1";

/// `GET /v1`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct About {
    /// [`VERSION`].
    pub api: String,
    /// The daemon's release.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// The file that it keeps to.
    pub file: PathBuf,
    /// Where it keeps state.
    pub state: PathBuf,
}

/// `GET /v1/appliances`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct List {
    /// In the order of the file.
    pub appliances: Vec<View>,
}

/// `GET /v1/appliances/NAME`: what is wanted, what it does, and what runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct View {
    /// Its name.
    pub name: String,
    /// Folder of its image.
    pub image: PathBuf,
    /// Public address.
    pub listen: SocketAddr,
    /// `tdx`, `sev-snp`, `simulated-tdx` or `simulated-sev-snp`.
    pub tee: String,
    /// Guest memory in MiB.
    pub memory_mib: u32,
    /// Virtual CPUs.
    pub vcpus: u16,
    /// Whether it starts with the daemon.
    pub autostart: bool,
    /// Whether what runs was started from another description: a restart makes it the file's.
    pub outdated: bool,
    /// The folder that its VM keeps: console, log, timings, the published manifest.
    pub folder: PathBuf,
    /// What it runs, or would: as in the file, until an update.
    pub deployment: Deployment,
    /// What it ran before that: what a rollback goes back to.
    pub previous: Option<Deployment>,
    /// Runs so far, those of every VM that updates put beside it included: it never falls, also when an update changes `life`.
    pub runs: u64,
    /// Where it is in its life.
    pub life: Lifecycle,
    /// What its supervisor reported last, while there is one.
    pub report: Option<Report>,
    /// The update under way, or the last one.
    pub update: Option<UpdateView>,
}

impl View {
    /// How long the kernel may take to give its memory back when its VM is killed.
    #[must_use]
    pub fn reclaim(&self) -> Duration {
        match self.tee.starts_with("simulated-") {
            true => Duration::ZERO,
            false => cocoon_qemu::process::reclaim(self.memory_mib),
        }
    }
}

/// An update, and the VM beside the appliance's while there is one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateView {
    /// Where it is.
    pub update: Update,
    /// The life of the other VM: the new one, and once the new one is the appliance, the old one.
    pub life: Option<Lifecycle>,
    /// What that one's supervisor reported last.
    pub report: Option<Report>,
}

/// The body of `POST /v1/appliances/NAME/update`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateRequest {
    /// The manifest; its signatures lie beside it in `….dsse`.
    pub manifest: PathBuf,
    /// Folder of the image, when it is not the manifest's.
    #[serde(default)]
    pub image: Option<PathBuf>,
    /// Let the old VM finish before the new one starts, even where there is room for both.
    #[serde(default)]
    pub drain_first: bool,
    /// A client's policy file to judge the new VM's evidence by, in place of the one of `[updates]`.
    #[serde(default)]
    pub policy: Option<PathBuf>,
}

/// Every answer that is no success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refusal {
    /// What is wrong.
    pub error: Problem,
}

/// What is wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Problem {
    /// For programs.
    pub code: Code,
    /// For people.
    pub message: String,
}

/// Kinds of problems.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// No such path.
    UnknownPath,
    /// The path takes another method.
    WrongMethod,
    /// The file describes no such appliance.
    UnknownAppliance,
    /// The path takes no such parameter.
    UnknownParameter,
    /// A parameter's value.
    BadParameter,
    /// Only an update has a body.
    UnexpectedBody,
    /// The body is not what it should be.
    BadBody,
    /// An update is under way.
    Updating,
    /// The image may not replace the running one.
    UpdateRefused,
    /// There is no deployment to go back to.
    NothingBefore,
    /// The appliance has never run.
    NoLog,
    /// The daemon is ending.
    Ending,
}

impl Code {
    /// Its HTTP status.
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
    /// A refusal.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        let message = message.into();
        Self {
            error: Problem { code, message },
        }
    }
}
