//! Transitions of an update.

use std::time::Duration;

use super::{Deployment, Effect, Event, Limits, Phase, Update, Way};
use crate::lifecycle::Millis;

/// Returns a new update and its first effects. `ran` is whether the old VM runs, or is to run.
#[must_use]
pub fn begin(
    number: u64,
    rollback: bool,
    way: Way,
    to: Deployment,
    ran: bool,
    now: Millis,
    limits: &Limits,
) -> (Update, Vec<Effect>) {
    let update = Update {
        number,
        rollback,
        way,
        phase: Phase::Emptying,
        since: now,
        until: None,
        to,
        ran,
        policy: None,
    };
    let mut step = Step::new(&update, now, limits);
    match way {
        Way::Beside => step.start(),
        Way::InPlace => step.effects.push(Effect::EmptyOld),
    }
    step.effects.insert(0, Effect::Publish);
    (step.update, step.effects)
}

/// Returns the update after `event` and the effects, in order. `now` must not decrease.
#[must_use]
pub fn next(update: &Update, now: Millis, event: &Event, limits: &Limits) -> (Update, Vec<Effect>) {
    let mut step = Step::new(update, now, limits);
    match event {
        Event::OldEnded => step.old_ended(),
        Event::NewServes => {
            if update.phase == Phase::Starting {
                // The deadline stays, since it covers both phases.
                step.update.phase = Phase::Examining;
                step.update.since = now;
                step.effects.push(Effect::Examine);
            }
        }
        Event::Accepted => {
            if update.phase == Phase::Examining {
                step.enter(Phase::Switching, Some(limits.switching));
                step.effects.push(Effect::Switch);
            }
        }
        Event::Refused(why) => {
            if update.phase == Phase::Examining {
                step.revert(why, true);
            }
        }
        Event::Switched => {
            if update.phase == Phase::Switching {
                step.enter(Phase::Proving, Some(limits.proving));
                step.hold_old();
            }
        }
        Event::NotSwitched(why) => {
            if update.phase == Phase::Switching {
                step.revert(why, true);
            }
        }
        Event::NewEnded(why) => step.new_ended(why),
        Event::Cancel(why) => step.cancel(why),
        Event::NewEnds(why) | Event::NotKept(why) | Event::Superseded(why) => step.give_up(why),
        Event::Resumed => step.resumed(),
        Event::Tick => step.tick(),
    }
    if step.update != *update {
        step.effects.insert(0, Effect::Publish);
    }
    (step.update, step.effects)
}

struct Step<'a> {
    update: Update,
    now: Millis,
    limits: &'a Limits,
    effects: Vec<Effect>,
}

impl<'a> Step<'a> {
    fn new(update: &Update, now: Millis, limits: &'a Limits) -> Self {
        Self {
            update: update.clone(),
            now,
            limits,
            effects: vec![],
        }
    }

