//! Serialises ages in a policy as `"30d"` or `"36h"`, because seconds are hard to read.

use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

const HOUR: u64 = 60 * 60;
const DAY: u64 = 24 * HOUR;

pub(super) fn serialize<S: Serializer>(seconds: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&show(*seconds))
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse(&text).ok_or_else(|| {
        let shown: String = text.chars().take(40).collect();
        D::Error::custom(format_args!(
            "{shown:?} is no age: write whole days or hours, such as \"30d\" or \"36h\""
        ))
    })
}

/// Formats an age, rounded up to whole hours. No default needs rounding.
fn show(seconds: u64) -> String {
    if seconds.is_multiple_of(DAY) {
        format!("{}d", seconds / DAY)
    } else {
        format!("{}h", seconds.div_ceil(HOUR))
    }
}

fn parse(text: &str) -> Option<u64> {
    let (number, unit) = match text.strip_suffix('d') {
        Some(days) => (days, DAY),
        None => (text.strip_suffix('h')?, HOUR),
    };
    let plain = number.bytes().all(|digit| digit.is_ascii_digit());
    number
        .parse::<u64>()
        .ok()
        .filter(|_| plain)?
        .checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::{DAY, HOUR, parse, show};

    #[test]
    fn ages_have_a_unit() {
        assert_eq!(
            (parse("30d"), parse("36h")),
            (Some(30 * DAY), Some(36 * HOUR))
        );
        for text in ["30d", "36h", "0d"] {
            assert_eq!(show(parse(text).unwrap()), text);
        }
        for other in [
            "",
            "d",
            "30",
            "30 d",
            "+1d",
            "-1d",
            "1.5d",
            "30D",
            "99999999999999999999d",
        ] {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}
