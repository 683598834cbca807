//! The verifier that a running program uses, and its renewal: manifests expire and are replaced,
//! release floors rise, and appliances become known.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cocoon_measurements::verdict::Class;
use tokio::time::timeout;

use crate::address::Address;
use crate::attested::AttestedConnection;
use crate::moment::Moment;
use crate::verifier::Verifier;

/// Interval after which settings are read again before a request. A raised floor may go unnoticed
/// for so long.
pub(crate) const CALM: Duration = Duration::from_secs(10 * 60);
/// Shortest interval between readings caused by an appliance that was refused because of its
/// manifest.
pub(crate) const SOON: Duration = Duration::from_secs(60);
/// How long a request waits for a reading, which goes on in the background after that.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where settings are read from. Both methods block.
pub(crate) trait Source: Send + Sync {
    /// Reads the settings again. Returns the verifier that replaces `held`, or `None` if that stays
    /// in use.
    fn read(&self, held: &Verifier) -> Option<Verifier>;

    /// Takes note that an appliance was accepted.
    fn accepted(&self, appliance: &Address, class: Class);
}

/// The verifier in use.
pub(crate) struct Beliefs {
    verifier: Mutex<Verifier>,
    renewal: Option<Renewal>,
}

struct Renewal {
    source: Arc<dyn Source>,
    /// Time of the last reading; locked while a reading is in progress.
    read: tokio::sync::Mutex<Moment>,
}

impl Beliefs {
    /// Uses `verifier` for good.
    pub(crate) fn fixed(verifier: Verifier) -> Self {
        Self {
            verifier: Mutex::new(verifier),
            renewal: None,
        }
    }

    /// Uses `verifier`, which was just made from `source`, and renews it from there.
    pub(crate) fn renewed(verifier: Verifier, source: Arc<dyn Source>) -> Self {
        let read = tokio::sync::Mutex::new(Moment::now());
        Self {
            renewal: Some(Renewal { source, read }),
            ..Self::fixed(verifier)
        }
    }

    /// Returns the verifier in use, after reading the settings again if that is due.
    pub(crate) async fn current(self: &Arc<Self>) -> Verifier {
        // While another task reads, the old verifier stays in use.
        let due = |renewal: &Renewal| renewal.read.try_lock().is_ok_and(|at| at.age() >= CALM);
        if self.renewal.as_ref().is_some_and(due) {
            self.read(CALM).await;
        }
        self.held().clone()
    }

    /// Reads the settings again if the last reading was at least [`SOON`] ago. Returns the verifier
    /// in use if it is another one than `refusing`, under which an appliance was refused because of
    /// its manifest.
    pub(crate) async fn newer(self: &Arc<Self>, refusing: &Verifier) -> Option<Verifier> {
        self.read(SOON).await;
        let verifier = self.held().clone();
        (!verifier.is(refusing)).then_some(verifier)
    }

    /// Tells the source that an appliance was accepted.
    pub(crate) async fn accepted(&self, connection: &AttestedConnection) {
        let Some(renewal) = &self.renewal else {
            return;
        };
        let source = Arc::clone(&renewal.source);
        let (address, class) = (connection.address().clone(), connection.verdict().class);
        // The task is never cancelled and returns nothing, so its result can be ignored.
        let _ = tokio::task::spawn_blocking(move || source.accepted(&address, class)).await;
    }

    /// Reads the settings again unless that was done within `interval`. Waits for a reading that is
    /// already in progress.
    async fn read(self: &Arc<Self>, interval: Duration) {
        let this = Arc::clone(self);
        // A task of its own, so that the reading goes on if the request is cancelled.
        let reading = tokio::spawn(async move {
            let Some(renewal) = &this.renewal else {
                return;
            };
            let mut read = renewal.read.lock().await;
            if read.age() < interval {
                return;
            }
            *read = Moment::now();
            let (source, held) = (Arc::clone(&renewal.source), this.held().clone());
            let reading = tokio::task::spawn_blocking(move || source.read(&held));
            if let Ok(Some(verifier)) = reading.await {
                *this.held() = verifier;
            }
        });
        let _ = timeout(PATIENCE, reading).await;
    }

    fn held(&self) -> MutexGuard<'_, Verifier> {
        // No code panics while it holds the lock.
        self.verifier.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
