//! The back-off before the next run.

use std::time::Duration;

use crate::config::Restart;

/// Returns the back-off after a number of failures in a row. The first failure has none, since a single failure should be
/// repaired at once. From the second on it starts at `delay` and doubles, up to `max_delay`.
#[must_use]
pub fn backoff(restart: &Restart, failures: u32) -> Duration {
    let Some(doublings) = failures.checked_sub(2) else {
        return Duration::ZERO;
    };
    restart
        .delay
        .saturating_mul(1 << doublings.min(31))
        .min(restart.max_delay)
}

/// Returns the back-off after a number of refusals in a row. Refusals have no maximum number, so the back-off is at least 0.1
/// s after the second, with a maximum of at least 1 s.
pub(super) fn patient(restart: &Restart, refusals: u32) -> Duration {
    let restart = Restart {
        delay: restart.delay.max(Duration::from_millis(100)),
        max_delay: restart.max_delay.max(Duration::from_secs(1)),
        ..*restart
    };
    backoff(&restart, refusals)
}
