//! Computes rates from the counters that a guest sends about every ten seconds.

use std::collections::VecDeque;

use cocoon_protocol::control::Metrics;
use serde::{Deserialize, Serialize};

use crate::lifecycle::Millis;

/// Time over which a rate is taken, in milliseconds. Long answers change no counter before they end, so a shorter window
/// would flicker.
const WINDOW: Millis = 60_000;
/// Time without counters after which a guest has no rate, in milliseconds.
const STALE: Millis = 30_000;
/// Largest number of samples, more than a window needs.
const KEPT: usize = 16;
/// Least time between samples, in milliseconds. A sample that comes sooner replaces the newest one.
const APART: Millis = 2_000;

/// Rates of a guest's activity, per second.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rates {
    /// Completion tokens per second.
    pub completion_tokens: f64,
    /// Prompt tokens per second.
    pub prompt_tokens: f64,
    /// Requests that reach the engine, per second.
    pub requests: f64,
    /// Time over which the rates were taken, in seconds.
    pub seconds: f64,
}

/// Samples of a guest's counters with their times.
#[derive(Debug, Clone, Default)]
pub struct Meter {
    samples: VecDeque<(Millis, Metrics)>,
}

impl Meter {
    /// Records the guest's counters at the time `now`.
    pub fn add(&mut self, now: Millis, metrics: Metrics) {
        let newest = self.samples.len().checked_sub(2);
        let before = newest.and_then(|index| self.samples.get(index));
        if before.is_some_and(|(at, _)| now.saturating_sub(*at) < APART) {
            self.samples.pop_back();
        }
        self.samples.push_back((now, metrics));
        // The newest sample outside the window is kept, since it is the window's start.
        let outside = |index: usize| {
            let sample = self.samples.get(index);
            sample.is_some_and(|(at, _)| now.saturating_sub(*at) >= WINDOW)
        };
        let old = (1..self.samples.len())
            .take_while(|index| outside(*index))
            .count();
        let old = old.max(self.samples.len().saturating_sub(KEPT));
        self.samples.drain(..old);
    }

    /// Forgets all samples, because another guest starts to count.
    pub fn clear(&mut self) {
        self.samples.clear();
    }

    /// Returns the current rates; `None` if they are not known.
    #[must_use]
    pub fn rates(&self, now: Millis) -> Option<Rates> {
        let ((from, first), (to, last)) = (self.samples.front()?, self.samples.back()?);
        if to <= from || now.saturating_sub(*to) > STALE {
            return None;
        }
        let seconds = (to - from) as f64 / 1000.0;
        // For counters that decrease, the rate is zero.
        let rate = |of: fn(&Metrics) -> u64| of(last).saturating_sub(of(first)) as f64 / seconds;
        Some(Rates {
            completion_tokens: rate(|metrics| metrics.completion_tokens),
            prompt_tokens: rate(|metrics| metrics.prompt_tokens),
            requests: rate(|metrics| metrics.requests),
            seconds,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tokens(completion_tokens: u64) -> Metrics {
        Metrics {
            completion_tokens,
            ..Metrics::default()
        }
    }

    #[test]
    fn a_rate_is_of_the_last_minute_and_of_nothing_older() {
        let mut meter = Meter::default();
        assert_eq!(meter.rates(0), None);
        meter.add(1_000, tokens(0));
        assert_eq!(meter.rates(1_000), None);
        meter.add(11_000, tokens(50));
        let rates = meter.rates(12_000).unwrap();
        assert_eq!((rates.completion_tokens, rates.seconds), (5.0, 10.0));
        for tick in 2..20 {
            meter.add(1_000 + tick * 10_000, tokens(50 + tick * 100));
        }
        let rates = meter.rates(191_000).unwrap();
        assert_eq!((rates.completion_tokens, rates.seconds), (10.0, 60.0));
        // The guest has stopped reporting.
        assert_eq!(meter.rates(191_000 + STALE + 1), None);
        meter.clear();
        assert_eq!(meter.rates(191_000), None);
    }

    proptest! {
        /// Whatever a guest reports and when, rates are finite and not negative, and the number of samples is bounded.
        #[test]
        fn no_guest_can_break_a_rate(told in prop::collection::vec((0..5_000_u64, any::<u64>()), 0..200)) {
            let (mut meter, mut now) = (Meter::default(), 1);
            for (later, count) in told {
                now += later;
                meter.add(now, tokens(count));
                prop_assert!(meter.samples.len() <= KEPT);
                if let Some(rates) = meter.rates(now) {
                    prop_assert!(rates.completion_tokens.is_finite() && rates.completion_tokens >= 0.0);
                    prop_assert!(rates.seconds > 0.0);
                }
            }
        }
    }
}
