//! Supplies one guest with collateral as long as it lives: at once from the store, and again whenever there is newer.

use std::sync::Arc;
use std::time::Duration;

use cocoon_protocol::document::Collateral;
use cocoon_protocol::gpu::{CollateralRequest, GpuCollateral, GpuNeeds};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::http::Client;
use super::keeper::{Gathered, Keeper, clock};
use super::services::Services;
use super::store::Store;

/// Minimum pause between two lookups, whatever a guest requests.
const SHORTEST: Duration = Duration::from_secs(5);
/// Maximum pause: another process may have fetched what this guest lacks.
const LONGEST: Duration = Duration::from_secs(15 * 60);

/// Collateral for the guest: the CPU vendor's part and the GPUs' part.
pub type Parts = (Option<Collateral>, Option<GpuCollateral>);

/// Returns the keeper of this process. The services are those of the file that `COCOON_SERVICES` names, or the vendors' own;
/// the store is in the user's cache. An error is a sentence for the operator.
pub fn keeper() -> Result<Keeper, String> {
    let services = match std::env::var_os("COCOON_SERVICES") {
        Some(path) => Services::read(path.as_ref()).map_err(|error| crate::text::chain(&error))?,
        None => Services::default(),
    };
    let store = Store::default_root()
        .and_then(|root| Store::open(&root))
        .map_err(|error| crate::text::chain(&error))?;
    Ok(Keeper::new(
        store,
        services,
        Client::default(),
        Default::default(),
    ))
}

/// What the guest has been given.
#[derive(Default)]
struct Handed {
    parts: Option<Parts>,
    /// The last complete collateral of GPUs, and the GPUs that it is for.
    whole: Option<(Vec<GpuNeeds>, GpuCollateral)>,
}

impl Handed {
    /// Returns what to give the guest now, if anything. `gpus` are the guest's GPUs.
    fn next(&mut self, gathered: &Gathered, gpus: &[GpuNeeds]) -> Option<Parts> {
        let before = self.parts.as_ref().and_then(|(_, gpu)| gpu.clone());
        let gpu = match (&gathered.gpu, &self.whole) {
            (Some(gpu), _) if gathered.gpu_whole => {
                self.whole = Some((gpus.to_vec(), gpu.clone()));
                Some(gpu.clone())
            }
            (_, Some((of, last))) if of == gpus => Some(last.clone()),
            (gpu, _) => before.or(gpu.clone()),
        };
        let parts = (gathered.collateral.clone(), gpu);
        if self.parts.as_ref() == Some(&parts) || parts == (None, None) {
            return None;
        }
        self.parts = Some(parts.clone());
        Some(parts)
    }
}

/// Serves the newest request in `wishes` until its sender or the receiver of `hand` is dropped. `hand` passes collateral to the
/// guest; `tell` is called when what is missing, or what is wrong with the store, changes.
///
/// A new request is first answered from the store, because a vendor may take longer to answer than a guest waits. Complete
/// collateral of GPUs is replaced only by complete collateral. If a part expires and cannot be renewed, the guest keeps what
/// it has, and clients judge it.
pub async fn serve(
    keeper: Arc<Keeper>,
    mut wishes: watch::Receiver<Option<CollateralRequest>>,
    hand: mpsc::Sender<Parts>,
    mut tell: impl FnMut(&[(String, String)], Option<&str>),
) {
    let (mut handed, mut told) = (Handed::default(), None);
    loop {
        let wish = wishes.borrow_and_update().clone();
        let Some(request) = wish else {
            match wishes.changed().await {
                Ok(()) => continue,
                Err(_) => return,
            }
        };
        let gpus = request.gpus.clone();
        if handed.parts.is_none() {
            let (keeper, request) = (Arc::clone(&keeper), request.clone());
            let kept = tokio::task::spawn_blocking(move || keeper.kept(&request, clock()));
            // The next call of `gather` reports errors.
            if let Ok(Ok(mut kept)) = kept.await {
                // Incomplete collateral of GPUs does not let the guest serve, and the vendors may complete it.
                kept.gpu = kept.gpu.filter(|_| kept.gpu_whole);
                if let Some(parts) = handed.next(&kept, &gpus)
                    && hand.send(parts).await.is_err()
                {
                    return;
                }
            }
        }
        let asking = Arc::clone(&keeper);
        let gathered = tokio::task::spawn_blocking(move || {
            let gathered = asking.gather(&request, clock());
            // A file that cannot be removed only takes space; the next pruning tries again.
            let _ = asking.store.prune(clock());
            gathered
        })
        .await;
        let gathered = match gathered {
            Ok(Ok(gathered)) => gathered,
            Ok(Err(error)) => Gathered {
                missing: vec![("collateral".to_owned(), crate::text::chain(&error))],
                next: u64::MAX,
                ..Gathered::default()
            },
            // The task panicked, or the runtime is shutting down.
            Err(_) => return,
        };
        if let Some(parts) = handed.next(&gathered, &gpus)
            && hand.send(parts).await.is_err()
        {
            return;
        }
        let news = Some((gathered.missing, gathered.unkept));
        if told != news {
            told = news;
            if let Some((missing, unkept)) = &told {
                tell(missing, unkept.as_deref());
            }
        }
        let (looked, pause) = (Instant::now(), gathered.next.saturating_sub(clock()));
        let pause = Duration::from_secs(pause).clamp(SHORTEST, LONGEST);
        tokio::select! {
            changed = wishes.changed() => match changed {
                // A guest that requests again has lost what it had, or has restarted.
                Ok(()) => {
                    handed.parts = None;
                    sleep_until(looked + SHORTEST).await;
                }
                Err(_) => return,
            },
            () = sleep_until(looked + pause) => {}
        }
    }
}
