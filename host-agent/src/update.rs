//! The update of an appliance as a pure state machine with effects: it reads no clock and owns no process or socket.
//!
//! ```text
//!   beside ──▶ Starting ─serves─▶ Examining ─accepted─▶ Switching ─switched─▶ Proving ─time─▶ Retiring ─ended─▶ Done
//!                 ▲  │ ended, late    │ refused, late       │ failed, late      │ ended        (the new one counts)
//! in place ─▶ Emptying└───────────────┴────────▶ Reverting ◀┴───────────────────┘
//!                                                    └─ended─▶ Failed (the old one counts, and serves)
//! ```
//!
//! | phase | the new VM | the old VM | longest duration |
//! |---|---|---|---|
//! | [`Emptying`](Phase::Emptying) | does not exist yet | drains (in place only) | until its process ends |
//! | [`Starting`](Phase::Starting) | boots | serves (beside), is gone (in place) | [`Limits::starting`] |
//! | [`Examining`](Phase::Examining) | has no clients; its evidence is appraised as a client would | the same | the deadline of `Starting` |
//! | [`Switching`](Phase::Switching) | takes the public listener | the same | [`Limits::switching`] |
//! | [`Proving`](Phase::Proving) | takes every new connection | is held back, keeps its connections | [`Limits::proving`] |
//! | [`Retiring`](Phase::Retiring) | is the appliance | finishes its requests | until its process ends |
//! | [`Reverting`](Phase::Reverting) | is killed | takes connections again, or is started again | until the new VM's process ends |
//! | [`Done`](Phase::Done), [`Failed`](Phase::Failed) | is the appliance; is gone | is gone; is the appliance | |
//!
//! Until `Proving` ends, the old deployment is the appliance's in every case: a restarted daemon or machine finds it. From
//! then on, the new deployment is. There is no state in between. One exception: an update that was interrupted in
//! `Emptying` goes on with the new VM, since nothing speaks against it yet and the old one was to end.

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
    /// The manifest, if it is not the one in that folder.
    pub manifest: Option<PathBuf>,
    /// Identity of the manifest; `None` if it could not be read.
    pub manifest_id: Option<Hex32>,
    /// Release that the manifest names.
    pub release: Option<u64>,
    /// Expiry of the manifest, in seconds since 1970. Absent in files of earlier releases.
    #[serde(default)]
    pub not_after: Option<u64>,
}

/// How the new VM replaces the old one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// While the old VM serves: no client is refused.
    Beside,
    /// After the old VM has ended: clients are refused until the new one serves.
    InPlace,
}

/// An update under way, or the last one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Update {
    /// Number of this update among those of the appliance, rollbacks included, from 1.
    pub number: u64,
    /// Whether the update goes back to the previous deployment.
    pub rollback: bool,
    /// How the new VM replaces the old one.
    pub way: Way,
    /// The current phase.
    pub phase: Phase,
    /// When the phase began.
    pub since: Millis,
    /// Deadline of the phase, or the time at which it is over.
    pub until: Option<Millis>,
    /// The deployment to change to.
    pub to: Deployment,
    /// Whether the old VM ran, or was to run. Otherwise it is not started again if the update fails. Absent in files of
    /// earlier releases, which always started it.
    #[serde(default = "always")]
    pub ran: bool,
    /// Client policy by which the new VM's evidence is appraised; `None` for the default policy.
    #[serde(default)]
    pub policy: Option<PathBuf>,
}

/// Phase of an update.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Phase {
    /// In place only: the old VM finishes.
    Emptying,
    /// The new VM boots.
    Starting,
    /// The new VM's evidence is appraised.
    Examining,
    /// The new VM takes the public listener.
    Switching,
    /// The new VM serves, and the old one is held back.
    Proving,
    /// The new VM is the appliance, and the old one finishes.
    Retiring,
    /// The new VM is killed.
    Reverting {
        /// Why the update goes back.
        reason: String,
        /// Whether the old VM is to serve again, which it is not if the operator stops the appliance.
        restore: bool,
    },
    /// The update is over, and the new VM is the appliance.
    Done,
    /// The update is over, and the old VM is the appliance, as before.
    Failed {
        /// Why the update failed.
        reason: String,
    },
}

/// An event that the state machine handles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// No process of the old VM is left.
    OldEnded,
    /// The new VM's guest has its evidence and serves.
    NewServes,
    /// A client would accept the new VM's evidence.
    Accepted,
    /// A client would refuse the new VM's evidence, for this reason.
    Refused(String),
    /// The new VM accepts the public connections.
    Switched,
    /// The new VM cannot take the public listener, for this reason.
    NotSwitched(String),
    /// The new VM no longer accepts the public connections: it is ending, for this reason.
    NewEnds(String),
    /// No process of the new VM is left.
    NewEnded(String),
    /// The operator wants the appliance to stop, so the old VM does not serve again.
    Cancel(String),
    /// The last step could not be written to disk and was not taken.
    NotKept(String),
    /// The configuration now names another image than when the update began, so the old VM goes on.
    Superseded(String),
    /// A restarted daemon has found the VMs that still live. Effects that the previous daemon may not have carried out are
    /// repeated.
    Resumed,
    /// Time has passed.
    Tick,
}

/// An action that the daemon carries out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Keep the new state on disk and publish it. Comes before all other effects.
    Publish,
    /// Let the old VM finish and stop.
    EmptyOld,
    /// Start the new VM, without the public listener.
    StartNew,
    /// Appraise the new VM's evidence.
    Examine,
    /// Let the new VM take the public listener.
    Switch,
    /// Let the old VM accept no more connections but keep those that it has. If it dies, its next run accepts none either.
    HoldOld,
    /// Make the new deployment the appliance's, in the same write as [`Effect::Publish`].
    Commit,
    /// Let the old VM finish and end; it is no longer the appliance.
    RetireOld,
    /// Kill the new VM.
    KillNew,
    /// Let the old VM accept connections again, on its listener or on a new one if its next run has none.
    ReleaseOld,
    /// Start the old VM again unless it runs. Only used if it ran before the update.
    StartOld,
}

/// How long the phases may last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// From the new VM's start until its evidence is accepted.
    pub starting: Duration,
    /// Handover of the public listener.
    pub switching: Duration,
    /// How long the old VM stays ready after the handover.
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
    /// Returns whether the update is over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Done | Phase::Failed { .. })
    }

    /// Moves times that a wrong clock has set in the future back, so that they count from `now`.
    pub fn date(&mut self, now: Millis) {
        let ahead = self.since.saturating_sub(now);
        self.since -= ahead;
        self.until = self.until.map(|until| until.saturating_sub(ahead));
    }

    /// Returns whether the new deployment is the appliance's.
    #[must_use]
    pub fn is_committed(&self) -> bool {
        matches!(self.phase, Phase::Retiring | Phase::Done)
    }

    /// Returns whether the step to this state, with these effects, must not be taken if it cannot be kept on disk: a
    /// restarted daemon would not know of it. A way back is taken in any case, since there is nothing better to do.
    #[must_use]
    pub fn must_be_kept(&self, effects: &[Effect]) -> bool {
        let goes_on = !self.is_over() && !matches!(self.phase, Phase::Reverting { .. });
        // In place, the update ends with the commit.
        goes_on || effects.contains(&Effect::Commit)
    }

    /// Returns whether a new VM should exist that is not the appliance's yet.
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

    /// Describes the phase to the operator.
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
    /// Returns the name of the phase.
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
