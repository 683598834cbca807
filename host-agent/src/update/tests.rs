//! Tests of single transitions of an update. Its invariants are tested in `properties`.

use super::*;

mod properties;

const LIMITS: Limits = Limits {
    starting: Duration::from_secs(60),
    switching: Duration::from_secs(5),
    proving: Duration::from_secs(10),
};

fn deployment() -> Deployment {
    Deployment {
        image: "/newer".into(),
        manifest: None,
        manifest_id: None,
        release: Some(2),
        not_after: None,
    }
}

fn begun(way: Way) -> (Update, Vec<Effect>) {
    begin(1, false, way, deployment(), true, 1000, &LIMITS)
}

/// Applies `events` from the beginning. Returns every effect except `Publish`, in order.
fn walk(way: Way, events: &[Event]) -> (Update, Vec<Effect>) {
    let (mut update, mut effects) = begun(way);
    for event in events {
        let now = update.until.filter(|_| *event == Event::Tick);
        let now = now.unwrap_or(update.since);
        let (after, more) = next(&update, now, event, &LIMITS);
        update = after;
        effects.extend(more);
    }
    effects.retain(|effect| *effect != Effect::Publish);
    (update, effects)
}

#[test]
fn beside_the_old_one_serves_until_the_new_one_has_proved_itself() {
    use Event::*;
    let events = [NewServes, Accepted, Switched, Tick, OldEnded];
    let (update, effects) = walk(Way::Beside, &events);
    assert_eq!(update.phase, Phase::Done);
    let expected = [
        Effect::StartNew,
        Effect::Examine,
        Effect::Switch,
        Effect::HoldOld,
        Effect::Commit,
        Effect::RetireOld,
    ];
    assert_eq!(effects, expected);
}

#[test]
fn in_place_the_old_one_finishes_first_and_comes_back_if_need_be() {
    use Event::*;
    let (update, effects) = walk(
        Way::InPlace,
        &[OldEnded, NewServes, Accepted, Switched, Tick],
    );
    assert_eq!(update.phase, Phase::Done);
    let expected = [
        Effect::EmptyOld,
        Effect::StartNew,
        Effect::Examine,
        Effect::Switch,
        Effect::Commit,
    ];
    assert_eq!(effects, expected);
    let events = [OldEnded, NewEnded("no disk".into())];
    let (update, effects) = walk(Way::InPlace, &events);
    let reason = "no disk".to_owned();
    assert_eq!(update.phase, Phase::Failed { reason });
    assert_eq!(effects.last(), Some(&Effect::StartOld));
}

#[test]
fn whatever_is_late_or_refused_goes_back_with_its_reason() {
    use Event::*;
    let refused = || Refused("the MRTD differs".into());
    let cases: [(&[Event], &str); 6] = [
        (&[Tick], "it did not serve within 60 seconds"),
        (
            &[NewServes, Tick],
            "its evidence was not accepted within 60 seconds",
        ),
        (&[NewServes, refused()], "the MRTD differs"),
        (
            &[NewServes, Accepted, Tick],
            "it did not get the public listener within 5 seconds",
        ),
        (
            &[NewServes, Accepted, NotSwitched("no listener".into())],
            "no listener",
        ),
        (
            &[NewServes, Accepted, Switched, NewEnds("QEMU died".into())],
            "QEMU died",
        ),
    ];
    for (events, expected) in cases {
        let (update, effects) = walk(Way::Beside, events);
        let (reason, restore) = (expected.to_owned(), true);
        assert_eq!(update.phase, Phase::Reverting { reason, restore });
        let last = &effects[effects.len() - 2..];
        assert_eq!(last, [Effect::ReleaseOld, Effect::KillNew], "{expected}");
        let gone = NewEnded("killed".into());
        let (update, _) = next(&update, 2000, &gone, &LIMITS);
        let reason = expected.to_owned();
        assert_eq!(update.phase, Phase::Failed { reason });
    }
}

