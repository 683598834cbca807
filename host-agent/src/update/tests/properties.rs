//! Property tests of an update, against a model of two VMs to which anything may happen.

use proptest::prelude::*;

use super::*;

/// Model of two VMs that the effects act on, and facts that the update does not hold.
#[derive(Debug, Default)]
struct World {
    old: Vm,
    new: Vm,
    commits: u32,
    /// Whether the old VM has died by itself.
    died: bool,
}

#[derive(Debug, Default, PartialEq)]
struct Vm {
    alive: bool,
    /// Whether it accepts public connections.
    open: bool,
    /// Whether it holds the public listener. Another VM can then get a listener only from it.
    listener: bool,
    /// Whether its next run waits for the listener.
    waits: bool,
    draining: bool,
}

impl World {
    fn with_old() -> Self {
        let mut world = Self::default();
        world.start_old();
        world
    }

    /// Starts the next run of the old VM, which is up at once. It fails if the new VM holds the listener.
    fn start_old(&mut self) {
        let waits = self.old.waits;
        let open = !waits && !self.new.listener;
        self.old = Vm {
            alive: open || waits,
            open,
            listener: open,
            waits,
            draining: false,
        };
    }

    /// The old VM dies by itself. `again` says whether its life cycle restarts it or has given it up.
    fn old_dies(&mut self, again: bool) {
        let waits = self.old.waits;
        self.died = true;
        self.old = Vm {
            waits,
            ..Vm::default()
        };
        if again {
            self.start_old();
        }
    }

    fn perform(&mut self, effects: &[Effect]) {
        for effect in effects {
            match effect {
                Effect::Publish | Effect::Examine => {}
                Effect::EmptyOld | Effect::RetireOld => {
                    self.old.open = false;
                    self.old.draining = true;
                }
                Effect::StartNew => {
                    assert!(!self.new.alive, "two new VMs at once");
                    self.new.alive = true;
                }
                // The listener comes from the old VM or from the system.
                Effect::Switch => {
                    self.new.listener = self.new.alive;
                    self.new.open = self.new.alive;
                }
                Effect::HoldOld => (self.old.open, self.old.waits) = (false, true),
                Effect::ReleaseOld => {
                    self.old.waits = false;
                    let has = self.old.listener || !self.new.listener;
                    if self.old.alive && !self.old.draining && has {
                        (self.old.listener, self.old.open) = (true, true);
                    }
                }
                Effect::Commit => self.commits += 1,
                // The new VM ends a moment later, which is an event of its own.
                Effect::KillNew => self.new.open = false,
                Effect::StartOld => {
                    if !self.old.alive || self.old.draining {
                        self.start_old();
                    }
                }
            }
        }
    }
}

/// Picks the next event by number; about half of the numbers give what the update waits for. The old VM may die at any
/// time, which its own life cycle handles unless the update waits for its end.
fn event(number: u8, update: &Update, world: &mut World) -> Event {
    match number % 16 {
        0..=3 if update.phase == Phase::Starting => Event::NewServes,
        0..=3 if update.phase == Phase::Examining => Event::Accepted,
        0..=3 if update.phase == Phase::Switching => Event::Switched,
        4 => Event::Refused("refused".into()),
        5 => Event::NotSwitched("taken".into()),
        6 if world.new.alive => {
            world.new = Vm::default();
            Event::NewEnded("died".into())
        }
        7 | 8 if matches!(update.phase, Phase::Reverting { .. }) && world.new.alive => {
            world.new = Vm::default();
            Event::NewEnded("killed".into())
        }
        9 | 10 if world.old.draining => {
            world.old = Vm::default();
            Event::OldEnded
        }
        11 => Event::Resumed,
        12 if number > 100 && world.old.alive && !world.old.draining && !update.is_over() => {
            world.old_dies(number > 200);
            Event::Tick
        }
        12 => Event::NewServes,
        13 if number > 200 && world.new.alive => Event::NewEnds("QEMU died".into()),
        13 => Event::Accepted,
        14 if number > 200 => Event::NotKept("no space left".into()),
        15 if number > 200 => Event::Superseded("the file names another image now".into()),
        15 if number < 40 => Event::Cancel("stopped".into()),
        _ => Event::Tick,
    }
}

