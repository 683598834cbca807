//! The host's side of the control channel as a pure state machine: it reads no clock and owns no process or socket.
//!
//! ```text
//! Starting ─hello─▶ Measuring ─launched─▶ Booting ─serving─▶ Serving ─drain─▶ Draining
//!     │     (simulated only)   │             │                 │                │
//!     └──────────────┴─────────┴─────────────┴── failure, end ─┴────────────────┴──▶ Ended
//! ```
//!
//! Guest messages are hostile input: each is legal only in some states, the phases of a configured guest only move
//! forward, and requests for evidence and for collateral are bounded.

use std::collections::BTreeSet;

use cocoon_protocol::binding::Tee;
use cocoon_protocol::bytes::{Hex32, Hex64};
use cocoon_protocol::control::{CONTROL_VERSION, GUEST_PORT, GuestMessage, Phase};
use cocoon_protocol::document::Evidence;
use cocoon_protocol::gpu::MAX_GPUS;

use crate::text::plain;

mod gpus;
mod wishes;
mod words;

pub use words::{Effect, Event, News};

/// Number of evidence requests of one kind (CPU or GPU) that may be outstanding at once.
pub const MAX_EVIDENCE_REQUESTS: usize = 16;

/// State of a VM, as seen over the control channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// QEMU runs; the guest has sent nothing yet.
    Starting,
    /// The guest waits for its configuration while the simulator measures the VM.
    Measuring,
    /// The guest runs through its boot phases.
    Booting(Guest),
    /// The guest's listener is open.
    Serving(Guest),
    /// The guest accepts no new requests and powers off when the running ones are done.
    Draining(Guest),
    /// The VM has ended.
    Ended(Ending),
}

/// State of a configured guest.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Guest {
    /// The last phase that the guest began.
    pub phase: Option<Phase>,
    /// Whether its evidence comes from the simulator.
    pub simulated: bool,
    /// Numbers of the evidence requests that are not answered yet.
    pub requests: BTreeSet<u64>,
    /// Numbers of the requests for simulated GPU evidence that are not answered yet.
    pub gpu_requests: BTreeSet<u64>,
    /// Digests of the guest's collateral requests.
    pub wishes: BTreeSet<Hex32>,
    /// Whether the guest has made more distinct collateral requests than are served.
    pub insatiable: bool,
}

/// How a VM ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// The VM stopped on request.
    Stopped,
    /// The VM failed.
    Failed(Failure),
}

/// Why a VM ended without having been asked to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The guest reported that it failed.
    #[error("the guest failed in phase {}: {reason}", phase.name())]
    Guest {
        /// The phase that failed.
        phase: Phase,
        /// The guest's reason, reduced to plain text.
        reason: String,
    },
    /// The guest speaks another version of the control channel's protocol.
    #[error(
        "the guest speaks version {found} of the control channel, this host speaks {CONTROL_VERSION}: build the image with the same release"
    )]
    Version {
        /// Protocol version of the guest.
        found: u16,
    },
    /// The guest found no TEE, and no simulated one was requested.
    #[error(
        "the guest found no TEE: start it on TDX or SEV-SNP hardware, or add --simulate tdx or --simulate sev-snp"
    )]
    NoTee,
    /// The simulator could not launch the VM.
    #[error("the simulator cannot launch the VM: {0}")]
    Launch(String),
    /// The guest sent a message that its state does not allow, or bytes that are not a message.
    #[error("the guest broke the control channel's protocol while {state}: {what}")]
    Protocol {
        /// What the VM was doing, as [`State::doing`] names it.
        state: &'static str,
        /// The violation.
        what: String,
    },
    /// The guest sent nothing within the time that its state allows.
    #[error("the guest was silent for {seconds} seconds while {state}")]
    Silent {
        /// What the VM was doing, as [`State::doing`] names it.
        state: &'static str,
        /// Duration of the silence, in seconds.
        seconds: u64,
    },
    /// The guest closed the channel, or QEMU ended.
    #[error("the VM ended by itself while {0}")]
    Gone(&'static str),
}

impl State {
    /// Names the activity for messages such as "the guest was silent while …".
    #[must_use]
    pub fn doing(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Measuring => "being measured",
            Self::Booting(guest) => guest.phase.map_or("being configured", phase_doing),
            Self::Serving(_) => "serving",
            Self::Draining(_) => "draining",
            Self::Ended(_) => "ending",
        }
    }
}

fn phase_doing(phase: Phase) -> &'static str {
    match phase {
        Phase::Mounts => "in phase mounts",
        Phase::Modules => "in phase modules",
        Phase::Platform => "in phase platform",
        Phase::Configuration => "in phase configuration",
        Phase::Model => "in phase model",
        Phase::Keys => "in phase keys",
        Phase::Evidence => "in phase evidence",
        Phase::Engine => "in phase engine",
        Phase::Serving => "in phase serving",
    }
}

