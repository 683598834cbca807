//! Serves the agent's socket: one answer to each request, in order, and events as they occur.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use cocoon_protocol::frame::{self, Decoder, FrameError};
use cocoon_protocol::gpu::collector::{
    COLLECTOR_VERSION, FromCollector, MAX_FROM_COLLECTOR, MAX_TO_COLLECTOR, ReadyState, ToCollector,
};

use crate::collector::{Collector, attach};
use crate::driver::{Driver, Fault};

/// Reason why the collector ended although the agent did not close the socket.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// An operation on the socket failed.
    #[error("cannot {0} the agent's socket")]
    Io(&'static str, #[source] io::Error),
    /// The agent sent something that is not a frame of the protocol.
    #[error("the agent broke its protocol")]
    Frame(#[source] FrameError),
    /// The request is not allowed at this point.
    #[error("the agent broke its protocol: {0}")]
    Order(&'static str),
    /// The agent is of another release.
    #[error(
        "the agent speaks version {0} of its protocol, this collector speaks {COLLECTOR_VERSION}"
    )]
    Version(u16),
}

/// Writing half of the socket, shared by answers and events.
#[derive(Clone)]
struct Writer(Arc<Mutex<UnixStream>>);

impl Writer {
    fn send(&self, message: &FromCollector) -> Result<(), ServeError> {
        let bytes = frame::encode(message, MAX_FROM_COLLECTOR).map_err(ServeError::Frame)?;
        let mut socket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let written = socket.write_all(&bytes);
        written.map_err(|error| ServeError::Io("write", error))
    }
}

/// Serves until the agent closes its end. `load` returns the driver, whose device files are in `devices`.
///
/// # Errors
/// [`ServeError`]. A missing driver or GPU is not an error.
pub fn serve<D: Driver>(
    mut socket: UnixStream,
    load: impl FnOnce() -> Result<D, Fault>,
    devices: &Path,
) -> Result<(), ServeError> {
    let writer = socket.try_clone();
    let writer = writer.map_err(|error| ServeError::Io("copy", error))?;
    let writer = Writer(Arc::new(Mutex::new(writer)));
    let mut decoder = Decoder::new(MAX_TO_COLLECTOR);
    let mut next = || -> Result<Option<ToCollector>, ServeError> {
        let mut chunk = [0; 1024];
        loop {
            if let Some(message) = decoder.next().map_err(ServeError::Frame)? {
                return Ok(Some(message));
            }
            match socket.read(&mut chunk) {
                Ok(0) => return Ok(None),
                Ok(count) => decoder.push(&chunk[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ServeError::Io("read", error)),
            }
        }
    };
    match next()? {
        None => return Ok(()),
        Some(ToCollector::Attach { version }) if version == COLLECTOR_VERSION => {}
        Some(ToCollector::Attach { version }) => return Err(ServeError::Version(version)),
        Some(_) => return Err(ServeError::Order("it asks before it attaches")),
    }
    let (found, collector) = attach(load, devices);
    writer.send(&FromCollector::Attached {
        version: COLLECTOR_VERSION,
        found,
    })?;
    let collector = collector.map(Arc::new);
    if let Some(collector) = &collector {
        listen(Arc::clone(collector), writer.clone());
    }
    while let Some(request) = next()? {
        writer.send(&match request {
            ToCollector::Attach { .. } => return Err(ServeError::Order("it attaches twice")),
            ToCollector::Evidence { nonce } => FromCollector::Evidence {
                nonce,
                gpus: collector
                    .as_ref()
                    .map(|collector| collector.evidence(&nonce))
                    .unwrap_or_default(),
            },
            ToCollector::SetReady { ready } => FromCollector::Ready {
                state: collector
                    .as_ref()
                    .map_or(ReadyState::Unsupported, |collector| {
                        collector.set_ready(ready)
                    }),
            },
            ToCollector::Metrics => FromCollector::Metrics {
                gpus: collector
                    .as_ref()
                    .map(|collector| collector.metrics())
                    .unwrap_or_default(),
            },
        })?;
    }
    Ok(())
}

/// Sends events from a thread of its own, which ends with the process.
fn listen<D: Driver>(collector: Arc<Collector<D>>, writer: Writer) {
    std::thread::spawn(move || {
        let mut tell = |event| writer.send(&FromCollector::Event(event)).is_ok();
        collector.listen(&mut std::thread::sleep, &mut tell);
    });
}