proptest! {
    /// Beside, some VM accepts the public connections at any moment, unless the old VM has died. In both ways, there is at
    /// most one commit, of an accepted VM; an update that is over does not change; any other has a deadline or waits for a
    /// process that ends.
    #[test]
    fn somebody_always_serves(
        numbers in prop::collection::vec(any::<u8>(), 1..60),
        beside: bool,
    ) {
        let way = if beside { Way::Beside } else { Way::InPlace };
        let mut world = World::with_old();
        let (mut update, effects) = begun(way);
        world.perform(&effects);
        let (mut now, mut accepted, mut stopped) = (1000, false, false);
        for number in numbers {
            let before = update.clone();
            let event = event(number, &update, &mut world);
            // After that, no VM has to serve. An update that was already committed still runs to its end.
            stopped |= matches!(event, Event::Cancel(_));
            now = if number % 3 == 0 { update.until.unwrap_or(now).max(now) } else { now + 1 };
            accepted |= event == Event::Accepted && update.phase == Phase::Examining;
            let (after, effects) = next(&update, now, &event, &LIMITS);
            update = after;
            world.perform(&effects);
            prop_assert!(world.commits <= 1);
            prop_assert_eq!(world.commits == 1, update.is_committed());
            prop_assert!(!update.is_committed() || accepted);
            if before.is_over() {
                prop_assert_eq!(&before, &update);
                prop_assert!(effects.is_empty());
            }
            if way == Way::Beside && !update.is_committed() && !stopped {
                prop_assert!(world.died || world.old.open || world.new.open, "{:?}", world);
                prop_assert!(world.died || world.old.alive);
            }
            let process = match update.phase {
                Phase::Emptying | Phase::Retiring => world.old.alive || world.died,
                Phase::Reverting { .. } => world.new.alive,
                Phase::Done | Phase::Failed { .. } => true,
                _ => update.until.is_some(),
            };
            prop_assert!(process, "{update:?} has no end");
            if let (Phase::Failed { .. }, false) = (&update.phase, stopped) {
                prop_assert!(world.old.alive && world.old.open && !world.old.draining);
            }
        }
    }

    /// A daemon that restarts at any moment finds one of the two deployments, and the update reaches an end.
    #[test]
    fn a_killed_daemon_recovers_into_a_whole_state(
        numbers in prop::collection::vec(any::<u8>(), 0..30),
        beside: bool,
        new_lives: bool,
        edited: bool,
    ) {
        let way = if beside { Way::Beside } else { Way::InPlace };
        let mut world = World::with_old();
        let (mut update, effects) = begun(way);
        world.perform(&effects);
        let (mut now, mut stopped) = (1000, false);
        for number in numbers {
            let event = event(number, &update, &mut world);
            stopped |= matches!(event, Event::Cancel(_));
            now = update.until.filter(|_| number % 3 == 0).unwrap_or(now).max(now) + 1;
            let (after, effects) = next(&update, now, &event, &LIMITS);
            update = after;
            world.perform(&effects);
        }
        // The update is read back from disk.
        let kept = serde_json::to_vec(&update).unwrap();
        let mut update: Update = serde_json::from_slice(&kept).unwrap();
        let mut events = vec![];
        if !new_lives && update.has_new() {
            world.new = Vm::default();
            events.push(Event::NewEnded("it was gone when the daemon came back".into()));
        }
        if edited {
            events.push(Event::Superseded("the file names another image now".into()));
        }
        events.push(Event::Resumed);
        for _ in 0..20 {
            if update.is_over() {
                break;
            }
            let event = events.pop().unwrap_or_else(|| match update.phase {
                Phase::Emptying | Phase::Retiring => Event::OldEnded,
                Phase::Reverting { .. } => Event::NewEnded("killed".into()),
                _ => Event::Tick,
            });
            now = update.until.unwrap_or(now).max(now);
            let (after, effects) = next(&update, now, &event, &LIMITS);
            update = after;
            if event == Event::OldEnded {
                world.old = Vm::default();
            }
            if matches!(event, Event::NewEnded(_)) {
                world.new = Vm::default();
            }
            world.perform(&effects);
        }
        prop_assert!(update.is_over(), "{update:?}");
        match update.phase {
            // From here on, the new VM has a life cycle of its own.
            Phase::Done => prop_assert!(world.commits == 1),
            _ => {
                prop_assert!(world.commits == 0);
                let whole = world.old.alive && world.old.open && !world.old.draining;
                prop_assert!(stopped || whole, "{world:?}");
            }
        }
    }
}
