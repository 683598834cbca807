//! Generations on a GPU come and go; its memory is scrubbed when the last one has gone, and nobody enters meanwhile.
//!
//! Knows neither GPU nor library, so that it is tested where there is none.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use cocoon_protocol::engine::GpuCounts;
use tokio::sync::{OwnedRwLockReadGuard, RwLock, mpsc, watch};
use tokio::time::{sleep, timeout};

/// How long the library may take to notice that nobody listens to a generation any more: it computes a token.
pub const LINGER: Duration = Duration::from_secs(2);
/// How often it is asked.
const LOOK: Duration = Duration::from_millis(1);

/// Memory in which generations leave something.
pub trait Scrub: Send + Sync + 'static {
    /// Overwrites what was left and reads it again. Nobody has a generation that is still listened to.
    ///
    /// # Errors
    /// Something was left, or nobody can say.
    fn scrub(self: &Arc<Self>) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// What was done to it until now.
    fn counts(&self) -> GpuCounts;
}

/// Who is in. `R` is what the library answers.
pub struct Rooms<M, R> {
    memory: Arc<M>,
    busy: Arc<RwLock<()>>,
    gone: mpsc::UnboundedSender<mpsc::Receiver<R>>,
    linger: Duration,
}

/// A generation that runs: dropped, it ends.
pub struct Entered<R> {
    responses: Option<mpsc::Receiver<R>>,
    busy: Option<OwnedRwLockReadGuard<()>>,
    gone: mpsc::UnboundedSender<mpsc::Receiver<R>>,
}

impl<M: Scrub, R: Send + 'static> Rooms<M, R> {
    /// Tells `told` what was done to `memory`, and drops it when that cannot be said any more. The library may take
    /// `linger` to let go of a generation that nobody listens to, [`LINGER`] in the appliance.
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

    /// A generation begins, once no scrub runs.
    pub async fn enter(&self, responses: mpsc::Receiver<R>) -> Entered<R> {
        Entered {
            busy: Some(Arc::clone(&self.busy).read_owned().await),
            responses: Some(responses),
            gone: self.gone.clone(),
        }
    }

    /// No generation is started any more: waits for the last ones and scrubs what they have left.
    pub async fn close(&self) {
        // Whoever does not go in time is cut off with the process; its memory goes to the driver.
        if timeout(self.linger, self.busy.write()).await.is_ok() {
            // There is nobody left to be told of a failure.
            let _ = self.memory.scrub().await;
        }
    }
}

impl<R> Entered<R> {
    /// The next response, as of a channel.
    pub async fn recv(&mut self) -> Option<R> {
        match &mut self.responses {
            Some(responses) => responses.recv().await,
            None => None,
        }
    }
}

impl<R> Drop for Entered<R> {
    fn drop(&mut self) {
        // First, so that whoever hears that this generation has gone finds its room empty.
        drop(self.busy.take());
        if let Some(mut responses) = self.responses.take() {
            responses.close();
            // Nobody cleans any more where that has failed: the process ends.
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
        // Should the library hold on to one for longer, nobody reads what it still computes.
        let _ = timeout(linger, ended).await;
        // Where a generation runs, its end comes here too.
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
