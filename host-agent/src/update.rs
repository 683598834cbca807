//! An update of an appliance as a pure function with effects: no clock, no process, no socket.
//!
//! ```text
//!   beside ──▶ Starting ─serves─▶ Examining ─accepted─▶ Switching ─switched─▶ Proving ─time─▶ Retiring ─ended─▶ Done
//!                 ▲  │ ended, late    │ refused, late       │ failed, late      │ ended        (the new one counts)
//! in place ─▶ Emptying└───────────────┴────────▶ Reverting ◀┴───────────────────┘
//!                                                    └─ended─▶ Failed (the old one counts, and serves)
//! ```
//!
//! | phase | the new VM | the old VM | ends by itself after |
//! |---|---|---|---|
//! | [`Emptying`](Phase::Emptying) | is not there | finishes: in place alone | its process's end |
//! | [`Starting`](Phase::Starting) | boots | serves (beside), is gone (in place) | [`Limits::starting`] |
//! | [`Examining`](Phase::Examining) | serves nobody; its evidence is judged as a client would | the same | the same moment |
//! | [`Switching`](Phase::Switching) | takes the public listener | the same | [`Limits::switching`] |
//! | [`Proving`](Phase::Proving) | takes every new connection | is held back, with its connections | [`Limits::proving`] |
//! | [`Retiring`](Phase::Retiring) | is the appliance | finishes its requests | its process's end |
//! | [`Reverting`](Phase::Reverting) | is killed | takes connections again, or is started again | its process's end |
//! | [`Done`](Phase::Done), [`Failed`](Phase::Failed) | is the appliance; is gone | is gone; is the appliance | |
//!
//! Until the end of `Proving` the old deployment is the appliance's, whatever happens: a daemon that comes back, and a
//! machine that boots, find the old one. From then on it is the new one. There is no state between. Only an update that was in
//! `Emptying`, where nothing speaks against the new VM yet and the old one was to end, goes on with the new one.

use std::path::PathBuf;
use std::time::Duration;

use cocoon_protocol::bytes::Hex32;
use serde::{Deserialize, Serialize};

use crate::lifecycle::Millis;

pub mod check;
mod next;
pub mod plan;
pub mod store;

pub use next::{begin, next};

/// What an appliance runs: an image, and the manifest that is published with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deployment {
    /// Folder of the image.
    pub image: PathBuf,
    /// The manifest, when it is not the one in that folder.
    pub manifest: Option<PathBuf>,
    /// Its identity, as far as it could be read.
    pub manifest_id: Option<Hex32>,
    /// Its release.
    pub release: Option<u64>,
    /// When it ends, in seconds since 1970. Absent in what an earlier daemon kept.
    #[serde(default)]
    pub not_after: Option<u64>,
}

/// How the new VM comes to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// While the old one serves: nobody is turned away.
    Beside,
    /// After the old one has finished: clients are turned away until the new one serves.
    InPlace,
}

/// An update under way, or the last one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Update {
    /// Number of the appliance's updates, rollbacks included, from 1.
    pub number: u64,
    /// Whether it goes back to the deployment before.
    pub rollback: bool,
    /// How.
    pub way: Way,
    /// Where it is.
    pub phase: Phase,
    /// Since when.
    pub since: Millis,
    /// When the phase is given up, or over.
    pub until: Option<Millis>,
    /// What is to run.
    pub to: Deployment,
    /// Whether the old VM ran, or was to: else nothing is started again when this fails. Absent in what an earlier daemon
    /// kept, which started it always.
    #[serde(default = "always")]
    pub ran: bool,
    /// The client's policy file by which the new VM's evidence is judged; `None` for the default policy.
    #[serde(default)]
    pub policy: Option<PathBuf>,
}

/// Where an update is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Phase {
    /// In place: the old VM finishes.
    Emptying,
    /// The new VM boots.
    Starting,
    /// Its evidence is judged.
    Examining,
    /// It takes the public listener.
    Switching,
    /// It serves, and the old one is held back.
    Proving,
    /// The old one finishes; the new one is the appliance.
    Retiring,
    /// The new one is killed.
    Reverting {
        /// Why.
        reason: String,
        /// Whether the old one is to serve again: not when the operator stops the appliance.
        restore: bool,
    },
    /// The new one is the appliance, and alone.
    Done,
    /// The old one is the appliance, as before.
    Failed {
        /// Why.
        reason: String,
    },
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// No process of the old VM is left.
    OldEnded,
    /// The new VM's guest has its evidence and listens.
    NewServes,
    /// Its evidence is what a client would accept.
    Accepted,
    /// It is not.
    Refused(String),
    /// The new VM takes the public connections.
    Switched,
    /// It cannot.
    NotSwitched(String),
    /// The new VM does not take the public connections any more: it is on its way down.
    NewEnds(String),
    /// No process of the new VM is left.
    NewEnded(String),
    /// The operator wants the appliance to stop: the old VM is not to serve again.
    Cancel(String),
    /// The disk did not take the last step, which was not done.
    NotKept(String),
    /// The operator's file names another image than this update began from: the old VM goes on.
    Superseded(String),
    /// A new daemon has taken up both VMs, as far as they live: what the old one may not have done is done again.
    Resumed,
    /// Time has passed.
    Tick,
}

