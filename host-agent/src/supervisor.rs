//! One process for each VM of the daemon: it owns QEMU, the control channel, the simulator and the relay, and outlives
//! the daemon.
//!
//! ```text
//! daemon ──fork──▶ supervisor ──▶ QEMU, simulator (die with the supervisor)
//!    │                 │ control channel, console, public listener
//!    └── socket `sup` ─┘ reports ▲ orders ▼        a new daemon connects to the same socket
//! ```
//!
//! The guest takes the end of its control channel for a fault and powers off, and a connected socket cannot be handed to a
//! process that does not exist yet; the public listener and every connection it relays belong to one process, too. So
//! what must live as long as the VM lives in a process of its own, which does nothing but that. The daemon may be
//! killed and come back: it finds the supervisors by their sockets and goes on from what they report.
//!
//! An update runs two supervisors side by side, and the public listener goes from one to the other by their sockets, without
//! the daemon ([`Order::TakeOver`]).
//!
//! The protocol is one [`Report`] after the other to whoever connects, the newest instead of all, and [`Order`]s back,
//! in the frames of the control channel. Daemon and supervisor may be of different releases: a report says of which
//! version it is.

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
/// The socket's name in the VM's folder.
pub const SOCKET: &str = "sup";
/// What was started, in the VM's folder.
pub const LAUNCH: &str = "launch.json";
/// How it ended, in the VM's folder.
pub const ENDING: &str = "ending.json";
/// Its number, for a daemon that finds it before it has reported.
pub const PID: &str = "supervisor.pid";
/// This very program, even when an upgrade has put another in its place: daemon and supervisor understand each other.
pub const OWN_PROGRAM: &str = "/proc/self/exe";
/// How one ended that was there when the last daemon looked, and has left no word.
pub(crate) const GONE: &str = "it was gone when the daemon came back";
/// Standard error of the supervisor, in the VM's folder.
pub const WORDS: &str = "supervisor.log";
/// Largest message, in bytes.
const MAX_MESSAGE: usize = 256 * 1024;

/// All that a supervisor knows of its VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// [`VERSION`].
    pub version: u16,
    /// Which run of the appliance this is.
    pub run: u64,
    /// The supervisor's own process.
    pub pid: u32,
    /// QEMU's process, once it runs.
    pub qemu_pid: Option<u32>,
    /// How far the VM has come.
    pub stage: Stage,
    /// The same in a few words for people.
    pub doing: String,
    /// Public address, once it is open.
    pub endpoint: Option<SocketAddr>,
    /// Where the guest's own listener is reached, on this machine alone, once it serves.
    pub guest: Option<SocketAddr>,
    /// Whether it has the public listener, and takes clients from it.
    pub door: DoorState,
    /// Why it could not take the listener over when it was told to last.
    pub not_taken: Option<String>,
    /// Identity of the manifest that is published, once the image was read.
    pub manifest_id: Option<String>,
    /// File of the development root, when its evidence is simulated.
    pub trust_root: Option<PathBuf>,
    /// How long everything took.
    pub steps: Vec<Step>,
    /// Counters of the guest.
    pub metrics: Option<Metrics>,
    /// How the guest's GPUs are used, by their addresses there; empty until it tells, and without GPUs.
    pub gpus: Vec<GpuMetrics>,
    /// How often the engine died and came back.
    pub engine_restarts: u32,
    /// Why QEMU runs no machine any more, although it is there. In [`Stage::Draining`] the supervisor is ending it.
    pub halted: Option<String>,
    /// How it ended: the last report.
    pub ended: Option<Ending>,
}

/// What a supervisor is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Order {
    /// Let running requests finish, then end.
    Drain,
    /// Take no more clients; those that are connected go on.
    Hold,
    /// Take clients again; a run that waited for the public listener gets it from the system.
    Release,
    /// Get the public listener from the supervisor behind this socket, or from the system, and take clients.
    TakeOver(Option<PathBuf>),
    /// Send the public listener with the next report: another supervisor asks.
    Lend,
}

/// What is left of a run on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ended {
    run: u64,
    ending: Ending,
}

impl Ended {
    /// What the supervisor of run `run` left behind.
    fn kept(folder: &Path, run: u64) -> Option<Ending> {
        let bytes = std::fs::read(folder.join(ENDING)).ok()?;
        let ended: Self = serde_json::from_slice(&bytes).ok()?;
        (ended.run == run).then_some(ended.ending)
    }
}
