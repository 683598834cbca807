//! The transitions, one scenario per test. [`properties`] tests what holds in every scenario.

use super::*;
use crate::config::RestartPolicy;

mod properties;

fn rules() -> Rules {
    Rules {
        restart: Restart {
            policy: RestartPolicy::OnFailure,
            delay: Duration::from_secs(1),
            max_delay: Duration::from_secs(10),
            max_failures: 4,
            healthy: Duration::from_secs(60),
        },
        deadlines: Deadlines::default(),
    }
}

/// A life cycle with a clock, to which events are fed.
struct Story {
    life: Lifecycle,
    now: Millis,
    rules: Rules,
}

impl Story {
    fn new() -> Self {
        Self {
            life: Lifecycle::new(1000),
            now: 1000,
            rules: rules(),
        }
    }

    fn hears(&mut self, event: Event) -> Vec<Effect> {
        let (life, effects) = next(&self.life, self.now, &event, &self.rules);
        self.life = life;
        effects
    }

    fn serves(&mut self) {
        for stage in [Stage::Booting, Stage::Attesting, Stage::Serving] {
            assert_eq!(self.hears(Event::Reached(stage)), [Effect::Publish]);
        }
        assert_eq!(self.life.state, State::Serving);
    }

    fn breaks(&mut self, why: &str) -> Vec<Effect> {
        let reason = why.to_owned();
        self.hears(Event::Ended(Ending::Failed { reason }))
    }

    /// Lets the state's own deadline pass.
    fn waits(&mut self) -> Vec<Effect> {
        let Holder::Deadline(at) = self.life.holder(&self.rules) else {
            panic!("{:?} has no deadline", self.life.state)
        };
        self.now = at - 1;
        assert_eq!(self.hears(Event::Tick), []);
        self.now = at;
        self.hears(Event::Tick)
    }
}

#[test]
fn a_good_life() {
    let mut story = Story::new();
    assert_eq!(story.life.holder(&story.rules), Holder::Operator);
    assert_eq!(
        story.hears(Event::Start),
        [Effect::Publish, Effect::Launch(1)]
    );
    assert_eq!(story.hears(Event::Start), []);
    story.serves();
    assert_eq!(story.life.holder(&story.rules), Holder::Process);
    assert_eq!(story.hears(Event::Reached(Stage::Booting)), []);
    assert_eq!(
        story.hears(Event::Restart),
        [Effect::Publish, Effect::Drain(1)]
    );
    assert_eq!(story.hears(Event::Restart), []);
    let ended = story.hears(Event::Ended(Ending::Stopped));
    assert_eq!(ended, [Effect::Publish, Effect::Launch(2)]);
    story.serves();
    assert_eq!(
        story.hears(Event::Stop),
        [Effect::Publish, Effect::Drain(2)]
    );
    assert_eq!(story.hears(Event::Stop), []);
    assert_eq!(
        story.hears(Event::Ended(Ending::Stopped)),
        [Effect::Publish]
    );
    assert_eq!(story.life.state, State::Stopped { resume: false });
}

#[test]
fn a_crash_loop_ends_with_its_reason() {
    let mut story = Story::new();
    story.hears(Event::Start);
    for (failures, pause) in [(1, 0), (2, 1000), (3, 2000)] {
        story.serves();
        assert_eq!(story.breaks("QEMU died"), [Effect::Publish]);
        assert_eq!(story.life.failures, failures);
        let restart_at = Some(story.now + pause);
        assert_eq!(story.life.state, State::Preparing { restart_at });
        let launched = story.waits();
        assert_eq!(
            launched,
            [Effect::Publish, Effect::Launch(u64::from(failures) + 1)]
        );
    }
    story.hears(Event::Reached(Stage::Booting));
    assert_eq!(story.breaks("no firmware"), [Effect::Publish]);
    let reason = "it failed 4 times in a row, the last time because no firmware";
    let expected = State::Failed {
        reason: reason.to_owned(),
    };
    assert_eq!(story.life.state, expected);
    assert_eq!(story.life.last_failure.as_deref(), Some("no firmware"));
    // The operator's start begins a new count.
    assert_eq!(
        story.hears(Event::Start),
        [Effect::Publish, Effect::Launch(5)]
    );
    assert_eq!(story.life.failures, 0);
}

