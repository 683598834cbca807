//! For what collateral a guest asks: every new wish may make this host ask vendors, so that there are few of them.

use cocoon_protocol::bytes::Hex32;
use cocoon_protocol::gpu::CollateralRequest;

use super::gpus::guest;
use super::{Effect, News, State};

/// Different requests of one guest. Ours has two: for its GPUs, and then for its CPU and them.
const MOST: usize = 4;

/// Gets what a well-formed request asks for, unless the guest has asked for too much else; whoever repeats itself has
/// forgotten, or is asked by somebody who has.
pub(super) fn wished(mut state: State, request: CollateralRequest) -> (State, Vec<Effect>) {
    // Names and bytes only: serialisation cannot fail.
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
    // Said once: a note for each would be as many as it likes.
    if std::mem::replace(&mut guest.insatiable, true) {
        return (state, vec![]);
    }
    let note = format!(
        "the guest asks for endorsements of more than {MOST} things: no vendor is asked for the others"
    );
    (state, vec![Effect::Tell(News::Note(note))])
}