/// Something to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Keep the new state on disk and tell everybody. Before all other effects.
    Publish,
    /// Let the old VM finish and stop.
    EmptyOld,
    /// Start the new VM; its listener stays shut.
    StartNew,
    /// Judge the new VM's evidence.
    Examine,
    /// Let the new VM take the public listener.
    Switch,
    /// Let the old VM take no more connections, and keep those that it has. Should it die, its next run takes none either.
    HoldOld,
    /// Make the new deployment the appliance's, in the same step as [`Effect::Publish`].
    Commit,
    /// Let the old VM, which is not the appliance any more, finish.
    RetireOld,
    /// Kill the new VM.
    KillNew,
    /// Let the old VM take connections again, with the listener that it has, or that its next run gets from the system.
    ReleaseOld,
    /// Start the old VM again, unless it runs. Only if it did before.
    StartOld,
}

/// How long the phases may last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// From the new VM's start to the judgement on its evidence.
    pub starting: Duration,
    /// The change of the listener.
    pub switching: Duration,
    /// How long the old VM is kept ready.
    pub proving: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            starting: Duration::from_secs(3600),
            switching: Duration::from_secs(30),
            proving: Duration::from_secs(10),
        }
    }
}

fn always() -> bool {
    true
}

impl Update {
    /// Whether it is over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Done | Phase::Failed { .. })
    }

    /// What a clock that was wrong has dated into the future counts from `now` on.
    pub fn date(&mut self, now: Millis) {
        let ahead = self.since.saturating_sub(now);
        self.since -= ahead;
        self.until = self.until.map(|until| until.saturating_sub(ahead));
    }

    /// Whether the new deployment is the appliance's.
    #[must_use]
    pub fn is_committed(&self) -> bool {
        matches!(self.phase, Phase::Retiring | Phase::Done)
    }

    /// Whether the step that led here with these effects is not taken where it cannot be kept: a daemon that comes back
    /// would not know of it. A way back is gone all the same, because nothing better can be done.
    #[must_use]
    pub fn must_be_kept(&self, effects: &[Effect]) -> bool {
        let goes_on = !self.is_over() && !matches!(self.phase, Phase::Reverting { .. });
        // In place, the commit is the end.
        goes_on || effects.contains(&Effect::Commit)
    }

    /// Whether a new VM is wanted, before the new deployment is the appliance's.
    #[must_use]
    pub fn has_new(&self) -> bool {
        match self.phase {
            Phase::Starting
            | Phase::Examining
            | Phase::Switching
            | Phase::Proving
            | Phase::Reverting { .. } => true,
            Phase::Emptying | Phase::Retiring | Phase::Done | Phase::Failed { .. } => false,
        }
    }

    /// The phase for people.
    #[must_use]
    pub fn words(&self) -> String {
        match &self.phase {
            Phase::Emptying => {
                "the old VM finishes first: clients are turned away until the new one serves".into()
            }
            Phase::Starting if self.way == Way::Beside => {
                "the new VM boots beside the old one, which serves".into()
            }
            Phase::Starting => "the new VM boots".into(),
            Phase::Examining => {
                "the new VM serves; its evidence is judged as a client would".into()
            }
            Phase::Switching => "its evidence is accepted; it takes the public listener".into(),
            Phase::Proving if self.way == Way::Beside => {
                "the new VM takes every new connection; the old one is kept ready".into()
            }
            Phase::Proving => "the new VM serves".into(),
            Phase::Retiring => "the new VM is the appliance; the old one finishes".into(),
            Phase::Reverting { reason, .. } => format!("going back to the old VM: {reason}"),
            Phase::Done => "the new VM is the appliance".into(),
            Phase::Failed { reason } => format!("the old VM is the appliance, as before: {reason}"),
        }
    }
}

impl Phase {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Emptying => "emptying",
            Self::Starting => "starting",
            Self::Examining => "examining",
            Self::Switching => "switching",
            Self::Proving => "proving",
            Self::Retiring => "retiring",
            Self::Reverting { .. } => "reverting",
            Self::Done => "done",
            Self::Failed { .. } => "failed",
        }
    }
}

#[cfg(test)]
mod tests;
