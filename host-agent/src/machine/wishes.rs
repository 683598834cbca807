//! Limits on a guest's collateral requests: each distinct one may make the host ask vendors, so a guest gets few of them.

use cocoon_protocol::bytes::Hex32;
use cocoon_protocol::gpu::CollateralRequest;

use super::gpus::guest;
use super::{Effect, News, State};

/// Number of distinct requests that are served per guest. Cocoon's guest makes two: one for its GPUs, then one for its
/// CPU and GPUs.
const MOST: usize = 4;

/// Serves a well-formed collateral request unless the guest has used up its distinct requests. A repeated request is
/// always served, since it costs no further question to a vendor.
pub(super) fn wished(mut state: State, request: CollateralRequest) -> (State, Vec<Effect>) {
    // The request holds only strings and bytes, so serialisation cannot fail.
    let digest = Hex32::sha256(&serde_json::to_vec(&request).unwrap_or_default());
    let Some(guest) = guest(&mut state) else {
        return (state, vec![]);
    };
    if guest.wishes.contains(&digest) {
        return (state, vec![Effect::SeekCollateral(Box::new(request))]);
    }
    if guest.wishes.len() < MOST {
        guest.wishes.insert(digest);
        return (state, vec![Effect::SeekCollateral(Box::new(request))]);
    }
    // Noted once only: the guest could otherwise cause any number of notes.
    if std::mem::replace(&mut guest.insatiable, true) {
        return (state, vec![]);
    }
    let note = format!(
        "the guest asks for endorsements of more than {MOST} things: no vendor is asked for the others"
    );
    (state, vec![Effect::Tell(News::Note(note))])
}
