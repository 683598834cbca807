//! Tests of the state machine: the usual course of a VM, each kind of misbehaviour, and properties of random courses.

use cocoon_protocol::bytes::Hex;
use cocoon_protocol::control::Metrics;
use cocoon_protocol::document::Collateral;
use cocoon_protocol::gpu::{CollateralRequest, GpuCollateral, GpuMetrics, GpuNeeds};
use proptest::prelude::*;

use super::*;

fn run(events: Vec<Event>) -> (State, Vec<Effect>) {
    let mut state = State::Starting;
    let mut all = vec![];
    for event in events {
        let (after, effects) = next(state, event, Some(Tee::Tdx));
        state = after;
        all.extend(effects);
    }
    (state, all)
}

fn hello() -> Event {
    Event::Guest(GuestMessage::Hello {
        version: CONTROL_VERSION,
        tee: None,
    })
}

fn collateral() -> Collateral {
    Collateral::Tdx {
        json: vec![].into(),
    }
}

fn phase(phase: Phase) -> Event {
    Event::Guest(GuestMessage::Phase { phase, at_ms: 1 })
}

fn serving() -> Event {
    Event::Guest(GuestMessage::Serving {
        port: GUEST_PORT,
        at_ms: 9,
    })
}

fn request(id: u64) -> Event {
    Event::Guest(GuestMessage::EvidenceRequest {
        id,
        report_data: Hex64::ZERO,
    })
}

fn needs(names: &str) -> CollateralRequest {
    CollateralRequest {
        evidence: None,
        gpus: vec![GpuNeeds {
            driver_rim: names.into(),
            vbios_rim: names.into(),
            chain: "-----BEGIN".into(),
        }],
    }
}

fn wish(names: &str) -> Event {
    Event::Guest(GuestMessage::CollateralRequest(needs(names)))
}

fn failure(events: Vec<Event>) -> String {
    match run(events).0 {
        State::Ended(Ending::Failed(failure)) => failure.to_string(),
        other => panic!("no failure but {other:?}"),
    }
}

fn booted() -> Vec<Event> {
    vec![
        hello(),
        Event::Launched(collateral()),
        phase(Phase::Model),
        phase(Phase::Evidence),
    ]
}

#[test]
fn the_usual_course() {
    let mut events = booted();
    let refused = || Err("busy".to_owned());
    events.extend([
        request(1),
        Event::Evidence(1, refused()),
        serving(),
        Event::Drain,
    ]);
    events.push(Event::Guest(GuestMessage::Drained));
    let (state, effects) = run(events);
    assert_eq!(state, State::Ended(Ending::Stopped));
    assert_eq!(
        effects,
        [
            Effect::Tell(News::Hello(None)),
            Effect::Launch(Tee::Tdx),
            Effect::Configure(Some(collateral())),
            Effect::Tell(News::Phase(Phase::Model, 1)),
            Effect::Tell(News::Phase(Phase::Evidence, 1)),
            Effect::AskEvidence(1, Hex64::ZERO),
            Effect::SendEvidence(1, refused()),
            Effect::Tell(News::Serving(9)),
            Effect::Open,
            Effect::Close,
            Effect::SendDrain,
            Effect::Close,
            Effect::Stop,
        ]
    );
}

#[test]
fn a_real_tee_needs_no_simulator_and_gets_none() {
    let real = Event::Guest(GuestMessage::Hello {
        version: CONTROL_VERSION,
        tee: Some(Tee::SevSnp),
    });
    let (state, effects) = next(State::Starting, real.clone(), Some(Tee::Tdx));
    assert_eq!(
        effects,
        [
            Effect::Tell(News::Hello(Some(Tee::SevSnp))),
            Effect::Configure(None)
        ]
    );
    assert_eq!(state, State::Booting(Guest::default()));
    assert_eq!(
        failure(vec![real, request(1)]),
        "the guest broke the control channel's protocol while being configured: asking for simulated evidence from \
         within a TEE"
    );
    let (state, _) = next(State::Starting, hello(), None);
    assert_eq!(state, State::Ended(Ending::Failed(Failure::NoTee)));
}

/// Collateral is obtained for each request, the latest replacing the one before. Answers reach the guest until it drains.
#[test]
fn collateral_is_sought_and_handed_on() {
    let came = || Event::Collateral(None, Some(GpuCollateral::default()));
    let sent = Effect::SendCollateral(None, Some(GpuCollateral::default()));
    let sought = |names| Effect::SeekCollateral(Box::new(needs(names)));
    let course = [
        booted(),
        vec![wish("NV_A"), came(), serving(), wish("NV_B"), came()],
    ]
    .concat();
    let (state, effects) = run(course.clone());
    assert!(matches!(state, State::Serving(_)), "{state:?}");
    let about = |effect: &Effect| {
        matches!(
            effect,
            Effect::SeekCollateral(_) | Effect::SendCollateral(..)
        )
    };
    let effects: Vec<Effect> = effects.into_iter().filter(about).collect();
    assert_eq!(
        effects,
        [sought("NV_A"), sent.clone(), sought("NV_B"), sent]
    );
    let (_, late) = run([course, vec![Event::Drain, came()]].concat());
    assert_eq!(late.iter().filter(|effect| about(effect)).count(), 4);
}

