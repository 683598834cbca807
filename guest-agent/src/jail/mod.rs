//! The engine's jail. The agent executes itself again to build it, so that namespaces and filters are set up in fresh,
//! single-threaded processes and no code runs between fork and exec.
//!
//! ```text
//! agent (PID 1) ── engine-jail: new PID, mount, network, IPC and UTS namespaces; waits
//!                     └─ engine-cell (PID 1 inside): empty root, uid 65534, limits, seccomp ─▶ engine
//! ```
//!
//! The engine keeps its own executable, the read-only model, the kernel's random devices, and the socket pair on descriptor
//! 3. With real GPUs it also gets what NVIDIA's library needs (see [`gpus`]), and its executable is part of the runtime
//! volume, a folder of programs and libraries.

mod cell;
mod gpus;
pub mod seccomp;

use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use cocoon_protocol::engine::{ENGINE_FD, FromEngine, MAX_FROM_ENGINE, StartFailure, StartStep};
use cocoon_protocol::frame::encode;
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};

use crate::sys;

/// First argument of the outer helper.
pub const OUTER: &str = "engine-jail";
/// First argument of the inner helper.
pub const INNER: &str = "engine-cell";

/// User and group of the engine. They own no file; the group may use the GPUs' device files.
pub(crate) const NOBODY: u32 = 65534;

/// Arguments of a helper, which only the agent passes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    /// Path of the engine's executable outside the jail.
    pub engine: PathBuf,
    /// Path of the model's folder outside the jail.
    pub model: PathBuf,
    /// Identifier of the model.
    pub model_id: String,
    /// Number of threads for computation.
    pub threads: usize,
    /// Whether the engine uses GPUs. Its executable is then on the runtime volume, all of which is in its root.
    pub gpus: bool,
}

/// Last argument of the helpers, with and without GPUs.
const GPUS: [&str; 2] = ["gpus", "no-gpus"];

/// Why the jail could not be built. The text is discarded in the appliance, where only the exit status and the failure
/// message to the agent remain. Tests show it on a terminal.
#[derive(Debug, thiserror::Error)]
pub enum JailError {
    /// The arguments are not those that the agent passes.
    #[error("usage: ENGINE MODEL-DIR MODEL-ID THREADS gpus|no-gpus")]
    Usage,
    /// A system call failed.
    #[error("jail: cannot {operation}")]
    System {
        /// Failed operation.
        operation: &'static str,
        /// Cause.
        #[source]
        source: Errno,
    },
    /// A file operation failed.
    #[error("jail: cannot {operation}")]
    File {
        /// Failed operation.
        operation: &'static str,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// The system call filter could not be installed.
    #[error("jail: cannot install the system call filter")]
    Filter(#[from] seccompiler::Error),
    /// The system call filter could not be built.
    #[error("jail: cannot build the system call filter")]
    Rules(#[from] seccompiler::BackendError),
}

impl JailError {
    /// Returns the error number of the operating system, if there is one.
    fn number(&self) -> Option<i32> {
        match self {
            Self::System { source, .. } => Some(*source as i32),
            Self::File { source, .. } => source.raw_os_error(),
            Self::Usage | Self::Filter(_) | Self::Rules(_) => None,
        }
    }
}

impl Cell {
    /// Returns the helper's arguments after its name.
    pub fn to_args(&self) -> [std::ffi::OsString; 5] {
        let threads = self.threads.to_string();
        [
            self.engine.clone().into(),
            self.model.clone().into(),
            self.model_id.clone().into(),
            threads.into(),
            GPUS[usize::from(!self.gpus)].into(),
        ]
    }

    /// Parses the arguments that [`Cell::to_args`] returns.
    pub fn from_args(
        mut args: impl Iterator<Item = std::ffi::OsString>,
    ) -> Result<Self, JailError> {
        let mut next = || args.next().ok_or(JailError::Usage);
        let (engine, model, model_id, threads) = (next()?, next()?, next()?, next()?);
        let gpus = next()?;
        let text = |value: std::ffi::OsString| value.into_string().map_err(|_| JailError::Usage);
        Ok(Self {
            engine: engine.into(),
            model: model.into(),
            model_id: text(model_id)?,
            threads: text(threads)?.parse().map_err(|_| JailError::Usage)?,
            gpus: match GPUS.iter().position(|word| gpus == *word) {
                Some(place) => place == 0,
                None => return Err(JailError::Usage),
            },
        })
    }
}

/// Runs the outer helper: creates the namespaces, starts the inner helper, and returns its exit status.
pub fn outer(cell: &Cell) -> Result<i32, JailError> {
    let flags = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS;
    unshare(flags).map_err(|source| JailError::System {
        operation: "unshare namespaces",
        source,
    })?;
    // The child is PID 1 of the new PID namespace: when it ends, the kernel kills everything inside.
    let status = Command::new("/proc/self/exe")
        .arg(INNER)
        .args(cell.to_args())
        .env_clear()
        .stdin(Stdio::inherit())
        .status()
        .map_err(|source| JailError::File {
            operation: "start the cell",
            source,
        })?;
    Ok(status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0)))
}

/// Runs the inner helper, which becomes the engine. Returns only on failure, after reporting it to the agent on the engine's
/// socket.
pub fn inner(cell: &Cell) -> JailError {
    let error = match cell::enter(cell) {
        Ok(never) => match never {},
        Err(error) => error,
    };
    tell(&error);
    error
}

fn tell(error: &JailError) {
    let failure = StartFailure {
        step: StartStep::Jail,
        driver: None,
        system: error.number(),
    };
    let Ok(frame) = encode(&FromEngine::Unable(failure), MAX_FROM_ENGINE) else {
        return;
    };
    // The socket starts as descriptor 0 and moves to ENGINE_FD. The other number is closed or /dev/null.
    for socket in [ENGINE_FD, 0] {
        if sys::write(socket, &frame).is_ok_and(|written| written > 0) {
            return;
        }
    }
}
