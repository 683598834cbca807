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
/// How much longer for one prompt, whatever its length: as long as a connection takes requests. Of what takes longer nobody
/// would hear the end.
const LONGEST_READING: Duration = Duration::from_secs(3600);

/// A generation that was cancelled and that the engine has not let go of: until then nobody gets its slot.
pub(super) struct Leaving {
    _slot: Slot,
    /// What the engine may take for its prompt, if it was not read when it was cancelled.
    reading: Duration,
    /// When it must be gone.
    until: Instant,
}

impl Leaving {
    /// Cancelled now, when the engine may be silent for so long with all the others.
    pub fn new(running: Running, patience: Duration) -> Self {
        let reading = reading(&running);
        Self {
            _slot: running.leave(),
            reading,
            // Whatever it has to read may come before.
            until: Instant::now() + patience + reading,
        }
    }
}

/// What an engine may take for the prompt of a generation, if it has not read it.
fn reading(running: &Running) -> Duration {
    (READING * running.unread()).min(LONGEST_READING)
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
        let patience = self.patience();
        let silent = (self.heard + patience, LinkError::Silent(patience));
        // Each that it has to read or to let go of may come before the others.
        let reads = self.running.values().any(Running::is_unread);
        let gone = self.leaving.values().map(|leaving| leaving.until).max();
        let holds = gone.filter(|_| !reads).map(|due| (due, LinkError::Holds));
        [holds, Some(silent)]
            .into_iter()
            .flatten()
            .min_by_key(|(due, _)| *due)
    }

    /// How long it may be silent, with all that it has to read.
    pub(super) fn patience(&self) -> Duration {
        let running = self.running.values().map(reading);
        let leaving = self.leaving.values().map(|leaving| leaving.reading);
        SILENCE + running.chain(leaving).sum::<Duration>()
    }
}
