//! The supervisor: one process for each VM of the daemon. It owns QEMU, the control channel, the simulator and the
//! relay, and outlives the daemon.
//!
//! ```text
//! daemon ──fork──▶ supervisor ──▶ QEMU, simulator (die with the supervisor)
//!    │                 │ control channel, console, public listener
//!    └── socket `sup` ─┘ reports ▲ orders ▼        a new daemon connects to the same socket
//! ```
//!
//! A VM must survive a restart of the daemon. The guest treats a closed control channel as a fault and powers off, and
//! a connected socket cannot be handed to a process that does not exist yet. The public listener and all connections
//! that it relays also need one owner. So each VM has a process that does nothing else. A new daemon finds the
//! supervisors by their sockets and continues from their reports.
//!
//! An update runs two supervisors side by side. The public listener passes from one to the other over their sockets,
//! without the daemon ([`Order::TakeOver`]).
//!
//! The protocol sends [`Report`]s to each connected daemon and [`Order`]s back, in the frames of the control channel. A
//! slow reader gets the newest report instead of every one. Daemon and supervisor may be of different releases, so each
//! report names its protocol version.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use cocoon_protocol::control::Metrics;
use cocoon_protocol::gpu::GpuMetrics;
use serde::{Deserialize, Serialize};

use crate::lifecycle::{Ending, Stage};
use crate::relay::DoorState;
use crate::timings::Step;

mod launch;
mod link;
mod owner;
mod passing;
mod process;
mod telling;

pub use launch::Launch;
pub use link::{Heard, Link, LinkError};
pub use owner::supervise;

/// Version of the protocol.
pub const VERSION: u16 = 3;
/// Name of the supervisor's socket in the VM's folder.
pub const SOCKET: &str = "sup";
/// File in the VM's folder that describes what was started.
pub const LAUNCH: &str = "launch.json";
/// File in the VM's folder that holds how the VM ended.
pub const ENDING: &str = "ending.json";
/// File in the VM's folder with the supervisor's process id, for a daemon that finds it before its first report.
pub const PID: &str = "supervisor.pid";
/// This very program, even if an upgrade has replaced its file: daemon and supervisor then speak the same protocol version.
pub const OWN_PROGRAM: &str = "/proc/self/exe";
/// Reason of an ending if the VM ended between two daemons and left no ending behind.
pub(crate) const GONE: &str = "it was gone when the daemon came back";
/// File in the VM's folder that holds the supervisor's standard error.
pub const WORDS: &str = "supervisor.log";
/// Largest message of the protocol, in bytes.
const MAX_MESSAGE: usize = 256 * 1024;

/// Everything that a supervisor reports about its VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// Protocol version of the supervisor: [`VERSION`].
    pub version: u16,
    /// Number of the appliance's run.
    pub run: u64,
    /// Process id of the supervisor.
    pub pid: u32,
    /// Process id of QEMU, once it runs.
    pub qemu_pid: Option<u32>,
    /// Stage that the VM has reached.
    pub stage: Stage,
    /// Description of the current activity, for display.
    pub doing: String,
    /// Public address, once the VM serves.
    pub endpoint: Option<SocketAddr>,
    /// Address of the guest's own listener, reachable on this machine only, once the VM serves.
    pub guest: Option<SocketAddr>,
    /// State of the public listener.
    pub door: DoorState,
    /// Why the supervisor could not obey the last order about the public listener.
    pub not_taken: Option<String>,
    /// Identity of the published manifest, once the VM serves.
    pub manifest_id: Option<String>,
    /// File with the development root, if the VM's evidence is simulated.
    pub trust_root: Option<PathBuf>,
    /// Timings of the boot's steps so far.
    pub steps: Vec<Step>,
    /// The guest's counters.
    pub metrics: Option<Metrics>,
    /// Utilisation of the guest's GPUs, in the order of their addresses in the guest; empty before the first figures
    /// and without GPUs.
    pub gpus: Vec<GpuMetrics>,
    /// Number of times that the engine died and was restarted.
    pub engine_restarts: u32,
    /// Why the guest no longer runs although QEMU does. In [`Stage::Draining`], the supervisor is ending QEMU.
    pub halted: Option<String>,
    /// How the VM ended; set in the last report only.
    pub ended: Option<Ending>,
}

/// An order from the daemon to a supervisor, or from one supervisor to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Order {
    /// Let running requests finish, then end the VM.
    Drain,
    /// Accept no more clients; existing connections go on.
    Hold,
    /// Accept clients again. A run that has no public listener yet binds it.
    Release,
    /// Accept clients on the public listener of the supervisor behind this socket; without a socket, bind the listener.
    TakeOver(Option<PathBuf>),
    /// Send the public listener with the next report. Another supervisor asks for this.
    Lend,
}

/// Contents of the file [`ENDING`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ended {
    run: u64,
    ending: Ending,
}

impl Ended {
    /// Returns how run `run` ended, if its supervisor left that behind.
    fn kept(folder: &Path, run: u64) -> Option<Ending> {
        let bytes = std::fs::read(folder.join(ENDING)).ok()?;
        let ended: Self = serde_json::from_slice(&bytes).ok()?;
        (ended.run == run).then_some(ended.ending)
    }
}
