//! The engine's jail. The agent executes itself again for it, so that namespaces and filters are
//! set up in fresh single-threaded processes and no code runs between a fork and an exec.
//!
//! ```text
//! agent (PID 1) ── engine-jail: new PID, mount, network, IPC and UTS namespaces; waits
//!                     └─ engine-cell (PID 1 inside): empty root, uid 65534, limits, seccomp ─▶ engine
//! ```
//!
//! What is left to the engine: its own file, the model read-only, the kernel's random devices, the socket pair on
//! descriptor 3.

mod cell;
pub mod seccomp;

use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};

/// First argument of the outer helper.
pub const OUTER: &str = "engine-jail";
/// First argument of the inner helper.
pub const INNER: &str = "engine-cell";

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
}

/// Why there is no jail. Its text goes nowhere but to an exit status in the appliance, and to a
/// person's terminal in tests.
#[derive(Debug, thiserror::Error)]
pub enum JailError {
    /// The command line is not the agent's.
    #[error("usage: ENGINE MODEL-DIR MODEL-ID THREADS")]
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

impl Cell {
    /// Arguments behind the helper's name.
    pub fn to_args(&self) -> [std::ffi::OsString; 4] {
        let threads = self.threads.to_string();
        [
            self.engine.clone().into(),
            self.model.clone().into(),
            self.model_id.clone().into(),
            threads.into(),
        ]
    }

    /// The inverse.
    pub fn from_args(
        mut args: impl Iterator<Item = std::ffi::OsString>,
    ) -> Result<Self, JailError> {
        let mut next = || args.next().ok_or(JailError::Usage);
        let (engine, model, model_id, threads) = (next()?, next()?, next()?, next()?);
        let text = |value: std::ffi::OsString| value.into_string().map_err(|_| JailError::Usage);
        Ok(Self {
            engine: engine.into(),
            model: model.into(),
            model_id: text(model_id)?,
            threads: text(threads)?.parse().map_err(|_| JailError::Usage)?,
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

/// The inner helper: becomes the engine. Returns only on failure.
pub fn inner(cell: &Cell) -> JailError {
    match cell::enter(cell) {
        Ok(never) => match never {},
        Err(error) => error,
    }
}
