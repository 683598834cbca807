//! The agent's end of the connection to the collector (`cocoon-gpu`), the process that holds the GPUs.
//!
//! Requests go out one at a time, each with a deadline. Answers are untrusted input. A malformed frame, an answer to another
//! request, or a missed deadline ends the connection, and with it everything that relies on these GPUs.

use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use cocoon_protocol::bytes::Hex32;
use cocoon_protocol::frame::{self, Decoder, FrameError};
use cocoon_protocol::gpu::collector::{
    COLLECTOR_VERSION, FromCollector, GpuEvent, Held, MAX_FROM_COLLECTOR, MAX_TO_COLLECTOR, Mode,
    ReadyState, Shown, ToCollector,
};
use cocoon_protocol::gpu::{CollectedGpu, GpuError, GpuMetrics};
use tokio::sync::watch;

use super::{GpuSource, Happened, SourceError};
use crate::runtime::LIBRARIES;

mod nodes;
mod words;

use words::{AGAIN, OFF, failed, held, why_not};

/// How long each answer may take. The driver initialises several GPUs, or has each of them sign a report.
pub const PATIENCE: Duration = Duration::from_secs(180);
/// How long the driver may take to list the GPUs before the collector starts.
pub const LISTING: Duration = nodes::PATIENCE;

