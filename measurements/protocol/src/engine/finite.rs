//! Numbers of the engine's messages. JSON writes infinity as `null`, which no number is read from, but a number of enough
//! digits is read as infinity.

use serde::de::{Deserialize, Deserializer, Error};

/// Deserializes a number, for `#[serde(deserialize_with)]`. Refuses infinity.
pub(super) fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f32, D::Error> {
    finite(f32::deserialize(deserializer)?)
}

/// As [`number`], for numbers that have identifiers.
pub(super) fn numbers<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<(u32, f32)>, D::Error> {
    let pairs = Vec::<(u32, f32)>::deserialize(deserializer)?;
    for (_, number) in &pairs {
        finite::<D::Error>(*number)?;
    }
    Ok(pairs)
}

fn finite<E: Error>(number: f32) -> Result<f32, E> {
    let message = "a number is greater than a 32-bit float can be";
    number
        .is_finite()
        .then_some(number)
        .ok_or_else(|| E::custom(message))
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use crate::engine::{Alternative, Sampling};

    #[test]
    fn a_number_that_would_be_infinite_is_refused() {
        let read = |logprob: f64| {
            from_value::<Alternative>(json!({ "bytes": [], "logprob": logprob })).is_ok()
        };
        assert!(read(-9999.0) && read(3.4e38));
        assert!(!read(3.5e38) && !read(-1e40));
        let good = json!(Sampling::default());
        let numbers = [
            "temperature",
            "top_p",
            "min_p",
            "frequency_penalty",
            "presence_penalty",
            "repetition_penalty",
        ];
        for field in numbers {
            let mut other = good.clone();
            other[field] = json!(2.5);
            assert!(from_value::<Sampling>(other.clone()).is_ok(), "{field}");
            other[field] = json!(1e40);
            assert!(from_value::<Sampling>(other).is_err(), "{field}");
        }
        let mut other = good;
        other["bias"] = json!([[1, 2.5], [2, -100]]);
        assert!(from_value::<Sampling>(other.clone()).is_ok());
        other["bias"] = json!([[1, 2.5], [2, -1e40]]);
        assert!(from_value::<Sampling>(other).is_err());
    }
}
