//! Parses the fields that chat and completion requests share: how tokens are sampled and how answers are sent.
//!
//! | field | bound |
//! |---|---|
//! | `n` | 1 to 8, and to the machine's generation slots |
//! | `max_completion_tokens`, `max_tokens` | 1 to the model's context |
//! | `stop` | 4 strings of 1 to 256 bytes |
//! | `logit_bias` | 1024 tokens of the model's vocabulary, -100 to 100 |
//! | `user`, `safety_identifier` | 1 KiB, ignored |
//! | `metadata` | 16 KiB, ignored |
//! | `stream_options.interval_ms` | 20 to 5000 |

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use cocoon_protocol::engine::{Key, ModelInfo, Sampling, Seed};
use cocoon_protocol::openai::StreamOptions;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use super::error::Refusal;
use super::fields::{Fields, Parse};
use crate::keys;

const MAX_CHOICES: u32 = 8;
const MAX_STOPS: usize = 4;
const MAX_STOP_LEN: usize = 256;
const MAX_BIASES: usize = 1024;
const MAX_IDENTIFIER: usize = 1024;
const MAX_METADATA: usize = 16 * 1024;
/// Most tokens of a completion whose request sets no limit, as in OpenAI's API.
const COMPLETION_TOKENS: u32 = 16;

/// The option that sets a steady interval between events.
pub(super) const INTERVAL: &str = "stream_options.interval_ms";
/// Milliseconds between events: from about the time of one token up to as long as somebody would wait for one.
const INTERVALS: RangeInclusive<u32> = 20..=5000;

/// How answers are generated and sent.
pub(super) struct Options {
    /// Whether to answer with server-sent events.
    pub stream: bool,
    /// Whether to send the usage at the end of the stream.
    pub include_usage: bool,
    /// Whether to pad events to size buckets.
    pub obfuscate: bool,
    /// Interval between two events, whether or not there is text to send.
    pub interval: Option<Duration>,
    /// Most tokens of each answer.
    pub max_tokens: u32,
    /// Whether the client, or the default of OpenAI's API, limits the tokens.
    pub bounded: bool,
    /// Strings that end an answer.
    pub stop: Zeroizing<Vec<String>>,
    /// Sampling of each answer, with a seed of its own.
    pub samplings: Vec<Sampling>,
}

/// Takes the fields that both kinds of request have. `slots` is the number of answers that may run at once.
pub(super) fn take(
    fields: &mut Fields<'_>,
    model: &ModelInfo,
    slots: usize,
    chat: bool,
) -> Result<Options, Refusal> {
    let stream = fields.take("stream", "a boolean")?.unwrap_or(false);
    let (shown, interval) = stream_options(fields, stream)?;
    let named = max_tokens(fields, model.context_length, chat)?;
    let mut sampling = Sampling {
        temperature: fields.number("temperature", 0.0..=2.0, 1.0)?,
        top_p: fields.take("top_p", "a number")?.unwrap_or(1.0),
        top_k: fields
            .take("top_k", "an integer of 0 or more")?
            .unwrap_or(0),
        min_p: fields.number("min_p", 0.0..=1.0, 0.0)?,
        frequency_penalty: fields.number("frequency_penalty", -2.0..=2.0, 0.0)?,
        presence_penalty: fields.number("presence_penalty", -2.0..=2.0, 0.0)?,
        repetition_penalty: fields.number("repetition_penalty", 0.1..=2.0, 1.0)?,
        bias: bias(fields, model)?,
        seed: Seed::Given(0),
    };
    if !(sampling.top_p > 0.0 && sampling.top_p <= 1.0) {
        return Err(Refusal::field(
            "top_p",
            "`top_p` must be over 0 and at most 1.",
        ));
    }
    let n = fields.take("n", "a positive integer")?.unwrap_or(1);
    let most = MAX_CHOICES.min(u32::try_from(slots).unwrap_or(MAX_CHOICES));
    if !(1..=most).contains(&n) {
        let message = format!("`n` must be 1 to {most} on this machine.");
        return Err(Refusal::field("n", message));
    }
    let seed: Option<i64> = fields.take("seed", "an integer of 64 bits")?;
    let stop = stops(fields)?;
    let mut samplings = Vec::new();
    for choice in 0..n {
        sampling.seed = match seed {
            Some(seed) => {
                Seed::Given(u64::from_ne_bytes(seed.to_ne_bytes()).wrapping_add(choice.into()))
            }
            None => Seed::Drawn(Key(*keys::random().map_err(|_| {
                Refusal::unavailable("no_randomness", "The kernel gave no random seed.")
            })?)),
        };
        samplings.push(sampling.clone());
    }
    // `padding` has no meaning: a client uses it to hide the length of everything else.
    fields.pass("padding", usize::MAX)?;
    // These identify a person, and this machine neither keeps them nor tells persons apart.
    fields.pass("user", MAX_IDENTIFIER)?;
    fields.pass("safety_identifier", MAX_IDENTIFIER)?;
    Ok(Options {
        stream,
        include_usage: shown.include_usage,
        obfuscate: shown.include_obfuscation.unwrap_or(true),
        interval,
        max_tokens: named.unwrap_or(model.context_length),
        bounded: named.is_some(),
        stop,
        samplings,
    })
}