/// After the machine's boot, services, clocks and devices may come late. Nothing has run yet, so nothing has crashed.
#[test]
fn what_is_refused_before_qemu_runs_is_tried_until_it_serves() {
    let mut story = Story::new();
    story.hears(Event::Start);
    story.serves();
    story.breaks("QEMU died");
    story.waits();
    for (refusals, pause) in [
        (1, 0),
        (2, 1000),
        (3, 2000),
        (4, 4000),
        (5, 8000),
        (6, 10_000),
    ] {
        assert_eq!(story.breaks("no quote service"), [Effect::Publish]);
        assert_eq!((story.life.failures, story.life.refusals), (1, refusals));
        let restart_at = Some(story.now + pause);
        assert_eq!(story.life.state, State::Preparing { restart_at });
        story.waits();
    }
    story.serves();
    // Earlier failures still count.
    assert_eq!((story.life.failures, story.life.refusals), (1, 0));
    story.breaks("QEMU died");
    assert_eq!(story.life.in_a_row(), 2);
    // A stopped appliance has no refusals, whatever it was doing when it was stopped.
    story.waits();
    story.breaks("no quote service");
    let waiting = story.life.clone();
    story.waits();
    for (life, event) in [
        (&waiting, Event::Stop),
        (&waiting, Event::Halt),
        (&story.life, Event::Ended(Ending::Stopped)),
    ] {
        let (life, _) = next(life, story.now, &event, &story.rules);
        assert!(life.state.is_terminal() && life.in_a_row() == 0, "{life:?}");
    }
}

#[test]
fn a_healthy_span_makes_failures_forgotten() {
    let mut story = Story::new();
    story.hears(Event::Start);
    for _ in 0..10 {
        story.serves();
        story.now += 60_000;
        story.breaks("QEMU died");
        assert_eq!(story.life.failures, 1);
        story.waits();
    }
    story.serves();
    story.now += 59_999;
    story.breaks("QEMU died");
    assert_eq!(story.life.failures, 2);
}

/// Halted guests months apart are no crash loop; within the healthy time they are.
#[test]
fn halts_after_a_healthy_span_are_forgotten_too() {
    let mut story = Story::new();
    let halted = || Event::Halted("the guest panicked".to_owned());
    story.hears(Event::Start);
    for _ in 0..10 {
        story.serves();
        story.now += 60_000;
        story.hears(halted());
        story.breaks("killed");
        assert_eq!(story.life.failures, 1);
        story.waits();
    }
    for failures in 2..4 {
        story.serves();
        story.now += 59_999;
        story.hears(halted());
        story.breaks("killed");
        assert_eq!(story.life.failures, failures);
        story.waits();
    }
    story.serves();
    story.hears(halted());
    story.breaks("killed");
    assert_eq!(story.life.state.name(), "failed");
}

#[test]
fn without_restarts_the_first_failure_is_the_last() {
    let mut story = Story::new();
    story.rules.restart.policy = RestartPolicy::Never;
    story.hears(Event::Start);
    assert_eq!(story.breaks("no"), [Effect::Publish]);
    let reason = "no".to_owned();
    assert_eq!(story.life.state, State::Failed { reason });
}

#[test]
fn who_does_not_come_forward_is_killed_and_tried_again() {
    for (stages, limit) in [(0, 1800), (1, 3600), (2, 2700)] {
        let mut story = Story::new();
        story.hears(Event::Start);
        let reached = [Stage::Booting, Stage::Attesting];
        for stage in &reached[..stages] {
            story.hears(Event::Reached(*stage));
        }
        let doing = story.life.state.name();
        assert_eq!(story.waits(), [Effect::Publish, Effect::Kill(1)]);
        assert_eq!(story.breaks("killed"), [Effect::Publish]);
        let expected = format!("{doing} took more than {limit} seconds");
        assert_eq!(story.life.last_failure, Some(expected));
        assert_eq!(story.waits(), [Effect::Publish, Effect::Launch(2)]);
    }
}

#[test]
fn who_does_not_finish_is_killed_and_who_does_not_die_is_given_up() {
    let mut story = Story::new();
    story.hears(Event::Start);
    story.serves();
    story.hears(Event::Stop);
    assert_eq!(story.waits(), [Effect::Publish, Effect::Kill(1)]);
    let mut dead = story.life.clone();
    (dead, _) = next(
        &dead,
        story.now,
        &Event::Ended(Ending::Stopped),
        &story.rules,
    );
    assert_eq!(dead.state, State::Stopped { resume: false });
    assert_eq!(story.waits(), [Effect::Publish]);
    let reason = "its process is alive 30 seconds after SIGKILL: it hangs inside the kernel";
    let reason = reason.to_owned();
    assert_eq!(story.life.state, State::Failed { reason });
}

/// Commands wait as long as this for an end: draining (also of a replaced VM), then SIGKILL.
#[test]
fn a_stop_is_over_when_every_deadline_has_passed() {
    assert_eq!(Deadlines::default().down(), Duration::from_secs(690));
    for role in [Duration::from_secs(180), Duration::from_secs(660)] {
        let mut story = Story::new();
        story.rules.deadlines.draining = role;
        story.hears(Event::Start);
        story.serves();
        let asked = story.now;
        story.hears(Event::Stop);
        story.waits();
        story.waits();
        assert_eq!(story.life.state.name(), "failed");
        let took = Duration::from_millis(story.now - asked);
        assert!(took <= Deadlines::default().down(), "{took:?}");
    }
}

