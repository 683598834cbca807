//! The agent's end of the collector, the process that holds the GPUs (`cocoon-gpu`).
//!
//! One request at a time, each with a deadline. What comes is foreign input: a frame that is none, an answer to another
//! question or none in time ends the collector, and with it whatever rests on its GPUs.

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

/// How long each answer may take: the driver initialises several GPUs, or lets each sign a report.
pub const PATIENCE: Duration = Duration::from_secs(180);
/// How long the driver may take to list the GPUs before they are held.
pub const LISTING: Duration = nodes::PATIENCE;

/// Why there is no collector, or none any more.
#[derive(Debug, thiserror::Error)]
pub enum CollectorError {
    /// It cannot be started.
    #[error("cannot start the collector {path}")]
    Start {
        /// Its file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// There are no device files for it.
    #[error("cannot make the device files of the GPUs")]
    Nodes(#[source] io::Error),
    /// Its socket failed.
    #[error("cannot {0} the collector's socket")]
    Io(&'static str, #[source] io::Error),
    /// It is gone.
    #[error("the collector died")]
    Died,
    /// Nothing in time.
    #[error("the collector did not answer within {0:?}")]
    Silent(Duration),
    /// Not a frame.
    #[error("the collector broke its protocol")]
    Frame(#[source] FrameError),
    /// More in a frame than there may be.
    #[error("the collector broke its protocol")]
    Bounds(#[source] GpuError),
    /// A frame that has no place now.
    #[error("the collector broke its protocol: {0}")]
    Order(&'static str),
    /// There are no GPUs to hold, and why.
    #[error("no GPU can be held: {0}")]
    Nothing(String),
    /// A GPU that shows nothing, and why.
    #[error("GPU {gpu} shows no evidence: {why}")]
    Shown {
        /// Its place.
        gpu: usize,
        /// Why not.
        why: String,
    },
    /// A GPU that is gone, or never shows evidence as it is now, and why.
    #[error("GPU {gpu} shows no evidence: {why}")]
    Gone {
        /// Its place.
        gpu: usize,
        /// Why not.
        why: String,
    },
    /// The GPUs are not as they were told to be.
    #[error("the GPUs are not {wanted}: {why}")]
    Ready {
        /// What was wanted.
        wanted: &'static str,
        /// What they are.
        why: String,
    },
}

/// A collector whose GPUs are held. Dropping it lets go of them.
pub struct Collector {
    link: Mutex<Link>,
    driver_version: String,
    mode: Mode,
    gpus: Vec<Held>,
    happened: watch::Receiver<Happened>,
}

/// One question after the other.
struct Link {
    socket: UnixStream,
    answers: Receiver<Result<FromCollector, CollectorError>>,
    patience: Duration,
}

impl Collector {
    /// Starts the collector in `program` and has it hold every GPU. Blocks until it does.
    ///
    /// # Errors
    /// [`CollectorError`]; of a machine without driver or GPUs [`CollectorError::Nothing`].
    pub fn start(program: &Path) -> Result<Self, CollectorError> {
        let failed = |source| CollectorError::Start {
            path: program.to_owned(),
            source,
        };
        nodes::make().map_err(CollectorError::Nodes)?;
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        // Its end is the socket's, which is noticed there; PID 1 buries it with other orphans.
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

    /// The same with one that runs, over our end of its socket; `patience` bounds each answer.
    ///
    /// # Errors
    /// [`CollectorError`].
    pub fn over(socket: UnixStream, patience: Duration) -> Result<Self, CollectorError> {
        let reader = socket.try_clone();
        let reader = reader.map_err(|error| CollectorError::Io("copy", error))?;
        let (happened, heard) = watch::channel(Happened::Nothing);
        // One question, so one answer; a second one that nobody asked for ends it.
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

    /// The driver's version.
    pub fn driver_version(&self) -> &str {
        &self.driver_version
    }

    /// How confidential computing was when the GPUs were attached.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The GPUs, by their address: evidence comes in this order.
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

    /// Whoever lied once is not asked again.
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
            // The reader may know why. An answer that came too late for its own question is none to this one.
            return Err(match self.answers.try_recv() {
                Ok(Err(error)) => error,
                Ok(Ok(_)) | Err(_) => CollectorError::Died,
            });
        }
        match self.answers.recv_timeout(self.patience) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Disconnected) => Err(CollectorError::Died),
            Err(RecvTimeoutError::Timeout) => {
                // An answer that comes too late would be taken for the next one's.
                self.hang_up();
                Err(CollectorError::Silent(self.patience))
            }
        }
    }

    fn hang_up(&self) {
        // It may be gone already.
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

/// Reads until the end, which it tells everybody.
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
    // Before somebody who waits hears of it: nothing more comes from there.
    let _ = socket.shutdown(Shutdown::Both);
    // Nobody may be waiting.
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
                // Our side was dropped: the socket closes next.
                Err(TrySendError::Disconnected(_)) => return Err(CollectorError::Died),
            },
        }
    }
    Ok(())
}

/// What has happened after one more event. An end stays one.
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
