//! An appliance's life cycle as a pure function with effects: no clock, no process, no socket.
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
//! A run that ends before QEMU runs was refused. What it lacks may come late, as services do after the machine's boot, so it
//! is tried again after growing pauses until it succeeds or is stopped, except with the restart policy `never`.
//!
//! | state | meaning | ends by itself after | also ended by |
//! |---|---|---|---|
//! | [`Created`](State::Created) | known, never started | never | the operator |
//! | [`Preparing`](State::Preparing) | waits for its back-off, then for image, port, simulator and QEMU | the back-off, then [`Deadlines::preparing`] | its process |
//! | [`Booting`](State::Booting) | QEMU runs: firmware, kernel, agent, model | [`Deadlines::booting`] | its process |
//! | [`Attesting`](State::Attesting) | the guest collects its evidence, the engine loads | [`Deadlines::attesting`] | its process |
//! | [`Serving`](State::Serving) | the guest has its evidence and its listener is open | never | its process, the operator |
//! | [`Draining`](State::Draining) | running requests finish, or the VM has failed and QEMU ends; killed if they do not | [`Deadlines::draining`], [`Deadlines::dying`] | its process |
//! | [`Stopped`](State::Stopped) | nothing runs, as requested | never | only the operator's start |
//! | [`Failed`](State::Failed) | given up, with a reason | never | only the operator's start |
//!
//! *Its process* is the supervisor that owns QEMU; the end of both is [`Event::Ended`]. Every event is handled in every
//! state, and one that a state does not expect changes nothing. The time of a restart is part of the state `Preparing`, so
//! that it survives the daemon. Each run has a number, which its effects name. An effect is emitted only once for a run,
//! except to a process that was found or connected to again ([`Event::Adopted`]), because it may not have received the
//! earlier order.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::Restart;

mod backoff;
mod next;

pub use backoff::backoff;
pub use next::next;

/// Milliseconds since 1970, on a clock that never goes back.
pub type Millis = u64;

/// Number of refusals in a row after which an appliance counts as held up: with the default back-off, some seconds.
const HELD_UP: u32 = 5;

/// The life cycle of an appliance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lifecycle {
    /// Current state.
    pub state: State,
    /// Time at which the state was entered.
    pub since: Millis,
    /// Number of the last run; 0 before the first.
    pub run: u64,
    /// Number of failures in a row.
    pub failures: u32,
    /// Number of refusals in a row, which never count as a crash loop. Absent on disk if 0.
    #[serde(default, skip_serializing_if = "is_none")]
    pub refusals: u32,
    /// Reason of the last failure or refusal.
    pub last_failure: Option<String>,
}

/// The state of an appliance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case", deny_unknown_fields)]
pub enum State {
    /// Known, but never started.
    Created,
    /// Everything is made ready for QEMU.
    Preparing {
        /// Time of the next run, after a failure; `None` once its process has started.
        restart_at: Option<Millis>,
    },
    /// QEMU runs.
    Booting,
    /// The guest collects its evidence.
    Attesting,
    /// The guest serves clients.
    Serving,
    /// The VM is ending.
    Draining {
        /// What happens afterwards.
        then: Then,
        /// Whether the process was killed (true) or asked to finish (false).
        killed: bool,
    },
    /// Nothing runs, as requested.
    Stopped {
        /// Whether the daemon's end was the reason. If so, the next daemon starts the appliance again.
        resume: bool,
    },
    /// The appliance is given up.
    Failed {
        /// Why it was given up.
        reason: String,
    },
}

/// What happens after draining.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Then {
    /// The appliance stops.
    Stop {
        /// As in [`State::Stopped`].
        resume: bool,
    },
    /// The next run starts.
    Start,
    /// The run counts as a failure.
    Fail {
        /// Why the run had to end.
        reason: String,
    },
}

/// The stage that a process has reached, in ascending order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// QEMU does not run yet.
    Preparing,
    /// QEMU runs.
    Booting,
    /// The guest collects its evidence.
    Attesting,
    /// The guest has its evidence, and its listener is open.
    Serving,
    /// The process was asked to finish, by anybody.
    Draining,
}

