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

/// The GPUs' part that was last whole, and for which GPUs.
type Whole = Option<(Vec<GpuNeeds>, GpuCollateral)>;

/// Serves the newest of `wishes` until nobody wishes any more. `hand` gives parts to the guest, and says whether there still
/// is one; `tell` hears what is missing, and what is wrong with the place to keep it, whenever that changes. What the guest has
/// of NVIDIA's is replaced by what is whole and by nothing less: an answer that lapses and cannot be renewed is for clients to
/// judge, and leaves the guest what it had.
pub async fn serve(
    keeper: Arc<Keeper>,
    mut wishes: watch::Receiver<Option<CollateralRequest>>,
    hand: mpsc::Sender<Parts>,
    mut tell: impl FnMut(&[(String, String)], Option<&str>),
) {
    let (mut handed, mut told): (Option<Parts>, _) = (None, None);
    let mut whole: Whole = None;
    loop {
        let wish = wishes.borrow_and_update().clone();
        let Some(request) = wish else {
            match wishes.changed().await {
                Ok(()) => continue,
                Err(_) => return,
            }
        };
        let (asking, gpus) = (Arc::clone(&keeper), request.gpus.clone());
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
        let news = Some((gathered.missing, gathered.unkept));
        if told != news {
            told = news;
            if let Some((missing, unkept)) = &told {
                tell(missing, unkept.as_deref());
            }
        }
        let before = handed.as_ref().and_then(|(_, gpu)| gpu.clone());
        let gpu = match (gathered.gpu, &whole) {
            (Some(gpu), _) if gathered.gpu_whole => {
                whole = Some((gpus, gpu.clone()));
                Some(gpu)
            }
            (_, Some((of, last))) if *of == gpus => Some(last.clone()),
            (gpu, _) => before.or(gpu),
        };
        let parts = (gathered.collateral, gpu);
        if handed.as_ref() != Some(&parts) && parts != (None, None) {
            if hand.send(parts.clone()).await.is_err() {
                return;
            }
            handed = Some(parts);
        }
        let (looked, pause) = (Instant::now(), gathered.next.saturating_sub(clock()));
        let pause = Duration::from_secs(pause).clamp(SHORTEST, LONGEST);
        tokio::select! {
            changed = wishes.changed() => match changed {
                // A guest that asks again has forgotten, or is another one.
                Ok(()) => {
                    handed = None;
                    sleep_until(looked + SHORTEST).await;
                }
                Err(_) => return,
            },
            () = sleep_until(looked + pause) => {}
        }
    }
}
