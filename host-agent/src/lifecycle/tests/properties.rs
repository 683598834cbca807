//! Properties of the transitions that hold for all sequences of events.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

fn reason() -> impl Strategy<Value = String> {
    "[a-z]{1,8}"
}

fn event() -> impl Strategy<Value = Event> {
    let stage = prop_oneof![
        Just(Stage::Preparing),
        Just(Stage::Booting),
        Just(Stage::Attesting),
        Just(Stage::Serving),
        Just(Stage::Draining),
    ];
    prop_oneof![
        Just(Event::Start),
        Just(Event::Stop),
        Just(Event::Restart),
        Just(Event::Halt),
        stage.prop_map(Event::Reached),
        reason().prop_map(Event::Failing),
        reason().prop_map(Event::Halted),
        Just(Event::Ended(Ending::Stopped)),
        reason().prop_map(|reason| Event::Ended(Ending::Failed { reason })),
        Just(Event::Tick),
    ]
}

fn any_rules() -> impl Strategy<Value = Rules> {
    (0..20_u64, 0..600_u64, 1..6_u32, 1..200_u64, any::<bool>()).prop_map(
        |(delay, more, max_failures, healthy, never)| Rules {
            restart: Restart {
                policy: if never {
                    RestartPolicy::Never
                } else {
                    RestartPolicy::OnFailure
                },
                delay: Duration::from_secs(delay),
                max_delay: Duration::from_secs(delay + more),
                max_failures,
                healthy: Duration::from_secs(healthy),
            },
            deadlines: Deadlines::default(),
        },
    )
}

proptest! {
    #[test]
    fn the_promises_hold_in_every_story(
        rules in any_rules(),
        events in prop::collection::vec((event(), 0..5_000_000_u64), 0..200),
    ) {
        let (mut life, mut now) = (Lifecycle::new(0), 0);
        let mut done = HashSet::new();
        for (event, pause) in events {
            now += pause;
            let (after, effects) = next(&life, now, &event, &rules);

            // Only the operator's start leaves a terminal state; a stop may only clear `resume`.
            if life.state.is_terminal() && !matches!(event, Event::Start | Event::Restart) {
                prop_assert_eq!(after.state.name(), life.state.name());
            }
            // Every state has a deadline or an owner.
            match after.holder(&rules) {
                Holder::Deadline(at) => prop_assert!(at <= now + 3_600_000),
                Holder::Operator => {
                    prop_assert!(after.state.is_terminal() || after.state == State::Created);
                }
                Holder::Process => prop_assert!(after.has_process()),
            }
            // Effects follow their publication, come once each, and concern the live run.
            prop_assert_eq!(effects.first() == Some(&Effect::Publish), after != life);
            prop_assert_eq!(effects.iter().filter(|one| **one == Effect::Publish).count() <= 1, true);
            for effect in effects {
                match effect {
                    Effect::Publish => {}
                    Effect::Launch(run) => {
                        // Two runs never overlap.
                        let free = !life.has_process() || matches!(event, Event::Ended(_));
                        prop_assert!(free, "{:?} by {:?}", life.state, event);
                        prop_assert_eq!(run, life.run + 1);
                        prop_assert_eq!(after.run, run);
                        prop_assert!(done.insert(effect));
                    }
                    Effect::Drain(run) | Effect::Kill(run) => {
                        prop_assert!(life.has_process());
                        prop_assert_eq!(run, life.run);
                        prop_assert!(done.insert(effect));
                    }
                }
            }
            // A crash loop ends.
            prop_assert!(after.failures <= rules.restart.max_failures);
            if let State::Failed { reason } = &after.state {
                prop_assert!(!reason.is_empty());
            }
            if let State::Preparing { restart_at: Some(at) } = after.state {
                prop_assert!(after.failures < rules.restart.max_failures);
                prop_assert!(after.since <= at);
                prop_assert!(at <= after.since + 1000 * rules.restart.max_delay.as_secs().max(1));
            }
            // Stored state is read back unchanged.
            let kept = serde_json::to_vec(&after).unwrap();
            prop_assert_eq!(&serde_json::from_slice::<Lifecycle>(&kept).unwrap(), &after);
            life = after;
        }
    }

    #[test]
    fn pauses_grow_and_are_bounded(
        delay in 0..u64::MAX / 2_000,
        max_delay in 0..u64::MAX / 2_000,
        failures in 1..u32::MAX,
    ) {
        let restart = Restart {
            delay: Duration::from_secs(delay.min(max_delay)),
            max_delay: Duration::from_secs(max_delay),
            ..Restart::default()
        };
        let (this, after) = (backoff(&restart, failures), backoff(&restart, failures + 1));
        prop_assert!(this <= after && after <= restart.max_delay);
        prop_assert_eq!(backoff(&restart, 1), Duration::ZERO);
        prop_assert_eq!(backoff(&restart, 2), restart.delay);
    }

    /// A VM that never gets far enough is given up after exactly `max_failures` tries.
    #[test]
    fn every_crash_loop_is_given_up(rules in any_rules(), far in 1..4_usize) {
        let (mut life, mut now, mut launches) = (Lifecycle::new(0), 0, 0);
        let mut event = Event::Start;
        loop {
            let (after, effects) = next(&life, now, &event, &rules);
            life = after;
            launches += effects.iter().filter(|one| matches!(one, Effect::Launch(_))).count();
            if life.state.is_terminal() {
                break;
            }
            if let Holder::Deadline(at) = life.holder(&rules)
                && !life.has_process()
            {
                now = at;
                event = Event::Tick;
                continue;
            }
            for stage in [Stage::Booting, Stage::Attesting, Stage::Serving].into_iter().take(far) {
                (life, _) = next(&life, now, &Event::Reached(stage), &rules);
            }
            event = Event::Ended(Ending::Failed { reason: "broken".into() });
        }
        let tries = match rules.restart.policy {
            RestartPolicy::Never => 1,
            RestartPolicy::OnFailure => rules.restart.max_failures as usize,
        };
        prop_assert_eq!(launches, tries);
        prop_assert!(life.state.name() == "failed");
    }

    /// A refused appliance is tried again and again, after pauses that never shrink.
    #[test]
    fn refusals_are_never_given_up(rules in any_rules(), tries in 1..50_u32) {
        let (mut life, _) = next(&Lifecycle::new(0), 0, &Event::Start, &rules);
        let (mut now, mut pause) = (0, 0);
        for refusals in 1..=tries {
            let reason = "not there yet".into();
            (life, _) = next(&life, now, &Event::Ended(Ending::Failed { reason }), &rules);
            if rules.restart.policy == RestartPolicy::Never {
                prop_assert_eq!(life.state.name(), "failed");
                return Ok(());
            }
            prop_assert_eq!((life.refusals, life.failures), (refusals, 0));
            let Holder::Deadline(at) = life.holder(&rules) else {
                return Err(TestCaseError::fail("nobody tries again"));
            };
            prop_assert!(at - now >= pause && (refusals == 1 || at > now));
            (pause, now) = (at - now, at);
            (life, _) = next(&life, now, &Event::Tick, &rules);
        }
        prop_assert_eq!(life.run, u64::from(tries) + 1);
    }
}
