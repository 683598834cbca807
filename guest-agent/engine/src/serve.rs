//! The frame loop between the agent's socket and a [`Backend`].
//!
//! Each generation runs as a task. The frames of all tasks meet in one bounded queue before the socket. A full queue delays
//! the tasks but not the backend, which has its own room for each answer. The last frame of a generation says that the backend
//! has let go of it; the agent starts no other generation in its place before.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use cocoon_protocol::engine::{
    EngineFailure, FromEngine, Generation, GpuCounts, MAX_FROM_ENGINE, MAX_TENSORS_IN_FRAME,
    MAX_TO_ENGINE, ToEngine,
};
use cocoon_protocol::frame::{Decoder, FrameError, encode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use zeroize::{Zeroize as _, Zeroizing};

use crate::answer::Answer;
use crate::backend::{Backend, Event, Gpu};

/// Most frames that wait for the socket.
const QUEUE: usize = 256;
/// Longest wait for the agent to read the last counters, when a failed scrub ends the engine.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Reason why the loop ended. All are fatal to the process, and the agent starts another.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// An operation on the socket failed.
    #[error("cannot {operation} the agent's socket")]
    Socket {
        /// Operation that failed.
        operation: &'static str,
        /// Error of the operating system.
        #[source]
        source: std::io::Error,
    },
    /// The agent sent a frame that is not a message of this release.
    #[error("the agent's frame cannot be read: agent and engine are of different releases")]
    Frame(#[from] FrameError),
    /// The agent used an identifier again while its generation was running.
    #[error("the agent reused the generation identifier {0}")]
    Reused(u64),
    /// It is unknown what is left in the GPU's memory.
    #[error("the GPU's memory cannot be scrubbed any more, or was not clean after it")]
    Gpu,
}

/// Announces the GPU and the model, then serves until the agent closes the socket. No generation runs any more when this
/// returns.
pub async fn serve<B: Backend>(socket: UnixStream, backend: Arc<B>) -> Result<(), ServeError> {
    let (mut reader, writer) = socket.into_split();
    let (frames, queue) = mpsc::channel(QUEUE);
    let mut tasks = JoinSet::new();
    tasks.spawn(write_frames(writer, queue));
    // If the writer fails, the loop below notices.
    if let Some(gpu) = backend.gpu() {
        announce(gpu, &frames).await;
        tasks.spawn(tell_counts(gpu.counts.clone(), frames.clone()));
    }
    let _ = frames.send(FromEngine::Ready(backend.info().clone())).await;

    let mut running = Running {
        backend,
        frames,
        tasks: HashMap::new(),
    };
    let mut decoder = Decoder::new(MAX_TO_ENGINE);
    let mut chunk = Zeroizing::new(vec![0; 64 * 1024]);
    loop {
        let read = tokio::select! {
            read = reader.read(&mut chunk) => read.map_err(|source| ServeError::Socket { operation: "read", source })?,
            Some(Ok(ended)) = tasks.join_next() => {
                if matches!(ended, Err(ServeError::Gpu)) {
                    // The frame with the last counters is at the end of the queue. Nobody can add frames any more, so the
                    // writer ends after it.
                    drop(running);
                    let _ = timeout(LAST_WORDS, tasks.join_next()).await;
                }
                return ended;
            }
        };
        if read == 0 {
            return Ok(());
        }
        decoder.push(&chunk[..read]);
        chunk[..read].zeroize();
        while let Some(message) = decoder.next()? {
            match message {
                ToEngine::Generate { id, request } => running.start(id, request)?,
                ToEngine::Cancel { id } => running.cancel(id),
            }
        }
    }
}

/// Sends the frames that announce a GPU before the engine is ready.
async fn announce(gpu: &Gpu, frames: &mpsc::Sender<FromEngine>) {
    let count = gpu.devices;
    let parts = gpu.weights.tensors.chunks(MAX_TENSORS_IN_FRAME);
    let made = gpu.weights.derived.chunks(MAX_TENSORS_IN_FRAME);
    let told = std::iter::once(FromEngine::Devices { count })
        .chain(parts.map(|part| FromEngine::Tensors {
            tensors: part.to_vec(),
        }))
        .chain(made.map(|part| FromEngine::Derived {
            tensors: part.to_vec(),
        }))
        .chain([
            FromEngine::Measured {
                root: gpu.weights.root,
                pool_bytes: gpu.weights.pool_bytes,
            },
            FromEngine::Gpu(*gpu.counts.borrow()),
        ]);
    for frame in told {
        // If the writer fails, the caller's loop notices.
        let _ = frames.send(frame).await;
    }
}

/// Sends the counters whenever they change, for as long as they are reliable.
async fn tell_counts(
    mut counts: watch::Receiver<GpuCounts>,
    frames: mpsc::Sender<FromEngine>,
) -> Result<(), ServeError> {
    loop {
        counts.changed().await.map_err(|_| ServeError::Gpu)?;
        let now = *counts.borrow_and_update();
        if frames.send(FromEngine::Gpu(now)).await.is_err() {
            return Ok(());
        }
    }
}

struct Running<B> {
    backend: Arc<B>,
    frames: mpsc::Sender<FromEngine>,
    tasks: HashMap<u64, Task>,
}

struct Task {
    handle: JoinHandle<()>,
    /// `None` once the generation was cancelled.
    cancel: Option<oneshot::Sender<()>>,
}

impl<B: Backend> Running<B> {
    fn start(&mut self, id: u64, request: Generation) -> Result<(), ServeError> {
        self.tasks.retain(|_, task| !task.handle.is_finished());
        if self.tasks.contains_key(&id) {
            return Err(ServeError::Reused(id));
        }
        let (cancel, cancelled) = oneshot::channel();
        let (backend, frames) = (Arc::clone(&self.backend), self.frames.clone());
        let task = Task {
            handle: tokio::spawn(run(backend, id, request, frames, cancelled)),
            cancel: Some(cancel),
        };
        self.tasks.insert(id, task);
        Ok(())
    }

    /// Ignores unknown identifiers: such answers ended while the cancellation was on its way.
    fn cancel(&mut self, id: u64) {
        let task = self.tasks.get_mut(&id);
        if let Some(cancel) = task.and_then(|task| task.cancel.take()) {
            // Fails if the task is already sending its last frame.
            let _ = cancel.send(());
        }
    }
}

impl<B> Drop for Running<B> {
    fn drop(&mut self) {
        self.tasks.values().for_each(|task| task.handle.abort());
    }
}

async fn run<B: Backend>(
    backend: Arc<B>,
    id: u64,
    request: Generation,
    frames: mpsc::Sender<FromEngine>,
    cancelled: oneshot::Receiver<()>,
) {
    let (events, received) = mpsc::channel(16);
    let answer = Answer::new(id, &request);
    let telling = tell(id, answer, received, &frames, cancelled);
    let ((), last) = tokio::join!(backend.generate(request, events), telling);
    // Sent only now, when nothing of the generation is computed any more. Fails if the agent has gone.
    let _ = frames.send(last).await;
}

/// Sends the frames of an answer, and returns the last one, which is to be sent once the backend has let go. Stops the backend
/// as soon as its events are no longer needed.
async fn tell(
    id: u64,
    mut answer: Answer,
    mut received: mpsc::Receiver<Event>,
    frames: &mpsc::Sender<FromEngine>,
    cancelled: oneshot::Receiver<()>,
) -> FromEngine {
    let telling = async {
        while let Some(event) = received.recv().await {
            let (mut told, over) = answer.hear(event);
            let last = if over { told.pop() } else { None };
            for frame in told {
                if frames.send(frame).await.is_err() {
                    break;
                }
            }
            if over {
                return last;
            }
        }
        None
    };
    let last = tokio::select! {
        biased;
        _ = cancelled => return FromEngine::Gone { id },
        last = telling => last,
    };
    // A backend that ends without a last event has failed.
    last.unwrap_or(FromEngine::Failed {
        id,
        reason: EngineFailure::Internal,
    })
}

async fn write_frames(
    mut socket: OwnedWriteHalf,
    mut queue: mpsc::Receiver<FromEngine>,
) -> Result<(), ServeError> {
    while let Some(message) = queue.recv().await {
        let bytes = Zeroizing::new(encode(&message, MAX_FROM_ENGINE)?);
        socket
            .write_all(&bytes)
            .await
            .map_err(|source| ServeError::Socket {
                operation: "write to",
                source,
            })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
