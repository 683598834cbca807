//! How long to wait before the next try.

use std::time::Duration;

use crate::config::Restart;

/// The pause after so many failures in a row. After the first there is none: what failed once is wanted back at once. From the
/// second on it doubles, and never exceeds the greatest delay.
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

/// The pause after so many refusals in a row. Those have no end, so that pauses grow also where failures have none.
pub(super) fn patient(restart: &Restart, refusals: u32) -> Duration {
    let restart = Restart {
        delay: restart.delay.max(Duration::from_millis(100)),
        max_delay: restart.max_delay.max(Duration::from_secs(1)),
        ..*restart
    };
    backoff(&restart, refusals)
}
