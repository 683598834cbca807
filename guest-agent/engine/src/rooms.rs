//! Scrubbing of GPU memory between generations: the memory is scrubbed when the last generation has ended, and none begins
//! meanwhile.
//!
//! Depends on neither a GPU nor the library, so it can be tested without them.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use cocoon_protocol::engine::GpuCounts;
use tokio::sync::{OwnedRwLockReadGuard, RwLock, mpsc, watch};
use tokio::time::{sleep, timeout};

/// Longest wait for the library to drop a generation to which nobody listens. It notices after the token that it is computing.
pub const LINGER: Duration = Duration::from_secs(2);
/// Interval at which the library's progress is checked.
const LOOK: Duration = Duration::from_millis(1);

/// Memory in which generations leave data.
pub trait Scrub: Send + Sync + 'static {
    /// Overwrites the data that generations have left and reads the memory again. Called while nobody listens to any
    /// generation.
    ///
    /// # Errors
    /// Fails if data remained, or if that cannot be determined.
    fn scrub(self: &Arc<Self>) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// Returns the counters of operations on this memory.
    fn counts(&self) -> GpuCounts;
}

/// Keeps track of running generations. `R` is the type of the library's responses.
pub struct Rooms<M, R> {
    memory: Arc<M>,
    busy: Arc<RwLock<()>>,
    gone: mpsc::UnboundedSender<mpsc::Receiver<R>>,
    linger: Duration,
}

/// A running generation, which ends when this is dropped.
pub struct Entered<R> {
    responses: Option<mpsc::Receiver<R>>,
    busy: Option<OwnedRwLockReadGuard<()>>,
    gone: mpsc::UnboundedSender<mpsc::Receiver<R>>,
}

impl<M: Scrub, R: Send + 'static> Rooms<M, R> {
    /// Sends the counters of `memory` to `told`, and drops the sender when they are no longer reliable. The library may take
    /// up to `linger` to drop a generation to which nobody listens; the appliance uses [`LINGER`].
    pub fn new(memory: Arc<M>, told: watch::Sender<GpuCounts>, linger: Duration) -> Self {
        let (gone, left) = mpsc::unbounded_channel();
        let busy = Arc::default();
        tokio::spawn(keep_clean(
            Arc::clone(&memory),
            Arc::clone(&busy),
            left,
            told,
            linger,
        ));
        Self {
            memory,
            busy,
            gone,
            linger,
        }
    }

    /// Registers a generation, once no scrub is running.
    pub async fn enter(&self, responses: mpsc::Receiver<R>) -> Entered<R> {
        Entered {
            busy: Some(Arc::clone(&self.busy).read_owned().await),
            responses: Some(responses),
            gone: self.gone.clone(),
        }
    }

    /// Waits for the last generations and scrubs what they have left. Called when no generation will start any more.
    pub async fn close(&self) {
        // A generation that takes longer ends with the process, whose memory the driver takes back.
        if timeout(self.linger, self.busy.write()).await.is_ok() {
            // A failure cannot be reported to anybody any more.
            let _ = self.memory.scrub().await;
        }
    }
}

impl<R> Entered<R> {
    /// Returns the next response, like the channel's `recv`.
    pub async fn recv(&mut self) -> Option<R> {
        match &mut self.responses {
            Some(responses) => responses.recv().await,
            None => None,
        }
    }
}

impl<R> Drop for Entered<R> {
    fn drop(&mut self) {
        // First, so that the memory is free once anybody learns that this generation has gone.
        drop(self.busy.take());
        if let Some(mut responses) = self.responses.take() {
            responses.close();
            // Fails only after a failed scrub, which ends the process.
            let _ = self.gone.send(responses);
        }
    }
}

async fn keep_clean<M: Scrub, R>(
    memory: Arc<M>,
    busy: Arc<RwLock<()>>,
    mut left: mpsc::UnboundedReceiver<mpsc::Receiver<R>>,
    told: watch::Sender<GpuCounts>,
    linger: Duration,
) {
    while let Some(first) = left.recv().await {
        let mut leaving = vec![first];
        while let Ok(next) = left.try_recv() {
            leaving.push(next);
        }
        told.send_replace(memory.counts());
        let ended = async {
            while leaving.iter().any(|one| one.sender_strong_count() > 0) {
                sleep(LOOK).await;
            }
        };
        // If the library takes longer, nobody reads what it still computes.
        let _ = timeout(linger, ended).await;
        // Another generation is running, and its end will be handled here too.
        let Ok(alone) = Arc::clone(&busy).try_write_owned() else {
            continue;
        };
        let scrubbed = memory.scrub().await;
        told.send_replace(memory.counts());
        drop(alone);
        if scrubbed.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
