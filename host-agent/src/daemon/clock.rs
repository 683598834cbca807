//! Milliseconds since 1970 that only go forward, whatever is done to the machine's clock.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::lifecycle::Millis;

/// The clock of one keeper.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    base: Millis,
    started: Instant,
}

impl Clock {
    /// From what the machine's clock says now.
    pub(super) fn new() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            base: now.map_or(0, millis),
            started: Instant::now(),
        }
    }

    pub(super) fn now(&self) -> Millis {
        self.base.saturating_add(millis(self.started.elapsed()))
    }

    /// How long until then.
    pub(super) fn until(&self, at: Millis) -> Duration {
        Duration::from_millis(at.saturating_sub(self.now()))
    }
}

fn millis(duration: Duration) -> Millis {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
