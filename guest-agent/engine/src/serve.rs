//! The frame loop between the agent's socket and a [`Backend`].
//!
//! Generations run as tasks; their events meet in one bounded queue in front of the socket. A full
//! queue holds back the tasks, never the backend, which keeps its own room for each answer.

use std::collections::HashMap;
use std::sync::Arc;

use cocoon_protocol::engine::{
    FromEngine, Generation, GpuCounts, MAX_FROM_ENGINE, MAX_TENSORS_IN_FRAME, MAX_TO_ENGINE,
    ToEngine,
};
use cocoon_protocol::frame::{Decoder, FrameError, encode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use zeroize::{Zeroize as _, Zeroizing};

use crate::answer::Answer;
use crate::backend::{Backend, Gpu};

/// Frames that may wait for the socket.
const QUEUE: usize = 256;

/// Why the loop ended. All are fatal to the process; the agent starts another.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The socket failed.
    #[error("cannot {operation} the agent's socket")]
    Socket {
        /// What was attempted.
        operation: &'static str,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// The agent sent something that is not a message of this release.
    #[error("the agent's frame cannot be read: agent and engine are of different releases")]
    Frame(#[from] FrameError),
    /// An identifier came twice.
    #[error("the agent reused the generation identifier {0}")]
    Reused(u64),
    /// What is left in the GPU's memory is unknown.
    #[error("the GPU's memory cannot be scrubbed any more, or was not clean after it")]
    Gpu,
}

/// Announces the GPU and the model, then serves until the agent closes the socket. No generation runs when it returns.
pub async fn serve<B: Backend>(socket: UnixStream, backend: Arc<B>) -> Result<(), ServeError> {
    let (mut reader, writer) = socket.into_split();
    let (frames, queue) = mpsc::channel(QUEUE);
    let mut tasks = JoinSet::new();
    tasks.spawn(write_frames(writer, queue));
    // A writer that has failed is noticed below.
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
                ended?;
                return Ok(());
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

/// What is told of a GPU before the engine is ready.
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
        // A writer that has failed is noticed by whoever waits for it.
        let _ = frames.send(frame).await;
    }
}

/// Tells the counts whenever they change, for as long as they can be told.
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
    tasks: HashMap<u64, JoinHandle<()>>,
}

impl<B: Backend> Running<B> {
    fn start(&mut self, id: u64, request: Generation) -> Result<(), ServeError> {
        self.tasks.retain(|_, task| !task.is_finished());
        if self.tasks.contains_key(&id) {
            return Err(ServeError::Reused(id));
        }
        let task = tokio::spawn(run(self.backend.clone(), id, request, self.frames.clone()));
        self.tasks.insert(id, task);
        Ok(())
    }

    fn cancel(&mut self, id: u64) {
        // Unknown identifiers are answers that ended while the cancellation was under way.
        if let Some(task) = self.tasks.remove(&id) {
            task.abort();
        }
    }
}

impl<B> Drop for Running<B> {
    fn drop(&mut self) {
        self.tasks.values().for_each(JoinHandle::abort);
    }
}

async fn run<B: Backend>(
    backend: Arc<B>,
    id: u64,
    request: Generation,
    frames: mpsc::Sender<FromEngine>,
) {
    let (events, mut received) = mpsc::channel(16);
    let mut answer = Answer::new(id, &request);
    let generation = backend.generate(request, events);
    let forward = async {
        while let Some(event) = received.recv().await {
            let (told, over) = answer.hear(event);
            for frame in told {
                if frames.send(frame).await.is_err() {
                    return;
                }
            }
            if over {
                return;
            }
        }
    };
    tokio::pin!(forward);
    tokio::select! {
        () = &mut forward => {}
        () = generation => forward.await,
    }
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
