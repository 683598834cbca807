//! The engine's jail. The agent executes itself again for it, so that namespaces and filters are
//! set up in fresh single-threaded processes and no code runs between a fork and an exec.
//!
//! ```text
//! agent (PID 1) ── engine-jail: new PID, mount, network, IPC and UTS namespaces; waits
//!                     └─ engine-cell (PID 1 inside): empty root, uid 65534, limits, seccomp ─▶ engine
//! ```
//!
//! What is left to the engine: its own file, the model read-only, the kernel's random devices, the socket pair on
//! descriptor 3. With real GPUs it also gets what NVIDIA's library wants, in [`gpus`], and its file is one of a folder of
//! programs and libraries, the runtime volume.

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

/// User and group of the engine: nobody, who owns no file; its group may use the GPUs' device files.
pub(crate) const NOBODY: u32 = 65534;

/// What a helper is told on its command line, by the agent only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    /// The engine's file outside.
    pub engine: PathBuf,
    /// The model's folder outside.
    pub model: PathBuf,
    /// Identifier of the model.
    pub model_id: String,
    /// Threads to compute with.
    pub threads: usize,
    /// Whether it computes on GPUs: then its file is one of the runtime volume, and the whole folder is in its root.
    pub gpus: bool,
}

/// The last argument of an engine with GPUs, and without.
const GPUS: [&str; 2] = ["gpus", "no-gpus"];

/// Why there is no jail. Its text goes nowhere but to an exit status in the appliance, and to a
/// person's terminal in tests.
#[derive(Debug, thiserror::Error)]
pub enum JailError {
    /// The command line is not the agent's.
    #[error("usage: ENGINE MODEL-DIR MODEL-ID THREADS gpus|no-gpus")]
    Usage,
    /// A system call failed.
    #[error("jail: cannot {operation}")]
    System {
        /// What.
        operation: &'static str,
        /// Why.
        #[source]
        source: Errno,
    },
    /// A file operation failed.
    #[error("jail: cannot {operation}")]
    File {
        /// What.
        operation: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The filter does not compile or load.
    #[error("jail: cannot install the system call filter")]
    Filter(#[from] seccompiler::Error),
    /// The filter's rules are wrong.
    #[error("jail: cannot build the system call filter")]
    Rules(#[from] seccompiler::BackendError),
}

impl JailError {
    /// The system's number for the reason.
    fn number(&self) -> Option<i32> {
        match self {
            Self::System { source, .. } => Some(*source as i32),
            Self::File { source, .. } => source.raw_os_error(),
            Self::Usage | Self::Filter(_) | Self::Rules(_) => None,
        }
    }
}

impl Cell {
    /// Arguments behind the helper's name.
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

    /// The inverse.
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

/// The outer helper: namespaces, then the inner one, then waiting. Returns the exit status.
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
    // The next child is the first process of the new PID namespace: with it everything inside ends.
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

/// The inner helper: becomes the engine. Returns only on failure, of which it tells the agent in the engine's place.
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
    // The socket has come as 0 and is soon on its own number; on the other is nothing, or /dev/null.
    for socket in [ENGINE_FD, 0] {
        if sys::write(socket, &frame).is_ok_and(|written| written > 0) {
            return;
        }
    }
}
