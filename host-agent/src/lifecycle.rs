//! The life of an appliance as a pure function with effects: no clock, no process, no socket.
//!
//! ```text
//!            start                started          evidence          listener open
//! Created ──────────▶ Preparing ─────────▶ Booting ─────────▶ Attesting ─────────▶ Serving
//!                     ▲  ▲   │ ended          │ ended            │ ended            │ │ ended
//!               start │  └───┴──── back-off ◀─┴──────────────────┴──────────────────┘ │ stop, restart
//!                     │             │ too many failures                               ▼
//!                  Stopped        Failed ◀────────── does not die ─────────────── Draining ──▶ Stopped
//! ```
//!
//! A run that ends before QEMU runs was refused: it is tried again for as long as it is wanted, after pauses that grow. What it
//! lacks may come late, as services do after the machine's boot.
//!
//! | state | is | ends by itself after | who else ends it |
//! |---|---|---|---|
//! | [`Created`](State::Created) | known, never started | never | the operator |
//! | [`Preparing`](State::Preparing) | waits for its back-off, then for image, port, simulator and QEMU | the back-off, then [`Deadlines::preparing`] | its process |
//! | [`Booting`](State::Booting) | QEMU runs: firmware, kernel, agent, model | [`Deadlines::booting`] | its process |
//! | [`Attesting`](State::Attesting) | the guest takes its evidence, the engine loads | [`Deadlines::attesting`] | its process |
//! | [`Serving`](State::Serving) | the guest has its evidence and its listener is open | never | its process, the operator |
//! | [`Draining`](State::Draining) | running requests finish, or it has failed and QEMU ends; killed if they do not | [`Deadlines::draining`], [`Deadlines::dying`] | its process |
//! | [`Stopped`](State::Stopped) | nothing runs, as asked | never | the operator's start alone |
//! | [`Failed`](State::Failed) | nothing is tried any more, and why | never | the operator's start alone |
//!
//! *Its process* is the supervisor that owns QEMU: whatever happens to either is [`Event::Ended`]. Every event is
//! handled in every state; what a state does not expect changes nothing. A restart is scheduled by the deadline of
//! `Preparing`, which is part of the state, so that it survives the daemon. Each run has a number, and effects name it:
//! an effect is never emitted twice for one run, except to a process that a new daemon has found, or this one again
//! ([`Event::Adopted`]): it may not have heard what it was told before.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::Restart;

mod backoff;
mod next;

pub use backoff::backoff;
pub use next::next;

/// Milliseconds since 1970, on a clock that only goes forward.
pub type Millis = u64;

/// So many refusals in a row are more than a moment: seconds, with the usual pauses.
const HELD_UP: u32 = 5;

/// An appliance's life so far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lifecycle {
    /// Where it is.
    pub state: State,
    /// Since when.
    pub since: Millis,
    /// How many runs have begun.
    pub run: u64,
    /// Failures in a row.
    pub failures: u32,
    /// Runs in a row that were refused before QEMU ran; those are no crash loop. Absent where there is none, as in what an earlier daemon kept.
    #[serde(default, skip_serializing_if = "is_none")]
    pub refusals: u32,
    /// Why it failed last.
    pub last_failure: Option<String>,
}

/// Where an appliance is in its life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case", deny_unknown_fields)]
pub enum State {
    /// Known, never started.
    Created,
    /// Everything before QEMU runs.
    Preparing {
        /// Begins then, after a failure; `None` once its process is started.
        restart_at: Option<Millis>,
    },
    /// QEMU runs.
    Booting,
    /// The guest takes its evidence.
    Attesting,
    /// Clients are served.
    Serving,
    /// On the way down.
    Draining {
        /// What comes after.
        then: Then,
        /// Whether it was told to finish (false), or killed (true).
        killed: bool,
    },
    /// Nothing runs, as asked.
    Stopped {
        /// Whether the daemon's end was the reason: then its next start is a start.
        resume: bool,
    },
    /// Nothing is tried any more.
    Failed {
        /// Why.
        reason: String,
    },
}

/// What comes after draining.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Then {
    /// Rest.
    Stop {
        /// As in [`State::Stopped`].
        resume: bool,
    },
    /// The next run.
    Start,
    /// It counts as a failure.
    Fail {
        /// Why it had to end.
        reason: String,
    },
}

/// How far a process has come, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Before QEMU runs.
    Preparing,
    /// QEMU runs.
    Booting,
    /// The guest takes its evidence.
    Attesting,
    /// The guest has its evidence, and its listener is open.
    Serving,
    /// It was told to finish, by whomever.
    Draining,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The operator wants it to run.
    Start,
    /// The operator wants it to finish and rest.
    Stop,
    /// The operator wants it to finish and run anew.
    Restart,
    /// The daemon ends in good order.
    Halt,
    /// A daemon that has just started found the process of the last run alive, or one that had lost sight of it.
    Adopted,
    /// The process came this far: QEMU's start, the guest's messages, its evidence.
    Reached(Stage),
    /// The process says that the VM has failed and that it is ending it.
    Failing(String),
    /// QEMU said over QMP that the machine does not run any more.
    Halted(String),
    /// The process is gone, and QEMU with it.
    Ended(Ending),
    /// Time has passed.
    Tick,
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Ending {
    /// As asked.
    Stopped,
    /// Otherwise.
    Failed {
        /// Why.
        reason: String,
    },
}

