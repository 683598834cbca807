//! What a program believes while it runs: manifests end and are renewed, floors rise, appliances come to be known.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cocoon_measurements::verdict::Class;
use tokio::time::timeout;

use crate::address::Address;
use crate::attested::AttestedConnection;
use crate::moment::Moment;
use crate::verifier::Verifier;

/// After how long everything is read again: so long a floor that was raised may go unnoticed.
pub(crate) const CALM: Duration = Duration::from_secs(10 * 60);
/// After how long it may be read again for the sake of an appliance whose manifest is another.
pub(crate) const SOON: Duration = Duration::from_secs(60);
/// How long a request waits for it; the reading goes on behind it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where beliefs come from. Both methods block.
pub(crate) trait Source: Send + Sync {
    /// What counts from now on in the place of `held`; nothing where that stays.
    fn read(&self, held: &Verifier) -> Option<Verifier>;

    /// An appliance was accepted.
    fn accepted(&self, appliance: &Address, class: Class);
}

/// What counts now.
pub(crate) struct Beliefs {
    verifier: Mutex<Verifier>,
    renewal: Option<Renewal>,
}

struct Renewal {
    source: Arc<dyn Source>,
    /// When it was read last; locked while it is.
    read: tokio::sync::Mutex<Moment>,
}

impl Beliefs {
    /// For good.
    pub(crate) fn fixed(verifier: Verifier) -> Self {
        Self {
            verifier: Mutex::new(verifier),
            renewal: None,
        }
    }

    /// Just read, and to be read again.
    pub(crate) fn renewed(verifier: Verifier, source: Arc<dyn Source>) -> Self {
        let read = tokio::sync::Mutex::new(Moment::now());
        Self {
            renewal: Some(Renewal { source, read }),
            ..Self::fixed(verifier)
        }
    }

    /// What counts, read again if that is due.
    pub(crate) async fn current(self: &Arc<Self>) -> Verifier {
        // While somebody reads, what there was counts.
        let due = |renewal: &Renewal| renewal.read.try_lock().is_ok_and(|at| at.age() >= CALM);
        if self.renewal.as_ref().is_some_and(due) {
            self.read(CALM).await;
        }
        self.held().clone()
    }

    /// What counts in the place of `refusing`, under which an appliance's manifest was refused; nothing where that is all.
    pub(crate) async fn newer(self: &Arc<Self>, refusing: &Verifier) -> Option<Verifier> {
        self.read(SOON).await;
        let verifier = self.held().clone();
        (!verifier.is(refusing)).then_some(verifier)
    }

    /// Tells the source of an appliance that was accepted.
    pub(crate) async fn accepted(&self, connection: &AttestedConnection) {
        let Some(renewal) = &self.renewal else {
            return;
        };
        let source = Arc::clone(&renewal.source);
        let (address, class) = (connection.address().clone(), connection.verdict().class);
        // It is cancelled by nobody, and has nothing to give back.
        let _ = tokio::task::spawn_blocking(move || source.accepted(&address, class)).await;
    }

    /// Reads everything again unless that was done within `interval`. Where somebody does it already, waits for them.
    async fn read(self: &Arc<Self>, interval: Duration) {
        let this = Arc::clone(self);
        // A task of its own, so that a request that is given up does not take the reading with it.
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
        // Nothing panics while it holds the lock.
        self.verifier.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