/// Returns the next state and the effects of `event`. `simulate` is the TEE to simulate if the guest finds none.
#[must_use]
pub fn next(state: State, event: Event, simulate: Option<Tee>) -> (State, Vec<Effect>) {
    let doing = state.doing();
    match (state, event) {
        // Events after the end have no effect.
        (State::Ended(ending), _) => (State::Ended(ending), vec![]),
        (State::Draining(_), Event::Gone) => end(Ending::Stopped),
        (_, Event::Gone) => fail(Failure::Gone(doing)),
        (_, Event::Garbage(what)) => fail(Failure::Protocol { state: doing, what }),
        (_, Event::Silence(seconds)) => fail(Failure::Silent {
            state: doing,
            seconds,
        }),
        (State::Measuring, Event::Launched(collateral)) => {
            let guest = Guest {
                simulated: true,
                ..Guest::default()
            };
            (
                State::Booting(guest),
                vec![Effect::Configure(Some(collateral))],
            )
        }
        (State::Measuring, Event::NotLaunched(why)) => fail(Failure::Launch(why)),
        // A guest that is not serving has no requests to finish.
        (State::Starting | State::Measuring | State::Booting(_), Event::Drain) => {
            end(Ending::Stopped)
        }
        (State::Serving(guest), Event::Drain) => (
            State::Draining(guest),
            vec![Effect::Close, Effect::SendDrain],
        ),
        (State::Booting(guest), Event::Evidence(id, result)) => {
            answered(guest, id, result, State::Booting)
        }
        (State::Serving(guest), Event::Evidence(id, result)) => {
            answered(guest, id, result, State::Serving)
        }
        (State::Draining(guest), Event::Evidence(id, result)) => {
            answered(guest, id, result, State::Draining)
        }
        (
            state @ (State::Booting(_) | State::Serving(_) | State::Draining(_)),
            Event::Gpus(id, result),
        ) => gpus::answered(state, id, result),
        (state, Event::Guest(message)) => heard(state, message, simulate),
        (state @ (State::Booting(_) | State::Serving(_)), Event::Collateral(collateral, gpu)) => {
            (state, vec![Effect::SendCollateral(collateral, gpu)])
        }
        // Late answers of the simulator and of vendors, and repeated drain requests, have no effect.
        (
            state,
            Event::Launched(_)
            | Event::NotLaunched(_)
            | Event::Evidence(..)
            | Event::Gpus(..)
            | Event::Collateral(..)
            | Event::Drain,
        ) => (state, vec![]),
    }
}

fn heard(state: State, message: GuestMessage, simulate: Option<Tee>) -> (State, Vec<Effect>) {
    let doing = state.doing();
    let illegal = |what: &str| {
        fail(Failure::Protocol {
            state: doing,
            what: what.to_owned(),
        })
    };
    match (state, message) {
        (_, GuestMessage::Failed { phase, reason }) => fail(Failure::Guest {
            phase,
            reason: plain(&reason, 400),
        }),
        (State::Starting, GuestMessage::Hello { version, tee }) => hello(version, tee, simulate),
        // The guest runs its first phases before the channel exists and reports them right after its hello.
        (State::Measuring, GuestMessage::Phase { phase, at_ms }) => (
            State::Measuring,
            vec![Effect::Tell(News::Phase(phase, at_ms))],
        ),
        (State::Booting(guest), GuestMessage::Phase { phase, at_ms }) => {
            if guest.phase.is_some_and(|last| last >= phase) {
                return illegal("a phase out of order");
            }
            let guest = Guest {
                phase: Some(phase),
                ..guest
            };
            (
                State::Booting(guest),
                vec![Effect::Tell(News::Phase(phase, at_ms))],
            )
        }
        (State::Booting(guest), GuestMessage::Progress { done, total }) => (
            State::Booting(guest),
            vec![Effect::Tell(News::Work(done, total))],
        ),
        (State::Booting(guest), GuestMessage::Serving { port, at_ms }) => {
            if port != GUEST_PORT {
                return illegal("serving on a port that is not forwarded");
            }
            (
                State::Serving(guest),
                vec![Effect::Tell(News::Serving(at_ms)), Effect::Open],
            )
        }
        (State::Booting(guest), GuestMessage::EvidenceRequest { id, report_data }) => {
            asked(guest, id, report_data, State::Booting, doing)
        }
        (State::Serving(guest), GuestMessage::EvidenceRequest { id, report_data }) => {
            asked(guest, id, report_data, State::Serving, doing)
        }
        (State::Draining(guest), GuestMessage::EvidenceRequest { id, report_data }) => {
            asked(guest, id, report_data, State::Draining, doing)
        }
        (
            state @ (State::Booting(_) | State::Serving(_) | State::Draining(_)),
            GuestMessage::GpuEvidenceRequest { id, nonce },
        ) => gpus::asked(state, id, nonce),
        (
            state @ (State::Booting(_) | State::Serving(_) | State::Draining(_)),
            GuestMessage::CollateralRequest(request),
        ) => match request.check() {
            Ok(()) => wishes::wished(state, request),
            Err(error) => illegal(&format!("a request for collateral that is none: {error}")),
        },
        (state @ (State::Serving(_) | State::Draining(_)), GuestMessage::Metrics(metrics)) => {
            (state, vec![Effect::Tell(News::Metrics(metrics))])
        }
        (state @ (State::Serving(_) | State::Draining(_)), GuestMessage::GpuMetrics { gpus }) => {
            match gpus.len() {
                ..=MAX_GPUS => (state, vec![Effect::Tell(News::Gpus(gpus))]),
                _ => illegal("telling of more GPUs than a machine has"),
            }
        }
        (
            state @ (State::Serving(_) | State::Draining(_)),
            GuestMessage::EngineRestarted { count },
        ) => (state, vec![Effect::Tell(News::EngineRestarted(count))]),
        (State::Draining(_), GuestMessage::Drained) => end(Ending::Stopped),
        (_, message) => illegal(kind(&message)),
    }
}