/// Why there is no collector, or why it failed.
#[derive(Debug, thiserror::Error)]
pub enum CollectorError {
    /// The collector's process cannot be started.
    #[error("cannot start the collector {path}")]
    Start {
        /// Path of the program.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The GPUs' device files cannot be created.
    #[error("cannot make the device files of the GPUs")]
    Nodes(#[source] io::Error),
    /// An operation on the collector's socket failed.
    #[error("cannot {0} the collector's socket")]
    Io(&'static str, #[source] io::Error),
    /// The collector closed its socket.
    #[error("the collector died")]
    Died,
    /// The collector missed the deadline of a request.
    #[error("the collector did not answer within {0:?}")]
    Silent(Duration),
    /// The collector sent a malformed frame.
    #[error("the collector broke its protocol")]
    Frame(#[source] FrameError),
    /// A frame of the collector exceeds the limits of its contents.
    #[error("the collector broke its protocol")]
    Bounds(#[source] GpuError),
    /// The collector sent an unexpected message.
    #[error("the collector broke its protocol: {0}")]
    Order(&'static str),
    /// The collector holds no GPU, for this reason.
    #[error("no GPU can be held: {0}")]
    Nothing(String),
    /// A GPU returned no evidence this time.
    #[error("GPU {gpu} shows no evidence: {why}")]
    Shown {
        /// Index of the GPU.
        gpu: usize,
        /// Reason.
        why: String,
    },
    /// A GPU is lost, or cannot give evidence in its present mode.
    #[error("GPU {gpu} shows no evidence: {why}")]
    Gone {
        /// Index of the GPU.
        gpu: usize,
        /// Reason.
        why: String,
    },
    /// The GPUs did not change to the requested ready state.
    #[error("the GPUs are not {wanted}: {why}")]
    Ready {
        /// Requested state.
        wanted: &'static str,
        /// Reason.
        why: String,
    },
}

/// Connection to a collector that holds the GPUs. Dropping it makes the collector release them.
pub struct Collector {
    link: Mutex<Link>,
    driver_version: String,
    mode: Mode,
    gpus: Vec<Held>,
    happened: watch::Receiver<Happened>,
}

/// Sends one request at a time and waits for its answer.
struct Link {
    socket: UnixStream,
    answers: Receiver<Result<FromCollector, CollectorError>>,
    patience: Duration,
}

impl Collector {
    /// Starts the collector `program` and waits until it holds every GPU.
    ///
    /// # Errors
    /// [`CollectorError`]; on a machine without driver or GPUs, [`CollectorError::Nothing`].
    pub fn start(program: &Path) -> Result<Self, CollectorError> {
        let failed = |source| CollectorError::Start {
            path: program.to_owned(),
            source,
        };
        nodes::make().map_err(CollectorError::Nodes)?;
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        // When the process ends, its socket closes, which the reader notices. PID 1 reaps the process with other orphans.
        let _child = Command::new(program)
            .env_clear()
            .env(LIBRARIES.0, LIBRARIES.1)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(failed)?;
        Self::over(ours, PATIENCE)
    }

    /// Attaches to a running collector over the agent's end of its socket. Each answer may take `patience`.
    ///
    /// # Errors
    /// [`CollectorError`].
    pub fn over(socket: UnixStream, patience: Duration) -> Result<Self, CollectorError> {
        let reader = socket.try_clone();
        let reader = reader.map_err(|error| CollectorError::Io("copy", error))?;
        let (happened, heard) = watch::channel(Happened::Nothing);
        // One request has one answer. A second answer that was not requested overflows the channel and ends the connection.
        let (answer, answers) = mpsc::sync_channel(1);
        thread::spawn(move || read(reader, &answer, &happened));
        let mut link = Link {
            socket,
            answers,
            patience,
        };
        let attach = ToCollector::Attach {
            version: COLLECTOR_VERSION,
        };
        let (driver_version, mode, gpus) = match link.ask(&attach)? {
            FromCollector::Attached { version, found } if version == COLLECTOR_VERSION => {
                held(found)?
            }
            FromCollector::Attached { .. } => {
                return Err(CollectorError::Order("it speaks another version"));
            }
            _ => return Err(CollectorError::Order("it does not say what it found")),
        };
        Ok(Self {
            link: Mutex::new(link),
            driver_version,
            mode,
            gpus,
            happened: heard,
        })
    }

    /// Returns the version of the driver.
    pub fn driver_version(&self) -> &str {
        &self.driver_version
    }

    /// Returns the confidential computing mode at the time when the GPUs were attached.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Returns the GPUs by address. Evidence has the same order.
    pub fn gpus(&self) -> &[Held] {
        &self.gpus
    }

    fn evidence(&self, nonce: &Hex32) -> Result<Vec<CollectedGpu>, CollectorError> {
        let (of, gpus) = match self.ask(&ToCollector::Evidence { nonce: *nonce })? {
            FromCollector::Evidence { nonce, gpus } => (nonce, gpus),
            _ => return Err(self.end("it answers another question")),
        };
        if of != *nonce || gpus.len() != self.gpus.len() {
            return Err(self.end("its evidence is for another nonce or of other GPUs"));
        }
        let shown = gpus.into_iter().enumerate();
        let taken = shown.map(|(gpu, shown)| match shown {
            Shown::Evidence(collected) => Ok(collected),
            Shown::Failed(failure) => Err(CollectorError::Shown {
                gpu,
                why: failed(failure),
            }),
            other @ (Shown::Off | Shown::Unsupported | Shown::Lost) => Err(CollectorError::Gone {
                gpu,
                why: why_not(&other),
            }),
        });
        taken.collect()
    }

    fn ready(&self, ready: bool) -> Result<(), CollectorError> {
        let state = match self.ask(&ToCollector::SetReady { ready })? {
            FromCollector::Ready { state } => state,
            _ => return Err(self.end("it answers another question")),
        };
        let (wanted, right) = match ready {
            true => ("ready", ReadyState::Ready),
            false => ("kept from work", ReadyState::NotReady),
        };
        if state == right {
            return Ok(());
        }
        let why = match state {
            ReadyState::Ready => format!("the driver was told, and says that they are: {AGAIN}"),
            ReadyState::NotReady => {
                format!("the driver was told, and says that they are not: {AGAIN}")
            }
            ReadyState::Unsupported => format!("there is no such state: {OFF}"),
            ReadyState::Failed(failure) => failed(failure),
        };
        Err(CollectorError::Ready { wanted, why })
    }

    fn used(&self) -> Result<Vec<GpuMetrics>, CollectorError> {
        match self.ask(&ToCollector::Metrics)? {
            FromCollector::Metrics { gpus } if gpus.len() == self.gpus.len() => Ok(gpus),
            FromCollector::Metrics { .. } => Err(self.end("it tells of other GPUs")),
            _ => Err(self.end("it answers another question")),
        }
    }

    fn ask(&self, request: &ToCollector) -> Result<FromCollector, CollectorError> {
        self.lock().ask(request)
    }

    /// Closes the connection, because a collector that broke the protocol is not asked again.
    fn end(&self, why: &'static str) -> CollectorError {
        self.lock().hang_up();
        CollectorError::Order(why)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Link {
    fn ask(&mut self, request: &ToCollector) -> Result<FromCollector, CollectorError> {
        let bytes = frame::encode(request, MAX_TO_COLLECTOR).map_err(CollectorError::Frame)?;
        if self.socket.write_all(&bytes).is_err() {
            // The reader may know the cause. A late answer to an earlier request must not count as the answer to this one.
            return Err(match self.answers.try_recv() {
                Ok(Err(error)) => error,
                Ok(Ok(_)) | Err(_) => CollectorError::Died,
            });
        }
        match self.answers.recv_timeout(self.patience) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Disconnected) => Err(CollectorError::Died),
            Err(RecvTimeoutError::Timeout) => {
                // A late answer could be taken for the answer to the next request.
                self.hang_up();
                Err(CollectorError::Silent(self.patience))
            }
        }
    }

    fn hang_up(&self) {
        // The collector may have closed its end already.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.lock().hang_up();
    }
}

impl GpuSource for Collector {
    fn collect(&self, nonce: &Hex32) -> Result<Vec<CollectedGpu>, SourceError> {
        self.evidence(nonce).map_err(words)
    }

    fn set_ready(&self, ready: bool) -> Result<(), SourceError> {
        self.ready(ready).map_err(words)
    }

    fn metrics(&self) -> Result<Vec<GpuMetrics>, SourceError> {
        self.used().map_err(words)
    }

    fn events(&self) -> watch::Receiver<Happened> {
        self.happened.clone()
    }
}

fn words(error: CollectorError) -> SourceError {
    let cause = std::error::Error::source(&error);
    let cause = cause.map(|cause| format!(": {cause}")).unwrap_or_default();
    let text = format!("{error}{cause}");
    match error {
        CollectorError::Gone { .. } => SourceError::Final(text),
        _ => SourceError::Failed(text),
    }
}

/// Reads until the connection ends, then reports the end to the watchers and to a waiting request.
fn read(
    mut socket: UnixStream,
    answers: &SyncSender<Result<FromCollector, CollectorError>>,
    happened: &watch::Sender<Happened>,
) {
    let mut decoder = Decoder::new(MAX_FROM_COLLECTOR);
    let mut chunk = vec![0; 64 * 1024];
    let end = loop {
        match drain(&mut decoder, answers, happened) {
            Ok(()) => {}
            Err(error) => break error,
        }
        match socket.read(&mut chunk) {
            Ok(0) => break CollectorError::Died,
            Ok(count) => decoder.push(&chunk[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                break CollectorError::Died;
            }
            Err(error) => break CollectorError::Io("read", error),
        }
    };
    happened.send_replace(Happened::Ended(match end {
        CollectorError::Died => "the process that holds the GPUs died",
        _ => "the process that holds the GPUs broke its protocol",
    }));
    // Closed before a waiting request learns of the end, so that no later request can succeed.
    let _ = socket.shutdown(Shutdown::Both);
    // There may be no waiting request.
    let _ = answers.try_send(Err(end));
}

fn drain(
    decoder: &mut Decoder,
    answers: &SyncSender<Result<FromCollector, CollectorError>>,
    happened: &watch::Sender<Happened>,
) -> Result<(), CollectorError> {
    while let Some(message) = decoder
        .next::<FromCollector>()
        .map_err(CollectorError::Frame)?
    {
        message.check().map_err(CollectorError::Bounds)?;
        match message {
            FromCollector::Event(event) => {
                happened.send_modify(|state| *state = after(*state, event))
            }
            answer => match answers.try_send(Ok(answer)) {
                Ok(()) => {}
                Err(TrySendError::Full(_)) => {
                    return Err(CollectorError::Order("it answers what nobody asked"));
                }
                // The agent dropped its end; its socket closes next.
                Err(TrySendError::Disconnected(_)) => return Err(CollectorError::Died),
            },
        }
    }
    Ok(())
}

/// Returns the state after one more event. An end is final.
fn after(state: Happened, event: GpuEvent) -> Happened {
    match (state, event) {
        (Happened::Ended(why), _) => Happened::Ended(why),
        (_, GpuEvent::Lost { .. }) => Happened::Ended("a GPU fell off the bus or needs a reset"),
        (Happened::Nothing, GpuEvent::Xid { .. } | GpuEvent::Deaf(_)) => Happened::Something(1),
        (Happened::Something(count), GpuEvent::Xid { .. } | GpuEvent::Deaf(_)) => {
            Happened::Something(count.saturating_add(1))
        }
    }
}

#[cfg(test)]
mod tests;