/// Takes the fields that ask for what this machine does anyway: to store nothing and to serve every request alike.
pub(super) fn take_harmless(fields: &mut Fields<'_>) -> Result<(), Refusal> {
    fields.pass("metadata", MAX_METADATA)?;
    if fields.take("store", "a boolean")?.unwrap_or(false) {
        let message = "`store` must be false: this machine keeps nothing.";
        return Err(Refusal::unsupported("store", message));
    }
    let tier: Option<String> = fields.take("service_tier", "a string")?;
    if !matches!(tier.as_deref(), None | Some("auto" | "default")) {
        let message = "`service_tier` must be `auto` or `default`.";
        return Err(Refusal::unsupported("service_tier", message));
    }
    Ok(())
}

fn stream_options(
    fields: &mut Fields<'_>,
    stream: bool,
) -> Result<(StreamOptions, Option<Duration>), Refusal> {
    let Some(raw) = fields.take::<&RawValue>("stream_options", "an object")? else {
        return Ok((StreamOptions::default(), None));
    };
    if !stream {
        return Err(Refusal::field(
            "stream_options",
            "`stream_options` is for requests with `stream` true.",
        ));
    }
    let place = "stream_options";
    let mut options = Fields::of(raw, place)?;
    let include_usage = options
        .take_in(place, "include_usage", "a boolean")?
        .unwrap_or(false);
    let include_obfuscation = options.take_in(place, "include_obfuscation", "a boolean")?;
    let interval = interval(&mut options, place, include_obfuscation)?;
    options.finish(place)?;
    let shown = StreamOptions {
        include_usage,
        include_obfuscation,
    };
    Ok((shown, interval))
}

/// Takes `interval_ms`, an extension of OpenAI's API. Without padding, a steady interval would hide nothing.
fn interval(
    options: &mut Fields<'_>,
    place: &str,
    obfuscation: Option<bool>,
) -> Result<Option<Duration>, Refusal> {
    let (least, most) = (INTERVALS.start(), INTERVALS.end());
    let shape = format!("an integer of {least} to {most}");
    let Some(milliseconds) = options.take_in::<u32>(place, "interval_ms", &shape)? else {
        return Ok(None);
    };
    if !INTERVALS.contains(&milliseconds) {
        let message = format!("`{INTERVAL}` must be {least} to {most}.");
        return Err(Refusal::field(INTERVAL, message));
    }
    if obfuscation == Some(false) {
        let message = format!("`{INTERVAL}` is for streams with `include_obfuscation`.");
        return Err(Refusal::field(INTERVAL, message));
    }
    Ok(Some(Duration::from_millis(milliseconds.into())))
}