/// A hostile guest could make the host send vendors any number of made-up requests. Only the first few are served, and
/// the refusal is noted once.
#[test]
fn a_guest_has_few_wishes() {
    let wishes = [
        "NV_A", "NV_B", "NV_A", "NV_C", "NV_D", "NV_E", "NV_E", "NV_F", "NV_B",
    ]
    .map(wish);
    let (state, effects) = run([booted(), wishes.to_vec()].concat());
    assert!(matches!(state, State::Booting(_)), "{state:?}");
    let sought = |name: &&str| Effect::SeekCollateral(Box::new(needs(name)));
    let served = ["NV_A", "NV_B", "NV_A", "NV_C", "NV_D"];
    let mut expected: Vec<Effect> = served.iter().map(sought).collect();
    let note =
        "the guest asks for endorsements of more than 4 things: no vendor is asked for the others";
    expected.push(Effect::Tell(News::Note(note.into())));
    expected.push(sought(&"NV_B"));
    let about = |effect: &Effect| {
        matches!(
            effect,
            Effect::SeekCollateral(_) | Effect::Tell(News::Note(_))
        )
    };
    let effects: Vec<Effect> = effects.into_iter().filter(about).collect();
    assert_eq!(effects, expected);
}

/// Each request for simulated GPU evidence reaches the simulator once, and none does from within a TEE.
#[test]
fn simulated_gpus_are_asked_for() {
    let asked = |id| {
        Event::Guest(GuestMessage::GpuEvidenceRequest {
            id,
            nonce: Hex([1; 32]),
        })
    };
    let told = |id| Event::Gpus(id, Ok(Vec::new()));
    let (_, effects) = run([booted(), vec![asked(1), told(1), told(1), told(2)]].concat());
    let about = |effect: &Effect| matches!(effect, Effect::AskGpus(..) | Effect::SendGpus(..));
    let effects: Vec<Effect> = effects.into_iter().filter(about).collect();
    assert_eq!(
        effects,
        [
            Effect::AskGpus(1, Hex([1; 32])),
            Effect::SendGpus(1, Ok(Vec::new()))
        ]
    );
    let protocol = "the guest broke the control channel's protocol while";
    assert_eq!(
        failure([booted(), vec![asked(1), asked(1)]].concat()),
        format!("{protocol} in phase evidence: two requests for evidence of GPUs with one number")
    );
    let real = Event::Guest(GuestMessage::Hello {
        version: CONTROL_VERSION,
        tee: Some(Tee::Tdx),
    });
    assert_eq!(
        failure(vec![real, asked(1)]),
        format!("{protocol} being configured: asking for simulated GPUs from within a TEE")
    );
}

#[test]
fn misbehaviour_is_named() {
    let protocol = "the guest broke the control channel's protocol while";
    for (events, text) in [
        (vec![serving()], format!("{protocol} starting: an unexpected `serving`")),
        (vec![Event::Garbage("no JSON".into())], format!("{protocol} starting: no JSON")),
        (vec![hello(), hello()], format!("{protocol} being measured: an unexpected `hello`")),
        (
            [booted(), vec![phase(Phase::Model)]].concat(),
            format!("{protocol} in phase evidence: a phase out of order"),
        ),
        (
            [booted(), vec![Event::Guest(GuestMessage::Serving { port: 80, at_ms: 0 })]].concat(),
            format!("{protocol} in phase evidence: serving on a port that is not forwarded"),
        ),
        (
            [booted(), vec![request(1), request(1)]].concat(),
            format!("{protocol} in phase evidence: two requests for evidence with one number"),
        ),
        (
            [booted(), (0..17).map(request).collect()].concat(),
            format!("{protocol} in phase evidence: too many requests for evidence at once"),
        ),
        (vec![hello(), wish("NV_A")], format!("{protocol} being measured: an unexpected `collateral-request`")),
        (
            [booted(), vec![wish("NV_/../")]].concat(),
            format!(
                "{protocol} in phase evidence: a request for collateral that is none: the characters of the name of the \
                 driver's manifest hold one that does not belong there"
            ),
        ),
        (vec![Event::Silence(120)], "the guest was silent for 120 seconds while starting".into()),
        (
            [booted(), vec![serving(), Event::Silence(180)]].concat(),
            "the guest was silent for 180 seconds while serving".into(),
        ),
        ([booted(), vec![Event::Gone]].concat(), "the VM ended by itself while in phase evidence".into()),
        (
            vec![hello(), Event::NotLaunched("no firmware".into())],
            "the simulator cannot launch the VM: no firmware".into(),
        ),
        (
            vec![Event::Guest(GuestMessage::Failed { phase: Phase::Model, reason: "bad\u{1b}[2J\nroot".into() })],
            "the guest failed in phase model: bad [2J root".into(),
        ),
        (
            vec![Event::Guest(GuestMessage::Hello { version: 9, tee: None })],
            "the guest speaks version 9 of the control channel, this host speaks 1: build the image with the same \
             release"
                .into(),
        ),
    ] {
        assert_eq!(failure(events), text);
    }
}