/// Something to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Keep the new state on disk and tell everybody. Before all other effects, so that none is forgotten.
    Publish,
    /// Start the process of this run.
    Launch(u64),
    /// Ask the process of this run to finish.
    Drain(u64),
    /// Kill the process of this run.
    Kill(u64),
}

/// What the operator decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// When to try again.
    pub restart: Restart,
    /// How long states may last.
    pub deadlines: Deadlines,
}

/// How long states may last. The process has deadlines of its own for the guest's silence; these hold when the process
/// itself is stuck. Those of ends are longer for a confidential guest ([`Deadlines::reclaiming`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// Image, simulator and QEMU, which may have to be fetched.
    pub preparing: Duration,
    /// From QEMU's start to the guest's evidence.
    pub booting: Duration,
    /// From the guest's evidence to its listener.
    pub attesting: Duration,
    /// The last requests.
    pub draining: Duration,
    /// The same of a VM that an update has replaced. Nobody waits for its end, so it has all the time that its guest gives
    /// running requests, and a minute to end.
    pub retiring: Duration,
    /// From SIGKILL to the end.
    pub dying: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            preparing: Duration::from_secs(1800),
            booting: Duration::from_secs(3600),
            // A load has 1800 s of the guest's own, and GPUs and evidence come before it.
            attesting: Duration::from_secs(2700),
            draining: Duration::from_secs(180),
            retiring: Duration::from_secs(660),
            dying: Duration::from_secs(30),
        }
    }
}

impl Deadlines {
    /// The same of a VM whose memory the kernel may take so long to give back, however it ends.
    #[must_use]
    pub fn reclaiming(self, reclaim: Duration) -> Self {
        Self {
            draining: self.draining + reclaim,
            retiring: self.retiring + reclaim,
            dying: self.dying + reclaim,
            ..self
        }
    }

    /// How long a start may take until it serves or has failed.
    #[must_use]
    pub fn up(&self) -> Duration {
        self.preparing + self.booting + self.attesting
    }

    /// How long a stop may take, whatever runs: also that of a VM which an update has just replaced.
    #[must_use]
    pub fn down(&self) -> Duration {
        self.draining.max(self.retiring) + self.dying
    }
}

/// What ends a state if nothing else does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// The clock, then.
    Deadline(Millis),
    /// The operator's next command.
    Operator,
    /// The end of the process, which is always noticed.
    Process,
}

impl Lifecycle {
    /// A new appliance.
    #[must_use]
    pub fn new(now: Millis) -> Self {
        Self {
            state: State::Created,
            since: now,
            run: 0,
            failures: 0,
            refusals: 0,
            last_failure: None,
        }
    }

    /// What ends the state if nothing else does.
    #[must_use]
    pub fn holder(&self, rules: &Rules) -> Holder {
        let after = |duration: Duration| Holder::Deadline(later(self.since, duration));
        let limits = &rules.deadlines;
        match &self.state {
            State::Created | State::Stopped { .. } | State::Failed { .. } => Holder::Operator,
            State::Preparing {
                restart_at: Some(at),
            } => Holder::Deadline(*at),
            State::Preparing { restart_at: None } => after(limits.preparing),
            State::Booting => after(limits.booting),
            State::Attesting => after(limits.attesting),
            State::Serving => Holder::Process,
            State::Draining { killed: false, .. } => after(limits.draining),
            State::Draining { killed: true, .. } => after(limits.dying),
        }
    }

    /// What a clock that was wrong has dated into the future counts from `now` on.
    pub fn date(&mut self, now: Millis) {
        let ahead = self.since.saturating_sub(now);
        self.since -= ahead;
        if let State::Preparing {
            restart_at: Some(at),
        } = &mut self.state
        {
            *at = at.saturating_sub(ahead);
        }
    }

    /// Tries in a row that came to nothing, however.
    #[must_use]
    pub fn in_a_row(&self) -> u32 {
        self.failures.saturating_add(self.refusals)
    }

    /// Whether it lacks something for longer than the moments after the machine's boot.
    #[must_use]
    pub fn is_held_up(&self) -> bool {
        self.refusals >= HELD_UP
    }

    /// Whether only an earlier daemon's end has stopped it, or is about to: then the next one starts it.
    #[must_use]
    pub fn resumes(&self) -> bool {
        match self.state {
            State::Stopped { resume }
            | State::Draining {
                then: Then::Stop { resume },
                ..
            } => resume,
            _ => false,
        }
    }

    /// Whether a process of the last run may be alive.
    #[must_use]
    pub fn has_process(&self) -> bool {
        match self.state {
            State::Created
            | State::Stopped { .. }
            | State::Failed { .. }
            | State::Preparing {
                restart_at: Some(_),
            } => false,
            State::Preparing { restart_at: None }
            | State::Booting
            | State::Attesting
            | State::Serving
            | State::Draining { .. } => true,
        }
    }
}

impl State {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Preparing { .. } => "preparing",
            Self::Booting => "booting",
            Self::Attesting => "attesting",
            Self::Serving => "serving",
            Self::Draining { .. } => "draining",
            Self::Stopped { .. } => "stopped",
            Self::Failed { .. } => "failed",
        }
    }

    /// Whether only the operator's start leads on.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Stopped { .. } | Self::Failed { .. })
    }
}

fn is_none(count: &u32) -> bool {
    *count == 0
}

fn later(at: Millis, duration: Duration) -> Millis {
    at.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests;
