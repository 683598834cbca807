//! How long to wait before the next try.

use std::time::Duration;

use crate::config::Restart;

/// The pause after so many failures in a row: it doubles, and never exceeds the greatest delay.
#[must_use]
pub fn backoff(restart: &Restart, failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(31);
    restart
        .delay
        .saturating_mul(1 << doublings)
        .min(restart.max_delay)
}