/// Covers updates kept by an earlier daemon, which did not record whether the old VM ran.
#[test]
fn what_did_not_run_before_is_not_started_by_an_update_that_fails() {
    use Event::*;
    let gone = || NewEnded("killed".into());
    for events in [
        &[OldEnded, gone()][..],
        &[OldEnded, NewServes, Refused("no".into()), gone()],
        &[Cancel("stopped".into())],
        &[Superseded("the file names another image now".into())],
    ] {
        for ran in [true, false] {
            let begun = begin(1, false, Way::InPlace, deployment(), ran, 1000, &LIMITS);
            let (mut update, mut all) = (begun.0, vec![]);
            for event in events {
                let (after, effects) = next(&update, 1000, event, &LIMITS);
                update = after;
                all.extend(effects);
            }
            assert!(matches!(update.phase, Phase::Failed { .. }), "{update:?}");
            assert_eq!(all.contains(&Effect::StartOld), ran, "{events:?}");
        }
    }
    let mut kept = serde_json::to_value(begun(Way::InPlace).0).unwrap();
    kept.as_object_mut().unwrap().remove("ran");
    let kept: Update = serde_json::from_value(kept).unwrap();
    assert!(kept.ran);
}

#[test]
fn steps_that_cannot_be_kept_are_not_taken_but_for_the_way_back() {
    use Event::*;
    for way in [Way::Beside, Way::InPlace] {
        let (mut update, _) = begun(way);
        for event in [OldEnded, NewServes, Accepted, Switched, Tick] {
            let now = update.until.unwrap_or(update.since);
            let (after, effects) = next(&update, now, &event, &LIMITS);
            if after != update {
                assert!(after.must_be_kept(&effects), "{way:?}: {after:?}");
            }
            update = after;
        }
        assert!(update.is_committed());
        let (update, effects) = walk(way, &[OldEnded, NewServes, Refused("no".into())]);
        assert!(!update.must_be_kept(&effects));
        let (update, effects) = next(&update, 2000, &NewEnded("killed".into()), &LIMITS);
        assert!(update.is_over() && !update.must_be_kept(&effects));
    }
}

#[test]
fn what_the_operator_stops_is_not_started_again() {
    use Event::*;
    let (stop, gone) = (|| Cancel("stopped".into()), || NewEnded("killed".into()));
    for way in [Way::Beside, Way::InPlace] {
        let (update, effects) = walk(way, &[OldEnded, stop(), gone()]);
        let reason = "stopped".to_owned();
        assert_eq!(update.phase, Phase::Failed { reason });
        assert!(!effects.contains(&Effect::StartOld) && !effects.contains(&Effect::ReleaseOld));
        assert!(effects.contains(&Effect::KillNew));
    }
    // The same holds for an update that is already going back.
    let events = [OldEnded, NewServes, Refused("no".into()), stop(), gone()];
    let (_, effects) = walk(Way::InPlace, &events);
    assert!(!effects.contains(&Effect::StartOld));
}

#[test]
fn what_the_file_supersedes_goes_back_to_the_old_vm() {
    use Event::*;
    let why = || "the file names another image now".to_owned();
    let gone = || NewEnded("killed".into());
    let events = [NewServes, Accepted, Switched, Superseded(why()), gone()];
    let (update, effects) = walk(Way::Beside, &events);
    assert_eq!(update.phase, Phase::Failed { reason: why() });
    let last = &effects[effects.len() - 2..];
    assert_eq!(last, [Effect::ReleaseOld, Effect::StartOld]);
    for events in [
        &[Superseded(why())][..],
        &[OldEnded, Superseded(why()), gone()],
    ] {
        let (update, effects) = walk(Way::InPlace, events);
        assert_eq!(update.phase, Phase::Failed { reason: why() });
        assert_eq!(effects.last(), Some(&Effect::StartOld));
    }
    // The new VM is the appliance already, and its life cycle goes on.
    let events = [NewServes, Accepted, Switched, Tick];
    let (before, _) = walk(Way::Beside, &events);
    let (after, effects) = next(&before, 2000, &Superseded(why()), &LIMITS);
    assert_eq!((after, effects), (before, vec![]));
}
