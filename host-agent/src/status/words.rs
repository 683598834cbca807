//! Numbers, durations and times in readable form.

use crate::lifecycle::Millis;
use crate::text::utc;

/// Placeholder for unknown values.
pub(super) const UNKNOWN: &str = "–";

/// Formats a count with thousands separators.
pub(super) fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Formats a duration in its largest unit, with a no-break space.
pub(super) fn age(millis: Millis) -> String {
    let seconds = millis / 1000;
    match seconds {
        0..60 => format!("{seconds}\u{a0}s"),
        60..3_600 => format!("{}\u{a0}min", seconds / 60),
        3_600..172_800 => format!("{}\u{a0}h", seconds / 3_600),
        _ => format!("{}\u{a0}d", seconds / 86_400),
    }
}

/// Formats the duration of a boot phase.
pub(super) fn span(millis: u64) -> String {
    match millis {
        0..1_000 => format!("{millis}\u{a0}ms"),
        1_000..100_000 => {
            let tenths = millis / 100;
            format!("{}.{}\u{a0}s", tenths / 10, tenths % 10)
        }
        _ => format!("{}\u{a0}s", millis / 1000),
    }
}

/// Formats an amount of memory in MiB, GiB or TiB.
pub(super) fn memory(bytes: u64) -> String {
    let mib = bytes >> 20;
    match mib {
        0..1024 => format!("{mib}\u{a0}MiB"),
        10_485_760.. => format!("{}\u{a0}TiB", count(mib >> 20)),
        _ if mib.is_multiple_of(1024) || mib >= 102_400 => format!("{}\u{a0}GiB", count(mib >> 10)),
        _ => format!("{:.1}\u{a0}GiB", mib as f64 / 1024.0),
    }
}

/// Formats a rate per second or minute.
pub(super) fn rate(rate: f64) -> String {
    if rate == 0.0 {
        return "0".to_owned();
    }
    if rate < 10.0 {
        return format!("{rate:.1}");
    }
    // A hostile guest's counters may have any value; larger rates are capped.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between the bounds"
    )]
    let whole = rate.round().clamp(0.0, 999_999.0) as u64;
    count(whole)
}

/// Returns the time of day and the full timestamp, both in UTC, of a time in seconds since 1970.
pub(super) fn time(seconds: f64) -> (String, String) {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "casts of floats saturate, and what is no number is 0"
    )]
    let full = utc(seconds as u64);
    let clock = full
        .chars()
        .skip("1970-01-01T".len())
        .take("00:00:00".len());
    (clock.collect(), full)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let counts = [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (1_234_567, "1,234,567"),
        ];
        for (number, expected) in counts {
            assert_eq!(count(number), expected);
        }
        let spans = [
            (9, "9 ms"),
            (1_850, "1.8 s"),
            (99_999, "99.9 s"),
            (100_000, "100 s"),
        ];
        for (millis, expected) in spans {
            assert_eq!(span(millis).replace('\u{a0}', " "), expected);
        }
        let amounts = [
            (u64::MAX, "16,777,215 TiB"),
            (512 << 20, "512 MiB"),
            (96 << 30, "96 GiB"),
            (3 << 29, "1.5 GiB"),
        ];
        for (bytes, expected) in amounts {
            assert_eq!(memory(bytes).replace('\u{a0}', " "), expected);
        }
        for (number, expected) in [
            (0.0, "0"),
            (2.25, "2.2"),
            (412.6, "413"),
            (1e300, "999,999"),
        ] {
            assert_eq!(rate(number), expected);
        }
    }

    #[test]
    fn times_of_events_are_times() {
        let full = |seconds| time(seconds).1;
        assert_eq!(full(951_782_400.5), "2000-02-29T00:00:00Z");
        assert_eq!(full(f64::NAN), "1970-01-01T00:00:00Z");
        assert_eq!(full(1e300), "9999-12-31T23:59:59Z");
        assert_eq!(time(1_760_000_000.0).0, "08:53:20");
    }
}
