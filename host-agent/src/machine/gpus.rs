//! Evidence requests for a guest's simulated GPUs: each request has its own number and is answered once.

use cocoon_protocol::bytes::Hex32;
use cocoon_protocol::gpu::CollectedGpu;

use super::{Effect, Failure, Guest, MAX_EVIDENCE_REQUESTS, State, fail};

/// Returns the configured guest of this state, if it has one.
pub(super) fn guest(state: &mut State) -> Option<&mut Guest> {
    match state {
        State::Booting(guest) | State::Serving(guest) | State::Draining(guest) => Some(guest),
        State::Starting | State::Measuring | State::Ended(_) => None,
    }
}

/// Handles the guest's request for evidence of its simulated GPUs.
pub(super) fn asked(mut state: State, id: u64, nonce: Hex32) -> (State, Vec<Effect>) {
    let doing = state.doing();
    let refused = match guest(&mut state) {
        Some(guest) if !guest.simulated => Some("asking for simulated GPUs from within a TEE"),
        Some(guest) if guest.gpu_requests.len() >= MAX_EVIDENCE_REQUESTS => {
            Some("too many requests for evidence of GPUs at once")
        }
        Some(guest) => (!guest.gpu_requests.insert(id))
            .then_some("two requests for evidence of GPUs with one number"),
        // Only a configured guest may ask.
        None => Some("asking for GPUs before or after its time"),
    };
    let Some(what) = refused else {
        return (state, vec![Effect::AskGpus(id, nonce)]);
    };
    let what = what.to_owned();
    fail(Failure::Protocol { state: doing, what })
}

/// Passes on the simulator's answer if its request is outstanding.
pub(super) fn answered(
    mut state: State,
    id: u64,
    result: Result<Vec<CollectedGpu>, String>,
) -> (State, Vec<Effect>) {
    let asked = guest(&mut state).is_some_and(|guest| guest.gpu_requests.remove(&id));
    let effects = match asked {
        true => vec![Effect::SendGpus(id, result)],
        false => vec![],
    };
    (state, effects)
}
