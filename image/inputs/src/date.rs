//! Dates of Release files, and the identifiers that the snapshot archive derives from them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Parses an RFC 5322 date in UTC, as Release files have it; returns seconds since 1970.
pub(crate) fn parse(text: &str) -> Option<u64> {
    // Debian writes the time zone as UTC, and HTTP's otherwise equal format as GMT.
    let http = text
        .strip_suffix(" UTC")
        .map_or_else(|| text.to_owned(), |rest| format!("{rest} GMT"));
    // Some archives do not pad single-digit days.
    let http = match http.split_once(", ") {
        Some((day, rest)) if rest.as_bytes().get(1) == Some(&b' ') => format!("{day}, 0{rest}"),
        _ => http,
    };
    httpdate::parse_http_date(&http)
        .ok()?
        .duration_since(UNIX_EPOCH)
        .ok()
        .map(|since| since.as_secs())
}

/// Returns the snapshot identifier (`YYYYMMDDTHHMMSSZ`) for twelve hours after `date`. The snapshot archive imports an
/// archive some hours after the date of its Release file, and a file stays in an archive for longer than half a day.
pub(crate) fn snapshot_id(date: &str) -> Option<String> {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let seconds = parse(date)?.checked_add(12 * 3600)?;
    let text = httpdate::fmt_http_date(checked_time(seconds)?);
    // For example "Sat, 12 Sep 2026 19:55:41 GMT".
    let mut parts = text.split_once(", ")?.1.split(' ');
    let (day, month, year, time) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let month = MONTHS.iter().position(|name| *name == month)? + 1;
    Some(format!("{year}{month:02}{day}T{}Z", time.replace(':', "")))
}

/// Excludes times after the year 9999: HTTP dates end there, and formatting a later one panics.
fn checked_time(seconds: u64) -> Option<SystemTime> {
    (seconds < 253_402_300_800).then(|| UNIX_EPOCH + Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn release_dates_and_snapshot_names() {
        assert_eq!(parse("Sat, 12 Sep 2026 07:55:41 UTC"), Some(1_789_199_741));
        assert_eq!(parse("Thu, 1 Jan 1970 00:00:09 UTC"), Some(9));
        assert_eq!(parse("yesterday"), None);
        assert_eq!(
            snapshot_id("Sat, 12 Sep 2026 07:55:41 UTC").as_deref(),
            Some("20260912T195541Z")
        );
        assert_eq!(
            snapshot_id("Thu, 31 Dec 2026 23:00:00 UTC").as_deref(),
            Some("20270101T110000Z")
        );
        assert_eq!(snapshot_id("Fri, 31 Dec 9999 23:00:00 UTC"), None);
    }
}
