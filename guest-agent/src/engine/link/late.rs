//! How long an engine may take, by what it has to do: one that hangs is ended, and one that reads a long prompt is not.

use std::time::Duration;

use tokio::time::Instant;

use super::{Link, LinkError};
use crate::engine::Slot;
use crate::engine::running::Running;

/// How long an engine may be silent while it loads, of which it says nothing before the end: longer than a boot waits for the first one.
pub(crate) const LOADING: Duration = Duration::from_secs(2400);
/// How long it may be between two tokens. Emulated machines are slow.
const SILENCE: Duration = Duration::from_secs(600);
/// How much longer it may be for each token of the prompts that it has to read: it reads one in a single step, of which it
/// says nothing before the end, and takes some four seconds for a token on the slowest machine there is, an emulated one.
const READING: Duration = Duration::from_secs(4);
/// How much longer for all of them, whatever their lengths: as long as a connection takes requests. Of what takes longer
/// nobody would hear the end.
const LONGEST_READING: Duration = Duration::from_secs(3600);

/// A generation that was cancelled and that the engine has not let go of: until then nobody gets its slot.
pub(super) struct Leaving {
    _slot: Slot,
    /// What the engine may take for its prompt, if it was not read when it was cancelled.
    reading: Duration,
    /// When it was cancelled.
    since: Instant,
    /// What the engine may take for all prompts that may come before it goes, its own among them.
    before: Duration,
}

impl Leaving {
    /// Cancelled now, when the engine may take so long for the prompts of all the others.
    pub fn new(running: Running, others: Duration) -> Self {
        let reading = reading(&running);
        Self {
            _slot: running.leave(),
            reading,
            since: Instant::now(),
            before: others + reading,
        }
    }

    /// Another came, whose prompt may be read in the step that the engine is at.
    pub fn wait_for(&mut self, other: &Running) {
        self.before += reading(other);
    }

    /// When it must be gone.
    fn until(&self) -> Instant {
        self.since + patience(self.before)
    }
}

/// What an engine may take for the prompt of a generation, if it has not read it.
fn reading(running: &Running) -> Duration {
    READING * running.unread()
}

/// How long it may be silent that takes so long for its prompts.
fn patience(reading: Duration) -> Duration {
    SILENCE + reading.min(LONGEST_READING)
}

impl Link<'_> {
    /// When the engine takes too long, and with what.
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

    /// What it may take for all that it has to read.
    pub(super) fn reading(&self) -> Duration {
        let running = self.running.values().map(reading);
        let leaving = self.leaving.values().map(|leaving| leaving.reading);
        running.chain(leaving).sum()
    }
}
