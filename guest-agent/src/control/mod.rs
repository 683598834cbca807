//! The guest's end of the control channel: one thread reads and checks messages, another one writes.
//!
//! The host is untrusted. Its messages are limited in length, parsed once, and accepted or refused by [`door::Door`]. A
//! refused message, a malformed frame, the end of the stream, and an I/O error are faults: the first one is kept and
//! reported to everything that waits. The host can never block the guest: the outbox is bounded, and messages are dropped
//! when it is full.

pub mod door;
pub mod port;

use std::io::{self, Read, Write};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use cocoon_protocol::bytes::{Hex32, Hex64};
use cocoon_protocol::control::{
    Configure, GuestMessage, HostMessage, MAX_GUEST_MESSAGE, MAX_HOST_MESSAGE, Phase,
};
use cocoon_protocol::document::{Collateral, Evidence};
use cocoon_protocol::frame::{self, Decoder, FrameError};
use cocoon_protocol::gpu::{CollectedGpu, GpuCollateral, GpuError};
use tokio::sync::watch;

use door::{Admitted, Door, Refused};

/// Messages that may be queued for a host that does not read.
const OUTBOX: usize = 256;

/// What went wrong on the control channel. Every variant is a fault of the host.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ControlError {
    /// The port could not be read or written.
    #[error("cannot {operation} the control channel")]
    Io {
        /// `read` or `write`.
        operation: &'static str,
        /// Cause.
        #[source]
        source: Arc<io::Error>,
    },
    /// The stream ended between two messages.
    #[error("the host closed the control channel")]
    Closed,
    /// The stream ended inside a message.
    #[error("the host closed the control channel in the middle of a message")]
    Truncated,
    /// The host sent a malformed frame or message.
    #[error("the host broke the control protocol")]
    Frame(#[source] Arc<FrameError>),
    /// A message exceeds the limits of its contents.
    #[error("the host broke the control protocol")]
    Bounds(#[source] GpuError),
    /// A message is not allowed in the current phase.
    #[error("the host broke the control protocol")]
    Refused(#[source] Refused),
    /// An awaited message did not arrive in time.
    #[error("the host sent no {awaited} within {seconds} s")]
    Silence {
        /// Name of the awaited message.
        awaited: &'static str,
        /// Deadline in seconds.
        seconds: u64,
    },
    /// The host does not read, and the outbox is full.
    #[error("the host does not read the control channel: {OUTBOX} messages are waiting")]
    Congested,
    /// The host's simulator returned no CPU evidence.
    #[error("the host has no simulated evidence: is its simulator running?")]
    NoEvidence,
    /// The host's simulator returned no GPU evidence.
    #[error("the host has no simulated evidence of GPUs: is its simulator running?")]
    NoGpus,
}

/// Handle to the control channel. Clones share the channel.
#[derive(Clone)]
pub struct Control {
    shared: Arc<Shared>,
    outbox: SyncSender<Outgoing>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    collateral: watch::Sender<Option<Collateral>>,
    gpu_collateral: watch::Sender<Option<GpuCollateral>>,
    drain: watch::Sender<bool>,
    fault: watch::Sender<Option<ControlError>>,
}

#[derive(Default)]
struct State {
    door: Door,
    configure: Option<Configure>,
    evidence: Option<Result<Evidence, String>>,
    gpus: Option<Result<Vec<CollectedGpu>, String>>,
    fault: Option<ControlError>,
}

enum Outgoing {
    Message(GuestMessage),
    Flush(SyncSender<()>),
}

impl Control {
    /// Takes both halves of the stream and starts the threads that own them.
    pub fn start(reader: impl Read + Send + 'static, writer: impl Write + Send + 'static) -> Self {
        let (outbox, waiting) = mpsc::sync_channel(OUTBOX);
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
            collateral: watch::Sender::new(None),
            gpu_collateral: watch::Sender::new(None),
            drain: watch::Sender::new(false),
            fault: watch::Sender::new(None),
        });
        let (listening, telling) = (Arc::clone(&shared), Arc::clone(&shared));
        thread::spawn(move || listening.fail(listening.read_all(reader)));
        thread::spawn(move || telling.write_all(writer, &waiting));
        Self { shared, outbox }
    }

    /// Enters a boot phase, which decides what the host may send.
    pub fn enter(&self, phase: Phase) {
        self.shared.lock().door.enter(phase);
    }

    /// Allows simulated evidence from the host, on a machine that is no TEE.
    pub fn allow_simulated_evidence(&self) {
        self.shared.lock().door.simulated = true;
    }

    /// Queues a message without waiting. Fails when the outbox is full, which matters only for messages that expect an
    /// answer.
    pub fn send(&self, message: GuestMessage) -> Result<(), ControlError> {
        self.outbox
            .try_send(Outgoing::Message(message))
            .map_err(|_| ControlError::Congested)
    }

    /// Waits until everything queued is written, at most for `deadline`.
    pub fn flush(&self, deadline: Duration) {
        let (done, written) = mpsc::sync_channel(1);
        if self.outbox.try_send(Outgoing::Flush(done)).is_ok() {
            // After the deadline the message is lost; only the host's operator suffers.
            let _ = written.recv_timeout(deadline);
        }
    }

    /// Waits for the host's configuration, at most for `deadline`.
    pub fn configure(&self, deadline: Duration) -> Result<Configure, ControlError> {
        self.wait("configuration", deadline, |state| state.configure.take())
    }

    /// Requests CPU evidence from the host's simulator. The caller must serialise requests.
    pub fn simulated_evidence(
        &self,
        report_data: &Hex64,
        deadline: Duration,
    ) -> Result<Evidence, ControlError> {
        let id = {
            let mut state = self.shared.lock();
            state.evidence = None;
            state.door.expect_evidence()
        };
        self.send(GuestMessage::EvidenceRequest {
            id,
            report_data: *report_data,
        })?;
        let answer = self.wait("evidence", deadline, |state| state.evidence.take());
        self.shared.lock().door.forget_evidence();
        // The host's error text is untrusted, so it is not repeated.
        answer?.map_err(|_| ControlError::NoEvidence)
    }

    /// Requests GPU evidence from the host's simulator. The caller must serialise requests.
    pub fn simulated_gpus(
        &self,
        nonce: &Hex32,
        deadline: Duration,
    ) -> Result<Vec<CollectedGpu>, ControlError> {
        let id = {
            let mut state = self.shared.lock();
            state.gpus = None;
            state.door.expect_gpus()
        };
        self.send(GuestMessage::GpuEvidenceRequest { id, nonce: *nonce })?;
        let answer = self.wait("evidence of GPUs", deadline, |state| state.gpus.take());
        self.shared.lock().door.forget_gpus();
        answer?.map_err(|_| ControlError::NoGpus)
    }

    /// Returns the latest collateral for the CPU.
    pub fn collateral(&self) -> watch::Receiver<Option<Collateral>> {
        self.shared.collateral.subscribe()
    }

    /// Returns the latest collateral for the GPUs, within its limits.
    pub fn gpu_collateral(&self) -> watch::Receiver<Option<GpuCollateral>> {
        self.shared.gpu_collateral.subscribe()
    }

    /// Returns a channel that becomes true when the host requests a drain.
    pub fn drain(&self) -> watch::Receiver<bool> {
        self.shared.drain.subscribe()
    }

    /// Returns a channel that becomes `Some` at the first fault.
    pub fn fault(&self) -> watch::Receiver<Option<ControlError>> {
        self.shared.fault.subscribe()
    }

    fn wait<T>(
        &self,
        awaited: &'static str,
        deadline: Duration,
        mut take: impl FnMut(&mut State) -> Option<T>,
    ) -> Result<T, ControlError> {
        let until = Instant::now() + deadline;
        let mut state = self.shared.lock();
        loop {
            if let Some(found) = take(&mut state) {
                return Ok(found);
            }
            if let Some(fault) = &state.fault {
                return Err(fault.clone());
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ControlError::Silence {
                    awaited,
                    seconds: deadline.as_secs(),
                });
            }
            let waited = self.shared.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Every critical section leaves the state consistent, so a poisoned lock is still usable.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_all(&self, mut reader: impl Read) -> ControlError {
        let mut decoder = Decoder::new(MAX_HOST_MESSAGE);
        let mut chunk = vec![0; 64 * 1024];
        loop {
            match reader.read(&mut chunk) {
                Ok(0) if decoder.is_mid_frame() => return ControlError::Truncated,
                Ok(0) => return ControlError::Closed,
                Ok(count) => decoder.push(&chunk[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    return ControlError::Io {
                        operation: "read",
                        source: Arc::new(error),
                    };
                }
            }
            loop {
                match decoder.next::<HostMessage>() {
                    Ok(Some(message)) => {
                        if let Err(error) = message.check() {
                            return ControlError::Bounds(error);
                        }
                        if let Err(refused) = self.admit(message) {
                            return ControlError::Refused(refused);
                        }
                    }
                    Ok(None) => break,
                    Err(error) => return ControlError::Frame(Arc::new(error)),
                }
            }
        }
    }

    fn admit(&self, message: HostMessage) -> Result<(), Refused> {
        let mut state = self.lock();
        match state.door.admit(message)? {
            Admitted::Configure(mut configure) => {
                self.collateral.send_replace(configure.collateral.take());
                state.configure = Some(configure);
            }
            Admitted::Evidence(result) => state.evidence = Some(result),
            Admitted::GpuEvidence(result) => state.gpus = Some(result),
            Admitted::Collateral(collateral, gpu) => {
                if collateral.is_some() {
                    self.collateral.send_replace(collateral);
                }
                if gpu.is_some() {
                    self.gpu_collateral.send_replace(gpu);
                }
            }
            Admitted::Drain => drop(self.drain.send_replace(true)),
            Admitted::Stale => {}
        }
        self.changed.notify_all();
        Ok(())
    }

    fn write_all(&self, mut writer: impl Write, waiting: &Receiver<Outgoing>) {
        for outgoing in waiting {
            let written = match outgoing {
                Outgoing::Message(message) => match frame::encode(&message, MAX_GUEST_MESSAGE) {
                    Ok(bytes) => writer.write_all(&bytes).and_then(|()| writer.flush()),
                    Err(error) => return self.fail(ControlError::Frame(Arc::new(error))),
                },
                Outgoing::Flush(done) => {
                    // The caller of `flush` may have given up.
                    let _ = done.send(());
                    Ok(())
                }
            };
            if let Err(error) = written {
                return self.fail(ControlError::Io {
                    operation: "write",
                    source: Arc::new(error),
                });
            }
        }
    }

    fn fail(&self, error: ControlError) {
        let mut state = self.lock();
        if state.fault.is_none() {
            state.fault = Some(error.clone());
            self.fault.send_replace(Some(error));
            self.changed.notify_all();
        }
    }
}
