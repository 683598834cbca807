//! One guest's wishes, fulfilled as long as it lives: at once from what is kept, and again whenever there is newer.

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

/// The shortest pause between two looks, whatever a guest asks for.
const SHORTEST: Duration = Duration::from_secs(5);
/// The longest: another process may have fetched what this guest lacks.
const LONGEST: Duration = Duration::from_secs(15 * 60);

/// What is handed to the guest.
pub type Parts = (Option<Collateral>, Option<GpuCollateral>);

/// The keeper of this process: services from the file that `COCOON_SERVICES` names or the vendors' own, kept in the user's
/// cache. What is wrong with them is said in words.
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

/// What a guest has of it.
#[derive(Default)]
struct Handed {
    parts: Option<Parts>,
    /// The GPUs' part that was last whole, and for which GPUs.
    whole: Option<(Vec<GpuNeeds>, GpuCollateral)>,
}

impl Handed {
    /// What of this the guest is to be given, which has these GPUs.
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

/// Serves the newest of `wishes` until nobody wishes any more. `hand` gives parts to the guest, and says whether there still
/// is one; `tell` hears what is missing, and what is wrong with the place to keep it, whenever that changes. A guest that waits
/// has what is kept before anybody is asked for more: a vendor may take longer to answer than a guest waits. What the guest has
/// of NVIDIA's is replaced by what is whole and by nothing less: an answer that lapses and cannot be renewed is for clients to
/// judge, and leaves the guest what it had.
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
            // What is wrong with it is told below.
            if let Ok(Ok(mut kept)) = kept.await {
                // Less than all opens no gate, and more may come.
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
            // What cannot be removed costs its bytes, and is tried again.
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
            // It panicked, or the runtime ends.
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
                // A guest that asks again has forgotten, or is another one.
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
