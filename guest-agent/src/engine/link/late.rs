//! Decides how long an engine may take for what it has to do: an engine that hangs is ended, and one that reads a long
//! prompt is not.

use std::time::Duration;

use tokio::time::Instant;

use super::{Link, LinkError};
use crate::engine::Slot;
use crate::engine::running::Running;

/// How long an engine may be silent while it loads, because it reports nothing before the end: longer than a boot waits
/// for its first engine.
pub(crate) const LOADING: Duration = Duration::from_secs(2400);
/// How long an engine may be silent between two tokens. Emulated machines are slow.
const SILENCE: Duration = Duration::from_secs(600);
/// Further silence for each token of the prompts that an engine has to read. It reads a prompt in a single step, of which it
/// reports nothing before the end. On the slowest machine, an emulated one, this takes about four seconds for each token.
const READING: Duration = Duration::from_secs(4);
/// Most further silence for all prompts together, which is as long as a connection takes requests: nobody would receive
/// what takes longer.
const LONGEST_READING: Duration = Duration::from_secs(3600);

/// A cancelled generation that the engine has not let go of. Until it has, its slot is not given to another.
pub(super) struct Leaving {
    _slot: Slot,
    /// Time allowed for its prompt, if the prompt had not been read when the generation was cancelled.
    reading: Duration,
    /// When the generation was cancelled.
    since: Instant,
    /// Time allowed for all prompts that may be read before the engine lets go, its own among them.
    before: Duration,
}

impl Leaving {
    /// Records a cancellation now. `others` is the time allowed for the prompts of all other generations.
    pub fn new(running: Running, others: Duration) -> Self {
        let reading = reading(&running);
        Self {
            _slot: running.leave(),
            reading,
            since: Instant::now(),
            before: others + reading,
        }
    }

    /// Allows for the prompt of another generation, which may be read in the engine's current step.
    pub fn wait_for(&mut self, other: &Running) {
        self.before += reading(other);
    }

    /// When the engine must have let go.
    fn until(&self) -> Instant {
        self.since + patience(self.before)
    }
}

/// Time allowed for the prompt of a generation, if it has not been read.
fn reading(running: &Running) -> Duration {
    READING * running.unread()
}

/// How long an engine may be silent that is allowed `reading` for its prompts.
fn patience(reading: Duration) -> Duration {
    SILENCE + reading.min(LONGEST_READING)
}

impl Link<'_> {
    /// Returns when the engine will have taken too long, and the error for it.
    pub(super) fn overdue(&self) -> Option<(Instant, LinkError)> {
        if self.state.borrow().ready.is_none() {
            return Some((self.heard + LOADING, LinkError::Silent(LOADING)));
        }
        if !self.is_busy() {
            return None;
        }
        let patience = patience(self.reading());
        let silent = (self.heard + patience, LinkError::Silent(patience));
        let gone = self.leaving.values().map(Leaving::until).min();
        let holds = gone.map(|due| (due, LinkError::Holds));
        [holds, Some(silent)]
            .into_iter()
            .flatten()
            .min_by_key(|(due, _)| *due)
    }

    /// Time allowed for all prompts that the engine has to read.
    pub(super) fn reading(&self) -> Duration {
        let running = self.running.values().map(reading);
        let leaving = self.leaving.values().map(|leaving| leaving.reading);
        running.chain(leaving).sum()
    }
}
