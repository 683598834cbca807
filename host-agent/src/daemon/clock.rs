//! A clock in milliseconds since 1970 that never goes back, even if the machine's clock is changed.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::lifecycle::Millis;

/// A monotonic clock that started at the machine's time of day.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    base: Millis,
    started: Instant,
}

impl Clock {
    /// Starts a clock at the machine's current time of day.
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

    /// Time that is left until `at`.
    pub(super) fn until(&self, at: Millis) -> Duration {
        Duration::from_millis(at.saturating_sub(self.now()))
    }
}

fn millis(duration: Duration) -> Millis {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