    fn enter(&mut self, phase: Phase, lasts: Option<Duration>) {
        let later = |lasts: Duration| {
            let millis = u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX);
            self.now.saturating_add(millis)
        };
        self.update.until = lasts.map(later);
        self.update.phase = phase;
        self.update.since = self.now;
    }

    fn start(&mut self) {
        self.enter(Phase::Starting, Some(self.limits.starting));
        self.effects.push(Effect::StartNew);
    }

    fn hold_old(&mut self) {
        if self.update.way == Way::Beside {
            self.effects.push(Effect::HoldOld);
        }
    }

    fn old_ended(&mut self) {
        match self.update.phase {
            Phase::Emptying => self.start(),
            Phase::Retiring => self.enter(Phase::Done, None),
            // The appliance's own life cycle starts the old VM again. In `Proving`, that run waits for the listener.
            _ => {}
        }
    }

    fn revert(&mut self, why: &str, restore: bool) {
        let reason = why.to_owned();
        self.enter(Phase::Reverting { reason, restore }, None);
        // The old VM is released before the new one is gone: until then, the new one may accept connections and drop them.
        self.release_old(restore);
        self.effects.push(Effect::KillNew);
    }

    fn release_old(&mut self, restore: bool) {
        if restore && self.update.way == Way::Beside {
            self.effects.push(Effect::ReleaseOld);
        }
    }

    fn new_ended(&mut self, why: &str) {
        let (reason, restore) = match &self.update.phase {
            Phase::Starting | Phase::Examining | Phase::Switching | Phase::Proving => {
                (why.to_owned(), true)
            }
            // The first reason is kept.
            Phase::Reverting { reason, restore } => (reason.clone(), *restore),
            // The new VM does not exist yet, or is the appliance and has a life cycle of its own.
            Phase::Emptying | Phase::Retiring | Phase::Done | Phase::Failed { .. } => return,
        };
        self.enter(Phase::Failed { reason }, None);
        self.release_old(restore);
        if restore {
            // Also beside: the old VM may have died and been given up in the meantime.
            self.start_old();
        }
    }

    fn start_old(&mut self) {
        if self.update.ran {
            self.effects.push(Effect::StartOld);
        }
    }

    fn cancel(&mut self, why: &str) {
        match &self.update.phase {
            Phase::Emptying => {
                let reason = why.to_owned();
                self.enter(Phase::Failed { reason }, None);
                // Whether it stays stopped afterwards is decided by the caller.
                self.start_old();
            }
            Phase::Starting | Phase::Examining | Phase::Switching | Phase::Proving => {
                self.revert(why, false);
            }
            Phase::Reverting { reason, .. } => {
                let (reason, restore) = (reason.clone(), false);
                self.update.phase = Phase::Reverting { reason, restore };
            }
            Phase::Retiring | Phase::Done | Phase::Failed { .. } => {}
        }
    }

    fn give_up(&mut self, why: &str) {
        match &self.update.phase {
            Phase::Emptying => {
                let reason = why.to_owned();
                self.enter(Phase::Failed { reason }, None);
                self.start_old();
            }
            Phase::Starting | Phase::Examining | Phase::Switching | Phase::Proving => {
                self.revert(why, true);
            }
            // An update that goes back or is over cannot do anything better.
            Phase::Reverting { .. } | Phase::Retiring | Phase::Done | Phase::Failed { .. } => {}
        }
    }

    fn resumed(&mut self) {
        match &self.update.phase {
            Phase::Emptying => self.effects.push(Effect::EmptyOld),
            Phase::Examining => self.effects.push(Effect::Examine),
            Phase::Switching => self.effects.push(Effect::Switch),
            Phase::Proving => self.hold_old(),
            Phase::Retiring => self.effects.push(Effect::RetireOld),
            Phase::Reverting { restore, .. } => {
                self.release_old(*restore);
                self.effects.push(Effect::KillNew);
            }
            // Whether the new VM serves or has ended arrives as an event of its own.
            Phase::Starting | Phase::Done | Phase::Failed { .. } => {}
        }
    }

    fn tick(&mut self) {
        if self.update.until.is_none_or(|until| self.now < until) {
            return;
        }
        let seconds = |limit: Duration| format!("within {} seconds", limit.as_secs_f64());
        match self.update.phase {
            Phase::Starting => {
                let why = format!("it did not serve {}", seconds(self.limits.starting));
                self.revert(&why, true);
            }
            Phase::Examining => {
                let limit = seconds(self.limits.starting);
                self.revert(&format!("its evidence was not accepted {limit}"), true);
            }
            Phase::Switching => {
                let limit = seconds(self.limits.switching);
                self.revert(&format!("it did not get the public listener {limit}"), true);
            }
            Phase::Proving => match self.update.way {
                Way::Beside => {
                    self.enter(Phase::Retiring, None);
                    self.effects.extend([Effect::Commit, Effect::RetireOld]);
                }
                Way::InPlace => {
                    self.enter(Phase::Done, None);
                    self.effects.push(Effect::Commit);
                }
            },
            // These phases have no deadline.
            Phase::Emptying
            | Phase::Retiring
            | Phase::Reverting { .. }
            | Phase::Done
            | Phase::Failed { .. } => {}
        }
    }
}
