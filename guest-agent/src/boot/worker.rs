//! Starts the engine as a jailed process and waits until it is ready for the first time.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use cocoon_protocol::control::{GuestMessage, LONGEST_SILENCE};
use cocoon_protocol::engine::StartFailure;
use tokio::time::{interval, timeout};

use super::reaper::Children;
use crate::control::Control;
use crate::engine::Engine;
use crate::engine::link::LOADING;
use crate::engine::supervisor::{Launched, Launcher};
use crate::jail::{Cell, OUTER};
use crate::model::{MODEL_DIR, VerifiedWeights};
use crate::runtime::Runtime;

/// Engine executable of an image without GPUs.
const ENGINE: &str = "/engine";
/// How long the first load of the model may take. Emulated machines are slow.
const LOAD_DEADLINE: Duration = Duration::from_secs(1800);
/// Interval of the progress messages that tell the host that the engine is still loading.
const SIGN: Duration = Duration::from_secs(60);
/// Ensures that neither the host nor the engine's link gives up before these times.
const _: () = assert!(
    SIGN.as_secs() < LONGEST_SILENCE.as_secs() && LOAD_DEADLINE.as_secs() < LOADING.as_secs()
);

/// Why no engine became ready.
#[derive(Debug, thiserror::Error)]
pub(super) enum WorkerError {
    /// The engine cannot start, and reported the reason.
    #[error("the engine cannot start: {0}")]
    Unable(StartFailure),
    /// The engine died before it was ready for the first time, without reporting a reason.
    #[error(
        "the engine died while it loaded the model: it does not know this kind of model, its files are damaged, or the VM \
         has too little memory"
    )]
    Died,
    /// The engine did not load the model in time.
    #[error("the engine did not load the model within {} s", LOAD_DEADLINE.as_secs())]
    Slow,
}

/// Starts jailed engines over verified weights only.
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
        // A user who may execute a program but not read it cannot dump or trace it. Programs of the runtime volume already
        // have these permissions.
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

/// Waits until the engine is ready for the first time and meanwhile sends the host signs of life. They carry no numbers,
/// because the engine's library does not report its progress.
pub(super) async fn wait_until_ready(
    engine: &Engine,
    control: &Control,
) -> Result<(), WorkerError> {
    let mut state = engine.state();
    let mut sign = interval(SIGN);
    let loading = async {
        loop {
            let now = state.borrow_and_update().clone();
            if now.ready.is_some() {
                return Ok(());
            }
            if now.deaths > 0 {
                return Err(now.unable.map_or(WorkerError::Died, WorkerError::Unable));
            }
            tokio::select! {
                changed = state.changed() => changed.map_err(|_| WorkerError::Died)?,
                _ = sign.tick() => {
                    // Dropped when the host does not read; only its own operator suffers.
                    let _ = control.send(GuestMessage::Progress { done: 0, total: 0 });
                }
            }
        }
    };
    timeout(LOAD_DEADLINE, loading)
        .await
        .map_err(|_| WorkerError::Slow)?
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::thread::JoinHandle;

    use cocoon_protocol::control::MAX_GUEST_MESSAGE;
    use cocoon_protocol::engine::{Costs, FromEngine, MAX_FROM_ENGINE, ModelInfo};
    use cocoon_protocol::frame::{self, Decoder};
    use tokio::io::AsyncWriteExt as _;
    use tokio::runtime::Handle;
    use tokio::time::{Instant, sleep};

    use super::*;
    use crate::engine::supervisor::{self, Process};

    /// Starts engines that send nothing for the given time and then report that they are ready.
    struct Silent(Duration);

    struct Nothing;

    impl Process for Nothing {
        fn end(&mut self) {}
    }

    impl Launcher for Silent {
        fn launch(&mut self) -> io::Result<Launched> {
            let (stream, theirs) = UnixStream::pair()?;
            theirs.set_nonblocking(true)?;
            let ready = FromEngine::Ready(ModelInfo {
                id: "m".into(),
                context_length: 1000,
                quantization: "F32".into(),
                vocabulary: 10,
                costs: Costs::default(),
            });
            let (takes, frame) = (self.0, frame::encode(&ready, MAX_FROM_ENGINE).unwrap());
            Handle::current().spawn(async move {
                let mut socket = tokio::net::UnixStream::from_std(theirs).unwrap();
                sleep(takes).await;
                socket.write_all(&frame).await.unwrap();
                // Keeps the socket open until the test ends.
                std::future::pending::<()>().await;
            });
            Ok(Launched {
                stream,
                process: Box::new(Nothing),
            })
        }
    }

    /// Plays a host that reads every message. Returns the number of signs of life once the channel closes.
    fn listen(mut host: UnixStream) -> JoinHandle<u64> {
        std::thread::spawn(move || {
            let (mut decoder, mut chunk, mut signs) =
                (Decoder::new(MAX_GUEST_MESSAGE), [0; 4096], 0);
            while let Ok(count @ 1..) = host.read(&mut chunk) {
                decoder.push(&chunk[..count]);
                while let Some(message) = decoder.next::<GuestMessage>().unwrap() {
                    assert_eq!(message, GuestMessage::Progress { done: 0, total: 0 });
                    signs += 1;
                }
            }
            signs
        })
    }

    /// Waits for an engine that takes `takes` to load. Returns the outcome, the time it took, and the number of signs of
    /// life that the host received.
    async fn waited(takes: Duration) -> (Result<(), WorkerError>, Duration, u64) {
        let (ours, host) = UnixStream::pair().unwrap();
        let (heard, closing) = (listen(host), ours.try_clone().unwrap());
        let control = Control::start(ours.try_clone().unwrap(), ours);
        let engine = supervisor::start(Silent(takes), "m".into(), 1);
        let began = Instant::now();
        let outcome = wait_until_ready(&engine, &control).await;
        let after = began.elapsed();
        control.flush(Duration::from_secs(60));
        closing.shutdown(std::net::Shutdown::Both).unwrap();
        (outcome, after, heard.join().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_load_may_take_as_long_as_is_promised_and_the_host_hears_of_it_in_time() {
        let slow = LOAD_DEADLINE - Duration::from_secs(1);
        let (outcome, after, signs) = waited(slow).await;
        assert!(outcome.is_ok() && after >= slow, "{outcome:?} {after:?}");
        // One sign of life at once, and one per interval.
        assert_eq!(signs, 1 + slow.as_secs() / SIGN.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_load_that_takes_longer_ends_the_boot() {
        let (outcome, after, _) = waited(LOADING).await;
        assert_eq!(
            outcome.unwrap_err().to_string(),
            "the engine did not load the model within 1800 s"
        );
        assert!(after >= LOAD_DEADLINE, "{after:?}");
    }
}