/// Reclaiming a confidential guest's memory alone may take longer than all other deadlines.
#[test]
fn the_kernel_has_its_time_however_a_vm_ends() {
    let (usual, reclaim) = (Deadlines::default(), Duration::from_secs(9567));
    let mut story = Story::new();
    story.rules.deadlines = usual.reclaiming(reclaim);
    story.hears(Event::Start);
    story.serves();
    let asked = story.now;
    story.hears(Event::Stop);
    let took = |story: &Story| Duration::from_millis(story.now - asked);
    assert_eq!(story.waits(), [Effect::Publish, Effect::Kill(1)]);
    assert_eq!(took(&story), usual.draining + reclaim);
    story.waits();
    assert_eq!(took(&story), usual.draining + usual.dying + 2 * reclaim);
    assert!(took(&story) <= story.rules.deadlines.down());
}

/// A VM that has failed and is still ending does not serve any more, and counts as one failure.
#[test]
fn whoever_is_failing_does_not_serve_any_more_and_fails_with_its_last_words() {
    let mut story = Story::new();
    let failing = || Event::Failing("QEMU died".to_owned());
    story.hears(Event::Start);
    story.serves();
    assert_eq!(story.hears(failing()), [Effect::Publish]);
    let reason = "QEMU died".to_owned();
    let (then, killed) = (Then::Fail { reason }, false);
    assert_eq!(story.life.state, State::Draining { then, killed });
    assert_eq!(story.hears(failing()), []);
    // A new daemon has nothing to ask of it.
    assert_eq!(story.hears(Event::Adopted), []);
    assert_eq!(story.breaks("QEMU died: no memory"), [Effect::Publish]);
    let told = story.life.last_failure.as_deref();
    assert_eq!(
        (told, story.life.failures),
        (Some("QEMU died: no memory"), 1)
    );
    // It does not start again if the operator stopped it meanwhile.
    story.waits();
    story.serves();
    story.hears(failing());
    story.hears(Event::Stop);
    story.breaks("QEMU died");
    assert_eq!(story.life.state, State::Stopped { resume: false });
    // After an order to finish, a failure changes nothing.
    story.hears(Event::Start);
    story.serves();
    story.hears(Event::Stop);
    assert_eq!(story.hears(failing()), []);
}

/// The machine's clock was years ahead when the state was stored.
#[test]
fn what_was_dated_into_the_future_counts_from_now_on() {
    let mut story = Story::new();
    story.hears(Event::Start);
    story.breaks("not there yet");
    story.waits();
    story.breaks("not there yet");
    let mut life = story.life.clone();
    life.date(story.now);
    assert_eq!(life, story.life);
    life.date(100);
    let restart_at = Some(1100);
    assert_eq!(
        (life.since, life.state),
        (100, State::Preparing { restart_at })
    );
}

#[test]
fn a_machine_that_qemu_has_stopped_counts_as_a_failure() {
    let mut story = Story::new();
    story.hears(Event::Start);
    story.serves();
    let halted = || Event::Halted("the guest panicked".to_owned());
    assert_eq!(story.hears(halted()), [Effect::Publish, Effect::Kill(1)]);
    assert_eq!(story.hears(halted()), []);
    story.breaks("killed");
    assert_eq!(
        story.life.last_failure.as_deref(),
        Some("the guest panicked")
    );
}

#[test]
fn a_new_daemon_asks_again_and_starts_what_only_the_old_ones_end_has_stopped() {
    let mut story = Story::new();
    story.hears(Event::Start);
    story.serves();
    assert_eq!(story.hears(Event::Adopted), []);
    story.hears(Event::Halt);
    assert_eq!(story.hears(Event::Adopted), [Effect::Drain(1)]);
    story.waits();
    assert_eq!(story.hears(Event::Adopted), [Effect::Kill(1)]);
    // The process may end before the new daemon has looked, or long after.
    let mut late = story.life.clone();
    story.hears(Event::Ended(Ending::Stopped));
    assert_eq!(story.life.state, State::Stopped { resume: true });
    for life in [&story.life, &late] {
        assert!(life.resumes());
    }
    let ended = Event::Ended(Ending::Stopped);
    for event in [Event::Start, ended, Event::Reached(Stage::Serving)] {
        (late, _) = next(&late, story.now, &event, &story.rules);
    }
    assert_eq!((late.state, late.run), (State::Serving, 2));
    // The operator's stop overrides the daemon's, and comes later.
    story.hears(Event::Stop);
    assert_eq!(story.life.state, State::Stopped { resume: false });
    assert_eq!(story.hears(Event::Halt), []);
    assert_eq!(story.life.state, State::Stopped { resume: false });
    assert!(!story.life.resumes());
}
