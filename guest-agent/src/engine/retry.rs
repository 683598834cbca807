//! Estimates when another attempt is worthwhile, from how long recent generations took. Estimates are given in steps so
//! coarse that they reveal no single generation.

use std::collections::VecDeque;
use std::time::Duration;

/// Number of recent generations that are kept.
const KEPT: usize = 64;
/// With fewer generations the assumed time is used, because the mean of a few would reveal each of them.
const LEAST: usize = 16;
/// Assumed time of a generation until enough were measured.
const ASSUMED: Duration = Duration::from_secs(1);
/// Possible estimates, in seconds.
const STEPS: [u32; 7] = [1, 2, 5, 10, 20, 30, 60];

/// How long recent generations held their slots.
#[derive(Default)]
pub(super) struct ServiceTimes(VecDeque<Duration>);

impl ServiceTimes {
    /// Adds a generation that ended, for whatever reason.
    pub fn add(&mut self, held: Duration) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(held);
    }

    /// Estimates the seconds until a request may find `wanted` of `slots` slots, when requests for `ahead` slots wait
    /// before it. The estimate is rounded up to the next step, or is the last step.
    pub fn retry_after(&self, ahead: usize, wanted: usize, slots: usize) -> u32 {
        let mean = match u32::try_from(self.0.len()) {
            Ok(count) if self.0.len() >= LEAST => self.0.iter().sum::<Duration>() / count,
            _ => ASSUMED,
        };
        let rounds = (ahead + wanted).div_ceil(slots.max(1));
        let estimate = mean.saturating_mul(u32::try_from(rounds).unwrap_or(u32::MAX));
        let fits = |step: &&u32| Duration::from_secs((**step).into()) >= estimate;
        *STEPS.iter().find(fits).unwrap_or(&STEPS[STEPS.len() - 1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_estimate_follows_what_was_measured_in_steps() {
        let mut times = ServiceTimes::default();
        assert_eq!(times.retry_after(0, 1, 4), 1);
        assert_eq!(times.retry_after(11, 1, 4), 5, "three rounds of a second");
        for _ in 1..LEAST {
            times.add(Duration::from_secs(9));
        }
        assert_eq!(times.retry_after(0, 1, 4), 1, "too few to be told");
        times.add(Duration::from_secs(9));
        assert_eq!(times.retry_after(0, 1, 4), 10);
        assert_eq!(times.retry_after(4, 1, 4), 20);
        assert_eq!(
            times.retry_after(usize::MAX / 2, 1, 4),
            60,
            "no more than a minute"
        );
        // Old generations do not count any more.
        for _ in 0..KEPT {
            times.add(Duration::from_millis(1));
        }
        assert_eq!(times.retry_after(4, 1, 4), 1);
    }
}
