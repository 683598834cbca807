//! When a vendor is asked again: well before what is kept ends, and after a failure later each time. No clock, no network.

use super::Dates;
use super::want::Want;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
/// The first pause after a failure.
const FIRST_PAUSE: u64 = 30;
/// The longest pause after failures.
const LONGEST_PAUSE: u64 = HOUR;

/// What is known of one want.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Known {
    /// When it was fetched last, and its dates.
    pub fetched: Option<(u64, Dates)>,
    /// When it was asked for last without success, and how often since the last success.
    pub failed: Option<(u64, u32)>,
}

/// When to ask for it next, Unix time; `now` or earlier says now. What was noted at a time that is yet to come was noted by a
/// wrong clock, and counts for nothing.
#[must_use]
pub fn next(want: &Want, known: Known, now: u64) -> u64 {
    let fetched = known.fetched.filter(|(at, _)| *at <= now);
    let failed = known.failed.filter(|(at, _)| *at <= now);
    let renewal = fetched.map_or(0, |(at, dates)| {
        let life = dates.due.saturating_sub(at);
        at.saturating_add((life / 2).min(longest(want)))
    });
    let pause = failed.map_or(0, |(at, times)| at.saturating_add(pause(times)));
    renewal.max(pause)
}

/// How old it may get, whatever its own dates say: what it says may change before they end.
fn longest(want: &Want) -> u64 {
    match want {
        // Intel publishes at any time; its documents live for a month.
        Want::Intel { .. } => DAY,
        // The certificate lives for years; the list beside it is what changes, and AMD answers a chip seldom.
        Want::Amd { .. } => 2 * DAY,
        // A version's manifest is replaced when it was wrong.
        Want::Rim { .. } => 7 * DAY,
        Want::RimNames => DAY,
        // Clients accept seven days.
        Want::Ocsp { .. } => 12 * HOUR,
    }
}

/// Twice as long each time.
fn pause(times: u32) -> u64 {
    let doubled = FIRST_PAUSE.checked_shl(times.saturating_sub(1).min(16));
    doubled.unwrap_or(LONGEST_PAUSE).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: u64 = 1_750_000_000;

    fn kept(age: u64, left: u64) -> Known {
        let made = NOW - age;
        let dates = Dates {
            made,
            due: NOW + left,
        };
        Known {
            fetched: Some((made, dates)),
            failed: None,
        }
    }

    #[test]
    fn what_is_missing_is_asked_for_at_once_and_then_less_and_less_often() {
        let want = Want::RimNames;
        assert_eq!(next(&want, Known::default(), NOW), 0);
        let pauses: Vec<u64> = (1..10)
            .map(|times| {
                let failed = Some((NOW, times));
                next(
                    &want,
                    Known {
                        failed,
                        fetched: None,
                    },
                    NOW,
                ) - NOW
            })
            .collect();
        assert_eq!(pauses, [30, 60, 120, 240, 480, 960, 1920, 3600, 3600]);
    }

    #[test]
    fn what_is_kept_is_renewed_at_half_its_life_or_sooner() {
        // Two hours old and good for six more: at four, that is in two.
        assert_eq!(
            next(&Want::RimNames, kept(2 * HOUR, 6 * HOUR), NOW),
            NOW + 2 * HOUR
        );
        // Good for a month: after a day.
        let month = kept(HOUR, 30 * DAY);
        assert_eq!(next(&Want::RimNames, month, NOW), NOW + 23 * HOUR);
        // It ended: long ago.
        let ended = Known {
            fetched: Some((
                NOW,
                Dates {
                    made: 0,
                    due: NOW - DAY,
                },
            )),
            failed: None,
        };
        assert_eq!(next(&Want::RimNames, ended, NOW), NOW);
    }

    #[test]
    fn what_a_wrong_clock_noted_keeps_nobody_from_asking() {
        let later = Dates {
            made: NOW,
            due: NOW + 60 * DAY,
        };
        let ahead = Known {
            fetched: Some((NOW + 1, later)),
            failed: Some((NOW + 30 * DAY, 9)),
        };
        assert_eq!(next(&Want::RimNames, ahead, NOW), 0);
        // One of the two that is right counts.
        let known = Known {
            failed: Some((NOW, 1)),
            ..ahead
        };
        assert_eq!(next(&Want::RimNames, known, NOW), NOW + FIRST_PAUSE);
    }

    proptest! {
        #[test]
        fn failures_never_make_it_sooner_and_never_add_more_than_an_hour(age in 0..DAY, left in 0..60 * DAY, since in 0..DAY, times in 1..u32::MAX) {
            let good = kept(age, left);
            let failed = Known { failed: Some((NOW - since, times)), ..good };
            let (sooner, later) = (next(&Want::RimNames, good, NOW), next(&Want::RimNames, failed, NOW));
            prop_assert!(later >= sooner);
            prop_assert!(later <= sooner.max(NOW - since + LONGEST_PAUSE));
        }
    }
}
