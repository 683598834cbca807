//! The engine as a jailed process, and the wait for its first readiness.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use cocoon_protocol::control::GuestMessage;
use cocoon_protocol::engine::StartFailure;
use tokio::time::timeout;

use super::reaper::Children;
use crate::control::Control;
use crate::engine::Engine;
use crate::engine::supervisor::{Launched, Launcher};
use crate::jail::{Cell, OUTER};
use crate::model::{MODEL_DIR, VerifiedWeights};
use crate::runtime::Runtime;

/// The engine of an image without GPUs.
const ENGINE: &str = "/engine";
/// How long the first load may take. Emulated machines are slow.
const LOAD_DEADLINE: Duration = Duration::from_secs(1800);

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
pub(super) enum WorkerError {
    /// It says why.
    #[error("the engine cannot start: {0}")]
    Unable(StartFailure),
    /// It died before it was ready once, and had no time to say why.
    #[error(
        "the engine died while it loaded the model: it does not know this kind of model, its files are damaged, or the VM \
         has too little memory"
    )]
    Died,
    /// It takes too long.
    #[error("the engine did not load the model within {} s", LOAD_DEADLINE.as_secs())]
    Slow,
}

/// Starts engines over verified weights, and over nothing else.
pub(super) struct JailedEngine {
    cell: Cell,
    children: Children,
}

impl JailedEngine {
    pub fn new(weights: &VerifiedWeights, runtime: Option<&Runtime>, children: Children) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let model_id = weights.reference().id.clone();
        let cell = Cell {
            engine: runtime.map_or_else(|| ENGINE.into(), Runtime::engine),
            model: MODEL_DIR.into(),
            model_id,
            threads,
            gpus: runtime.is_some(),
        };
        Self { cell, children }
    }
}

impl Launcher for JailedEngine {
    fn launch(&mut self) -> io::Result<Launched> {
        // A program that its user may execute but not read cannot be dumped or traced by that user. One of the runtime
        // volume is so already.
        if !self.cell.gpus {
            fs::set_permissions(&self.cell.engine, Permissions::from_mode(0o511))?;
        }
        let (ours, theirs) = UnixStream::pair()?;
        let child = Command::new("/proc/self/exe")
            .arg(OUTER)
            .args(self.cell.to_args())
            .env_clear()
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Launched {
            stream: ours,
            process: self.children.adopt(child),
        })
    }
}

/// Waits for the first readiness, telling the host how far it is.
pub(super) async fn wait_until_ready(
    engine: &Engine,
    control: &Control,
) -> Result<(), WorkerError> {
    let mut state = engine.state();
    let loading = async {
        loop {
            let now = state.borrow_and_update().clone();
            if now.ready.is_some() {
                return Ok(());
            }
            if now.deaths > 0 {
                return Err(now.unable.map_or(WorkerError::Died, WorkerError::Unable));
            }
            let (done, total) = now.loading;
            if total > 0 {
                // Progress is dropped when the host does not read: it is the host's own loss.
                let _ = control.send(GuestMessage::Progress { done, total });
            }
            if state.changed().await.is_err() {
                return Err(WorkerError::Died);
            }
        }
    };
    timeout(LOAD_DEADLINE, loading)
        .await
        .map_err(|_| WorkerError::Slow)?
}
