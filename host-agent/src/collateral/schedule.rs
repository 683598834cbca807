//! When to request an item again: well before it expires, and after failures at growing intervals. A pure function.

use super::Dates;
use super::want::Want;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
/// Pause after the first failure, in seconds.
const FIRST_PAUSE: u64 = 30;
/// Maximum pause after a failure, in seconds.
const LONGEST_PAUSE: u64 = HOUR;

/// What is known of one item.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Known {
    /// Time of the last fetch, and the validity period of the answer.
    pub fetched: Option<(u64, Dates)>,
    /// Time of the last failure, and the number of failures since the last success.
    pub failed: Option<(u64, u32)>,
}

/// Returns when to request the item next, Unix time; a time up to `now` means at once. Times in the future come from a wrong
/// clock and are ignored.
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

/// Maximum age of an item in seconds, whatever its validity: the vendor may change it earlier.
fn longest(want: &Want) -> u64 {
    match want {
        // Intel may publish at any time. Its documents are valid for a month.
        Want::Intel { .. } => DAY,
        // The certificate is valid for years, but the revocation list changes. AMD limits how often a chip may be requested.
        Want::Amd { .. } => 2 * DAY,
        // NVIDIA replaces a version's manifest only to correct it.
        Want::Rim { .. } => 7 * DAY,
        Want::RimNames => DAY,
        // Clients accept a response of up to seven days.
        Want::Ocsp { .. } => 12 * HOUR,
    }
}

/// Pause in seconds, doubled with each failure.
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
        // Two hours old and valid for six more: half of its life is reached in two hours.
        assert_eq!(
            next(&Want::RimNames, kept(2 * HOUR, 6 * HOUR), NOW),
            NOW + 2 * HOUR
        );
        // Valid for a month: renewed after a day.
        let month = kept(HOUR, 30 * DAY);
        assert_eq!(next(&Want::RimNames, month, NOW), NOW + 23 * HOUR);
        // Expired before it was fetched: due at once.
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
        // The entry with a plausible time still counts.
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
