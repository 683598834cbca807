//! Generations come and go; the memory is scrubbed when the last one has gone.

use std::sync::Arc;
use std::time::Duration;

use cocoon_protocol::engine::GpuCounts;
use mistralrs_core::Response;
use tokio::sync::{OwnedRwLockReadGuard, RwLock, mpsc, watch};
use tokio::time::{sleep, timeout};

use super::FromTable as _;
use super::memory::Memory;

/// How long the library may take to notice that nobody listens to a generation any more: it computes a token.
const LINGER: Duration = Duration::from_secs(2);
/// How often it is asked.
const LOOK: Duration = Duration::from_millis(1);

/// Who is in.
pub(super) struct Rooms {
    memory: Arc<Memory>,
    busy: Arc<RwLock<()>>,
    gone: mpsc::UnboundedSender<mpsc::Receiver<Response>>,
}

/// A generation that runs: dropped, it ends.
pub struct Entered {
    responses: Option<mpsc::Receiver<Response>>,
    busy: Option<OwnedRwLockReadGuard<()>>,
    gone: mpsc::UnboundedSender<mpsc::Receiver<Response>>,
}

impl Rooms {
    /// Tells `told` what was done to `memory`, and drops it when that cannot be said any more.
    pub fn new(memory: Arc<Memory>, told: watch::Sender<GpuCounts>) -> Self {
        let (gone, left) = mpsc::unbounded_channel();
        let busy = Arc::default();
        tokio::spawn(keep_clean(
            Arc::clone(&memory),
            Arc::clone(&busy),
            left,
            told,
        ));
        Self { memory, busy, gone }
    }

    pub async fn enter(&self, responses: mpsc::Receiver<Response>) -> Entered {
        Entered {
            busy: Some(Arc::clone(&self.busy).read_owned().await),
            responses: Some(responses),
            gone: self.gone.clone(),
        }
    }

    pub async fn close(&self) {
        // Whoever does not go in time is cut off with the process; its memory goes to the driver.
        if timeout(LINGER, self.busy.write()).await.is_ok() {
            // There is nobody left to be told of a failure.
            let _ = self.memory.scrub().await;
        }
    }
}

impl Entered {
    /// The next response, as of a channel.
    pub async fn recv(&mut self) -> Option<Response> {
        match &mut self.responses {
            Some(responses) => responses.recv().await,
            None => None,
        }
    }
}

impl Drop for Entered {
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

async fn keep_clean(
    memory: Arc<Memory>,
    busy: Arc<RwLock<()>>,
    mut left: mpsc::UnboundedReceiver<mpsc::Receiver<Response>>,
    told: watch::Sender<GpuCounts>,
) {
    while let Some(first) = left.recv().await {
        let mut leaving = vec![first];
        while let Ok(next) = left.try_recv() {
            leaving.push(next);
        }
        told.send_replace(GpuCounts::from_table());
        let ended = async {
            while leaving.iter().any(|one| one.sender_strong_count() > 0) {
                sleep(LOOK).await;
            }
        };
        // Should the library hold on to one for longer, nobody reads what it still computes.
        let _ = timeout(LINGER, ended).await;
        // Where a generation runs, its end comes here too.
        let Ok(alone) = Arc::clone(&busy).try_write_owned() else {
            continue;
        };
        let scrubbed = memory.scrub().await;
        told.send_replace(GpuCounts::from_table());
        drop(alone);
        if scrubbed.is_err() {
            return;
        }
    }
}