/// An event in an appliance's life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The operator starts the appliance.
    Start,
    /// The operator stops the appliance.
    Stop,
    /// The operator restarts the appliance.
    Restart,
    /// The daemon ends in an orderly way.
    Halt,
    /// A daemon found the process of the last run after its own start, or connected to it again.
    Adopted,
    /// The process reached a stage: QEMU's start, the guest's messages, its evidence.
    Reached(Stage),
    /// The process reports that the VM has failed and is being ended.
    Failing(String),
    /// QEMU reported over QMP that the guest no longer runs.
    Halted(String),
    /// The process has ended, and QEMU with it.
    Ended(Ending),
    /// Time has passed; a deadline may have been reached.
    Tick,
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Ending {
    /// As requested.
    Stopped,
    /// For another reason.
    Failed {
        /// Why it ended.
        reason: String,
    },
}

/// An effect that the caller must carry out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Store the new state on disk and publish it. Precedes all other effects, so that none is forgotten.
    Publish,
    /// Start the process of this run.
    Launch(u64),
    /// Ask the process of this run to finish.
    Drain(u64),
    /// Kill the process of this run.
    Kill(u64),
}

/// The settings that transitions depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// When to restart.
    pub restart: Restart,
    /// How long states may last.
    pub deadlines: Deadlines,
}

/// Maximum durations of states. The process has deadlines of its own for the guest's silence; these apply even if the process
/// itself is stuck. [`Deadlines::reclaiming`] extends those of ending a confidential guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// Preparing image, simulator and QEMU, which may have to be fetched.
    pub preparing: Duration,
    /// Booting, from QEMU's start to the guest's evidence.
    pub booting: Duration,
    /// Attesting, from the guest's evidence to its listener.
    pub attesting: Duration,
    /// Draining: the last requests finish.
    pub draining: Duration,
    /// Draining of a VM that an update has replaced. Nobody waits for its end, so it gets all the time that its guest gives
    /// running requests, and a minute to end.
    pub retiring: Duration,
    /// Dying, from SIGKILL to the end of the process.
    pub dying: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            preparing: Duration::from_secs(1800),
            booting: Duration::from_secs(3600),
            // The guest gives the engine 1800 s to load; GPUs and evidence come before that.
            attesting: Duration::from_secs(2700),
            draining: Duration::from_secs(180),
            retiring: Duration::from_secs(660),
            dying: Duration::from_secs(30),
        }
    }
}

impl Deadlines {
    /// Extends the deadlines of ending by the time that the kernel may take to reclaim the VM's memory.
    #[must_use]
    pub fn reclaiming(self, reclaim: Duration) -> Self {
        Self {
            draining: self.draining + reclaim,
            retiring: self.retiring + reclaim,
            dying: self.dying + reclaim,
            ..self
        }
    }

    /// Maximum time from a start until the appliance serves or has failed.
    #[must_use]
    pub fn up(&self) -> Duration {
        self.preparing + self.booting + self.attesting
    }

    /// Maximum time of a stop, even of a VM that an update has just replaced.
    #[must_use]
    pub fn down(&self) -> Duration {
        self.draining.max(self.retiring) + self.dying
    }
}

/// What ends a state if no event does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// A deadline at this time.
    Deadline(Millis),
    /// The operator's next command.
    Operator,
    /// The end of the process, which is always noticed.
    Process,
}

impl Lifecycle {
    /// Creates the life cycle of a new appliance.
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

    /// Returns what ends the current state if no event does.
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

    /// Moves times that a wrong clock set into the future back to `now`.
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

    /// Number of failures and refusals in a row.
    #[must_use]
    pub fn in_a_row(&self) -> u32 {
        self.failures.saturating_add(self.refusals)
    }

    /// Whether the appliance has been refused for longer than the moments after the machine's boot.
    #[must_use]
    pub fn is_held_up(&self) -> bool {
        self.refusals >= HELD_UP
    }

    /// Whether the appliance stopped, or is stopping, only because the daemon ended. If so, the next daemon starts it.
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
    /// Name of the state.
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

    /// Whether only the operator's start leaves the state.
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