fn gpus(count: usize) -> Event {
    let gpus = vec![GpuMetrics::default(); count];
    Event::Guest(GuestMessage::GpuMetrics { gpus })
}

#[test]
fn how_gpus_are_used_is_told_of_as_many_as_a_machine_has() {
    let served = || State::Serving(Guest::default());
    let (state, effects) = next(served(), gpus(MAX_GPUS), None);
    let told = vec![GpuMetrics::default(); MAX_GPUS];
    assert_eq!(
        (state, effects),
        (served(), vec![Effect::Tell(News::Gpus(told))])
    );
    let broken = |state: State, what: &str| {
        let doing = state.doing();
        let what = what.to_owned();
        Ending::Failed(Failure::Protocol { state: doing, what })
    };
    let (state, _) = next(served(), gpus(MAX_GPUS + 1), None);
    let expected = broken(served(), "telling of more GPUs than a machine has");
    assert_eq!(state, State::Ended(expected));
    let booting = || State::Booting(Guest::default());
    let (state, _) = next(booting(), gpus(1), None);
    assert_eq!(
        state,
        State::Ended(broken(booting(), "an unexpected `gpu-metrics`"))
    );
}

fn any_event() -> impl Strategy<Value = Event> {
    let phases = prop::sample::select(vec![
        Phase::Mounts,
        Phase::Model,
        Phase::Engine,
        Phase::Serving,
    ]);
    prop_oneof![
        Just(hello()),
        Just(Event::Guest(GuestMessage::Hello {
            version: CONTROL_VERSION,
            tee: Some(Tee::Tdx)
        })),
        phases.prop_map(phase),
        (0..40_u64).prop_map(request),
        (0..40_u64).prop_map(|id| Event::Evidence(id, Err("no".into()))),
        Just(Event::Launched(collateral())),
        Just(Event::NotLaunched("no".into())),
        Just(serving()),
        Just(Event::Guest(GuestMessage::Progress { done: 1, total: 2 })),
        Just(Event::Guest(GuestMessage::Metrics(Metrics::default()))),
        (0..20_usize).prop_map(gpus),
        Just(Event::Guest(GuestMessage::Drained)),
        prop::sample::select(vec!["NV_A", "other"]).prop_map(wish),
        Just(Event::Collateral(None, None)),
        Just(Event::Drain),
        Just(Event::Gone),
        Just(Event::Silence(1)),
    ]
}

proptest! {
    #[test]
    fn every_course_keeps_the_promises(events in prop::collection::vec(any_event(), 0..60)) {
        let mut state = State::Starting;
        let (mut configured, mut opened, mut stopped, mut asked, mut sent) = (0, 0, 0, 0, 0);
        for event in events {
            let over = matches!(state, State::Ended(_));
            let (after, effects) = next(state, event, Some(Tee::Tdx));
            prop_assert!(!over || effects.is_empty(), "nothing happens after the end");
            if let State::Booting(guest) | State::Serving(guest) | State::Draining(guest) = &after {
                prop_assert!(guest.requests.len() <= MAX_EVIDENCE_REQUESTS);
                prop_assert_eq!(configured + usize::from(effects.iter().any(|e| matches!(e, Effect::Configure(_)))), 1);
            }
            for effect in &effects {
                match effect {
                    Effect::Configure(_) => configured += 1,
                    Effect::Open => opened += 1,
                    Effect::Stop => stopped += 1,
                    Effect::AskEvidence(..) => asked += 1,
                    Effect::SendEvidence(..) => sent += 1,
                    _ => {}
                }
            }
            state = after;
        }
        prop_assert!(configured <= 1 && opened <= 1 && opened <= configured && sent <= asked);
        prop_assert_eq!(stopped, usize::from(matches!(state, State::Ended(_))), "stopped exactly when over");
    }
}
