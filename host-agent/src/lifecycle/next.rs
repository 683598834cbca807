//! The transitions of the life cycle.

use std::time::Duration;

use super::{
    Effect, Ending, Event, Holder, Lifecycle, Millis, Rules, Stage, State, Then, backoff, later,
};
use crate::config::RestartPolicy;

/// Returns the next life cycle, and the effects to carry out in order. `now` never goes back.
#[must_use]
pub fn next(
    life: &Lifecycle,
    now: Millis,
    event: &Event,
    rules: &Rules,
) -> (Lifecycle, Vec<Effect>) {
    let mut step = Step {
        life: life.clone(),
        now,
        rules,
        effects: vec![],
    };
    match event {
        Event::Start => step.start(),
        Event::Stop => step.stop(Then::Stop { resume: false }),
        Event::Halt => step.stop(Then::Stop { resume: true }),
        Event::Restart => step.restart(),
        Event::Adopted => step.adopted(),
        Event::Reached(stage) => step.reached(*stage),
        Event::Failing(why) => step.failing(why),
        Event::Halted(why) => {
            if life.has_process() {
                step.kill(Then::Fail {
                    reason: why.clone(),
                });
            }
        }
        Event::Ended(ending) => step.ended(ending),
        Event::Tick => step.tick(),
    }
    if step.life != *life {
        step.effects.insert(0, Effect::Publish);
    }
    (step.life, step.effects)
}

struct Step<'a> {
    life: Lifecycle,
    now: Millis,
    rules: &'a Rules,
    effects: Vec<Effect>,
}