fn hello(version: u16, tee: Option<Tee>, simulate: Option<Tee>) -> (State, Vec<Effect>) {
    let told = Effect::Tell(News::Hello(tee));
    match (version, tee, simulate) {
        (CONTROL_VERSION, None, Some(imitated)) => {
            (State::Measuring, vec![told, Effect::Launch(imitated)])
        }
        (CONTROL_VERSION, None, None) => fail(Failure::NoTee),
        // In a TEE the guest takes its own evidence, even if simulation was requested.
        (CONTROL_VERSION, Some(_), _) => (
            State::Booting(Guest::default()),
            vec![told, Effect::Configure(None)],
        ),
        (found, ..) => fail(Failure::Version { found }),
    }
}

fn asked(
    mut guest: Guest,
    id: u64,
    report_data: Hex64,
    state: fn(Guest) -> State,
    doing: &'static str,
) -> (State, Vec<Effect>) {
    let illegal = |what: &str| {
        fail(Failure::Protocol {
            state: doing,
            what: what.to_owned(),
        })
    };
    if !guest.simulated {
        return illegal("asking for simulated evidence from within a TEE");
    }
    if guest.requests.len() >= MAX_EVIDENCE_REQUESTS {
        return illegal("too many requests for evidence at once");
    }
    if !guest.requests.insert(id) {
        return illegal("two requests for evidence with one number");
    }
    (state(guest), vec![Effect::AskEvidence(id, report_data)])
}

fn answered(
    mut guest: Guest,
    id: u64,
    result: Result<Evidence, String>,
    state: fn(Guest) -> State,
) -> (State, Vec<Effect>) {
    let effects = if guest.requests.remove(&id) {
        vec![Effect::SendEvidence(id, result)]
    } else {
        vec![]
    };
    (state(guest), effects)
}

fn end(ending: Ending) -> (State, Vec<Effect>) {
    (State::Ended(ending), vec![Effect::Close, Effect::Stop])
}

fn fail(failure: Failure) -> (State, Vec<Effect>) {
    end(Ending::Failed(failure))
}

fn kind(message: &GuestMessage) -> &'static str {
    match message {
        GuestMessage::Hello { .. } => "an unexpected `hello`",
        GuestMessage::Phase { .. } => "an unexpected `phase`",
        GuestMessage::EvidenceRequest { .. } => "an unexpected `evidence-request`",
        GuestMessage::GpuEvidenceRequest { .. } => "an unexpected `gpu-evidence-request`",
        GuestMessage::CollateralRequest(_) => "an unexpected `collateral-request`",
        GuestMessage::Progress { .. } => "an unexpected `progress`",
        GuestMessage::Serving { .. } => "an unexpected `serving`",
        GuestMessage::Metrics(_) => "an unexpected `metrics`",
        GuestMessage::GpuMetrics { .. } => "an unexpected `gpu-metrics`",
        GuestMessage::EngineRestarted { .. } => "an unexpected `engine-restarted`",
        GuestMessage::Failed { .. } => "an unexpected `failed`",
        GuestMessage::Drained => "an unexpected `drained`",
    }
}

#[cfg(test)]
mod tests;
