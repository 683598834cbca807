//! Warns of the expiry of a manifest. From then on every client refuses the appliance, although the host serves it as before.
//! This module only warns in time for an update, and refuses nothing.

use std::time::Duration;

use tokio::time::sleep;

use crate::collateral::keeper::clock;
use crate::text::utc;
use crate::watch::top::age;

/// Seconds before the expiry from which on the operator is warned: a week.
pub const SOON: u64 = 7 * 86_400;

/// Interval of the checks for a running VM. The expiry is a time of day, which may be changed, and a timer stops while the
/// machine sleeps, so one long timer would not do.
const LOOK: Duration = Duration::from_secs(3600);

/// What the operator can do.
const WAY_OUT: &str = "build or get a newer release, sign its manifest and give both to `cocoon-host update`; \
    without the daemon, start again with its image";

/// How near a manifest is to its expiry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Term {
    /// More than [`SOON`] is left.
    Fine,
    /// At most [`SOON`] is left.
    EndsSoon,
    /// The manifest has expired; no client accepts it.
    Ended,
}

/// Classifies a manifest that is valid until `not_after`, at `now`, both in seconds since 1970. As for clients, the last
/// second counts as valid.
#[must_use]
pub fn term(not_after: u64, now: u64) -> Term {
    match not_after.checked_sub(now) {
        None => Term::Ended,
        Some(left) if left <= SOON => Term::EndsSoon,
        Some(_) => Term::Fine,
    }
}

/// Returns the warning for the operator; `None` if there is enough time.
#[must_use]
pub fn warning(not_after: u64, now: u64) -> Option<String> {
    let told = match term(not_after, now) {
        Term::Fine => return None,
        Term::EndsSoon => "from then on every client refuses this appliance",
        Term::Ended => "every client refuses this appliance",
    };
    let when = when(not_after, now);
    Some(format!("the image's manifest {when}; {told}: {WAY_OUT}"))
}

/// Formats the expiry: `ends on 2026-12-30T11:05:00Z, in 29d` or `ended on …, 3d ago`.
#[must_use]
pub fn when(not_after: u64, now: u64) -> String {
    let (date, span) = (utc(not_after), span(not_after, now));
    match term(not_after, now) {
        Term::Ended => format!("ended on {date}, {span} ago"),
        Term::Fine | Term::EndsSoon => format!("ends on {date}, in {span}"),
    }
}

/// A short form of [`warning`], of at most 17 characters.
#[must_use]
pub fn sign(not_after: u64, now: u64) -> Option<String> {
    match term(not_after, now) {
        Term::Fine => None,
        Term::EndsSoon => Some(format!("manifest {} left", span(not_after, now))),
        Term::Ended => Some("manifest ended".to_owned()),
    }
}

/// Warns whenever the term changes to one with a warning. The caller has given the current warning already. Never returns.
pub(crate) async fn watch(not_after: u64, warn: impl Fn(String)) {
    let mut said = term(not_after, clock());
    loop {
        sleep(LOOK).await;
        if let Some(text) = newly(&mut said, not_after, clock()) {
            warn(text);
        }
    }
}

/// Returns the warning at `now`, unless the term is the one in `said`.
fn newly(said: &mut Term, not_after: u64, now: u64) -> Option<String> {
    let before = std::mem::replace(said, term(not_after, now));
    warning(not_after, now).filter(|_| *said != before)
}

fn span(not_after: u64, now: u64) -> String {
    age(not_after.abs_diff(now).saturating_mul(1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: u64 = 1_797_000_000;

    #[test]
    fn a_manifest_counts_in_its_last_second_and_is_told_of_for_a_week() {
        for (now, expected) in [
            (0, Term::Fine),
            (END - SOON - 1, Term::Fine),
            (END - SOON, Term::EndsSoon),
            (END, Term::EndsSoon),
            (END + 1, Term::Ended),
            (u64::MAX, Term::Ended),
        ] {
            assert_eq!(term(END, now), expected, "{now}");
        }
    }

    #[test]
    fn the_operator_hears_when_and_what_to_do() {
        assert_eq!(warning(END, END - 30 * 86_400), None);
        assert_eq!(
            warning(END, END - 6 * 86_400).unwrap(),
            "the image's manifest ends on 2026-12-11T14:40:00Z, in 6d; from then on every client refuses this \
             appliance: build or get a newer release, sign its manifest and give both to `cocoon-host update`; without \
             the daemon, start again with its image"
        );
        let ended = warning(END, END + 3 * 86_400).unwrap();
        assert!(
            ended.starts_with(
                "the image's manifest ended on 2026-12-11T14:40:00Z, 3d ago; every client refuses this appliance: build"
            ),
            "{ended}"
        );
        assert_eq!(
            when(END, END - 30 * 86_400),
            "ends on 2026-12-11T14:40:00Z, in 30d"
        );
    }

    #[test]
    fn a_vm_that_runs_on_warns_once_a_week_before_and_once_at_the_end() {
        let mut said = Term::Fine;
        let days = (0..60).map(|day| END - 30 * 86_400 + day * 86_400);
        let warned: Vec<u64> = days
            .filter(|now| newly(&mut said, END, *now).is_some())
            .collect();
        assert_eq!(warned, [END - SOON, END + 86_400]);
        // The clock is corrected and then wrong again: the warning is repeated.
        assert_eq!(newly(&mut said, END, 0), None);
        assert!(newly(&mut said, END, END).is_some());
    }

    #[test]
    fn its_sign_fits_a_column() {
        let sign = |now| sign(END, now);
        assert_eq!(sign(END - 8 * 86_400), None);
        assert_eq!(sign(END - 6 * 86_400).unwrap(), "manifest 6d left");
        assert_eq!(sign(END + 1).unwrap(), "manifest ended");
        for left in [0, 59, 3_599, 172_799, SOON] {
            assert!(sign(END - left).unwrap().len() <= 17, "{left}");
        }
    }
}