/// Takes the limit of tokens; `None` if the client of a chat sets none, and an answer may be as long as there is room.
fn max_tokens(fields: &mut Fields<'_>, context: u32, chat: bool) -> Result<Option<u32>, Refusal> {
    let old = fields.take::<u32>("max_tokens", "a positive integer")?;
    // Completions have only the older name.
    let new = match chat {
        true => fields.take::<u32>("max_completion_tokens", "a positive integer")?,
        false => None,
    };
    let (name, given) = match (new, old) {
        (Some(_), Some(_)) => {
            let message =
                "`max_tokens` is the older name of `max_completion_tokens`: give one of them.";
            return Err(Refusal::field("max_tokens", message));
        }
        (None, None) if chat => return Ok(None),
        (None, None) => return Ok(Some(context.min(COMPLETION_TOKENS))),
        (Some(given), None) => ("max_completion_tokens", given),
        (None, Some(given)) => ("max_tokens", given),
    };
    if !(1..=context).contains(&given) {
        return Err(Refusal::field(
            name,
            format!("`{name}` must be 1 to {context}, the context of the model on this machine."),
        ));
    }
    Ok(Some(given))
}

fn stops(fields: &mut Fields<'_>) -> Result<Zeroizing<Vec<String>>, Refusal> {
    let stop = fields.take::<Stops>("stop", "a string or a list of strings")?;
    let stop = stop.unwrap_or_default().0;
    if stop.len() > MAX_STOPS
        || stop
            .iter()
            .any(|text| text.is_empty() || text.len() > MAX_STOP_LEN)
    {
        let message =
            format!("`stop` must be at most {MAX_STOPS} strings of 1 to {MAX_STOP_LEN} bytes.");
        return Err(Refusal::field("stop", message));
    }
    Ok(stop)
}

/// One string or several. At most one more than [`MAX_STOPS`] is kept, which is enough to refuse the list.
#[derive(Default)]
struct Stops(Zeroizing<Vec<String>>);

impl Parse<'_> for Stops {
    fn parse(raw: &RawValue) -> Option<Self> {
        let mut stops = Zeroizing::new(Vec::with_capacity(MAX_STOPS + 1));
        if let Some(one) = String::parse(raw) {
            stops.push(one);
            return Some(Self(stops));
        }
        let several: Vec<&RawValue> = Parse::parse(raw)?;
        for one in several.into_iter().take(MAX_STOPS + 1) {
            stops.push(String::parse(one)?);
        }
        Some(Self(stops))
    }
}

fn bias(fields: &mut Fields<'_>, model: &ModelInfo) -> Result<Vec<(u32, f32)>, Refusal> {
    let shape = "an object of token identifiers and numbers";
    let given = fields.take::<Biases>("logit_bias", shape)?;
    let entry = |(token, bias): (String, f32)| {
        let token: u32 = token.parse().ok()?;
        (token < model.vocabulary && (-100.0..=100.0).contains(&bias)).then_some((token, bias))
    };
    let Biases(given) = given.unwrap_or_default();
    let few = given.len() <= MAX_BIASES;
    let biases: Option<Vec<(u32, f32)>> = given.into_iter().map(entry).collect();
    biases.filter(|_| few).ok_or_else(|| {
        let message = format!(
            "`logit_bias` must be at most {MAX_BIASES} token identifiers below {} with numbers of -100 to 100.",
            model.vocabulary
        );
        Refusal::field("logit_bias", message)
    })
}

/// Biases by the names of their tokens. At most one more than [`MAX_BIASES`] is kept.
#[derive(Default)]
struct Biases(BTreeMap<String, f32>);

impl Parse<'_> for Biases {
    fn parse(raw: &RawValue) -> Option<Self> {
        serde_json::from_str(raw.get()).ok()
    }
}

impl<'de> Deserialize<'de> for Biases {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Biases;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Biases, M::Error> {
        let mut biases = BTreeMap::new();
        while let Some((token, bias)) = map.next_entry()? {
            if biases.len() <= MAX_BIASES {
                biases.insert(token, bias);
            }
        }
        Ok(Biases(biases))
    }
}