impl Step<'_> {
    fn enter(&mut self, state: State) {
        self.life.state = state;
        self.life.since = self.now;
    }

    fn launch(&mut self) {
        self.life.run = self.life.run.saturating_add(1);
        self.enter(State::Preparing { restart_at: None });
        self.effects.push(Effect::Launch(self.life.run));
    }

    fn start(&mut self) {
        match &mut self.life.state {
            State::Created | State::Stopped { .. } | State::Failed { .. } => {
                self.forgive();
                self.launch();
            }
            // The operator need not wait for the back-off. The failures still count.
            State::Preparing {
                restart_at: Some(_),
            } => self.launch(),
            // The appliance ends first, and starts afterwards.
            State::Draining { then, .. } => *then = Then::Start,
            State::Preparing { restart_at: None }
            | State::Booting
            | State::Attesting
            | State::Serving => {}
        }
    }

    fn stop(&mut self, then: Then) {
        let halting = then == Then::Stop { resume: true };
        match &mut self.life.state {
            State::Created if halting => {}
            State::Created
            | State::Preparing {
                restart_at: Some(_),
            } => {
                self.rest(halting);
            }
            // Before QEMU runs, there is nothing to finish and nobody to ask.
            State::Preparing { restart_at: None } => self.kill(then),
            State::Booting | State::Attesting | State::Serving => self.drain(then),
            // An appliance that the operator stopped does not resume with the next daemon.
            State::Draining {
                then: Then::Stop { .. },
                ..
            } if halting => {}
            State::Draining { then: later, .. } => *later = then,
            State::Stopped { resume } => *resume &= halting,
            State::Failed { .. } => {}
        }
    }

    fn restart(&mut self) {
        match &self.life.state {
            State::Preparing { restart_at: None } => self.kill(Then::Start),
            State::Booting | State::Attesting | State::Serving => self.drain(Then::Start),
            _ => self.start(),
        }
    }

    /// Forgets failures if the VM has served long enough, however this run ends.
    fn forget(&mut self) {
        let healthy = self.rules.restart.healthy;
        if self.life.state == State::Serving && self.now >= later(self.life.since, healthy) {
            self.life.failures = 0;
        }
    }

    /// An operator's command starts the counts anew.
    fn forgive(&mut self) {
        (self.life.failures, self.life.refusals) = (0, 0);
    }

    fn rest(&mut self, resume: bool) {
        self.forgive();
        self.enter(State::Stopped { resume });
    }

    fn drain(&mut self, then: Then) {
        let killed = false;
        self.forget();
        self.enter(State::Draining { then, killed });
        self.effects.push(Effect::Drain(self.life.run));
    }

    /// Kills the process, once. If it is draining or being killed already, the first reason stays.
    fn kill(&mut self, then: Then) {
        let then = match &self.life.state {
            State::Draining { killed: true, .. } => return,
            State::Draining { then, .. } => then.clone(),
            _ => then,
        };
        self.forget();
        self.enter(State::Draining { then, killed: true });
        self.effects.push(Effect::Kill(self.life.run));
    }

    fn adopted(&mut self) {
        match self.life.state {
            // The process is ending the VM by itself.
            State::Draining {
                then: Then::Fail { .. },
                killed: false,
            } => {}
            State::Draining { killed: false, .. } => {
                self.effects.push(Effect::Drain(self.life.run));
            }
            State::Draining { killed: true, .. } => self.effects.push(Effect::Kill(self.life.run)),
            _ => {}
        }
    }

    /// Moves only forward: late and repeated reports change nothing.
    fn reached(&mut self, stage: Stage) {
        let at = match self.life.state {
            State::Preparing { restart_at: None } => Stage::Preparing,
            State::Booting => Stage::Booting,
            State::Attesting => Stage::Attesting,
            State::Serving => Stage::Serving,
            _ => return,
        };
        if stage <= at {
            return;
        }
        let state = match stage {
            // Excluded by the comparison above.
            Stage::Preparing => return,
            Stage::Booting => State::Booting,
            Stage::Attesting => State::Attesting,
            Stage::Serving => State::Serving,
            // Somebody asked the process directly, without the daemon.
            Stage::Draining => State::Draining {
                then: Then::Stop { resume: false },
                killed: false,
            },
        };
        // Nothing is missing any more.
        self.life.refusals = 0;
        self.enter(state);
    }

    /// Leaves `Serving` at once: the process of a confidential guest may take long to end.
    fn failing(&mut self, why: &str) {
        match self.life.state {
            State::Preparing { restart_at: None }
            | State::Booting
            | State::Attesting
            | State::Serving => {}
            // The first reason stays.
            _ => return,
        }
        let reason = why.to_owned();
        let then = Then::Fail { reason };
        self.forget();
        let killed = false;
        self.enter(State::Draining { then, killed });
    }

    fn ended(&mut self, ending: &Ending) {
        if !self.life.has_process() {
            return;
        }
        self.forget();
        let state = self.life.state.clone();
        match (state, ending) {
            // However it ended, the appliance is stopped, as requested.
            (
                State::Draining {
                    then: Then::Stop { resume },
                    ..
                },
                _,
            ) => {
                self.rest(resume);
            }
            (
                State::Draining {
                    then: Then::Start, ..
                },
                _,
            ) => {
                self.forgive();
                self.launch();
            }
            // The ending has the full reason.
            (State::Draining { killed: false, .. }, Ending::Failed { reason }) => {
                self.failed(reason);
            }
            (
                State::Draining {
                    then: Then::Fail { reason },
                    ..
                },
                _,
            ) => self.failed(&reason),
            // Somebody asked the process directly, and it ended at once.
            (_, Ending::Stopped) => self.rest(false),
            (State::Preparing { .. }, Ending::Failed { reason }) => self.refused(reason),
            (_, Ending::Failed { reason }) => self.failed(reason),
        }
    }

    /// QEMU never ran. Giving up would help nobody, and the back-off bounds the cost of more tries.
    fn refused(&mut self, reason: &str) {
        self.life.refusals = self.life.refusals.saturating_add(1);
        self.life.last_failure = Some(reason.to_owned());
        match self.rules.restart.policy {
            RestartPolicy::Never => self.give_up(reason.to_owned()),
            RestartPolicy::OnFailure => {
                let pause = backoff::patient(&self.rules.restart, self.life.refusals);
                self.wait(pause);
            }
        }
    }

    fn failed(&mut self, reason: &str) {
        let restart = &self.rules.restart;
        self.life.failures = self.life.failures.saturating_add(1);
        self.life.last_failure = Some(reason.to_owned());
        let failures = self.life.failures;
        if restart.policy == RestartPolicy::Never {
            return self.give_up(reason.to_owned());
        }
        if failures >= restart.max_failures {
            return self.give_up(if restart.max_failures == 1 {
                reason.to_owned()
            } else {
                format!("it failed {failures} times in a row, the last time because {reason}")
            });
        }
        self.wait(backoff(restart, failures));
    }

    fn give_up(&mut self, reason: String) {
        self.enter(State::Failed { reason });
    }

    /// Waits for the back-off before the next run.
    fn wait(&mut self, pause: Duration) {
        let restart_at = Some(later(self.now, pause));
        self.enter(State::Preparing { restart_at });
    }

    fn tick(&mut self) {
        match self.life.holder(self.rules) {
            Holder::Deadline(at) if self.now >= at => {}
            _ => return,
        }
        let late = |what: &str, limit: Duration| Then::Fail {
            reason: format!("{what} took more than {} seconds", limit.as_secs()),
        };
        let limits = &self.rules.deadlines;
        match &self.life.state {
            State::Preparing {
                restart_at: Some(_),
            } => self.launch(),
            State::Preparing { restart_at: None } => {
                self.kill(late("preparing", limits.preparing));
            }
            State::Booting => self.kill(late("booting", limits.booting)),
            State::Attesting => self.kill(late("attesting", limits.attesting)),
            State::Draining { killed: false, .. } => {
                self.kill(late("draining", limits.draining));
            }
            State::Draining { killed: true, .. } => {
                let reason = format!(
                    "its process is alive {} seconds after SIGKILL: it hangs inside the kernel",
                    limits.dying.as_secs()
                );
                self.life.last_failure = Some(reason.clone());
                self.enter(State::Failed { reason });
            }
            // These states have no deadline.
            State::Created | State::Serving | State::Stopped { .. } | State::Failed { .. } => {}
        }
    }
}
