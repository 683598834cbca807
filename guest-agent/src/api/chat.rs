//! Parses a chat request field by field, so that a refusal can name the field at fault. A field
//! that is not known is refused by name: a parameter silently ignored is a wrong answer.

use std::collections::BTreeMap;

use cocoon_protocol::engine::{Generation, ModelInfo};
use cocoon_protocol::openai::{Message, Role, Stop, StreamOptions};
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::error::Refusal;
use crate::keys;

const MAX_MESSAGES: usize = 1024;
const MAX_STOPS: usize = 4;
const MAX_STOP_LEN: usize = 256;
/// Characters of a foreign field name that a refusal repeats.
const MAX_NAME: usize = 64;

/// A request that may go to the engine.
pub struct Chat {
    /// For the engine.
    pub generation: Generation,
    /// Answer as server-sent events.
    pub stream: bool,
    /// End the stream with the usage.
    pub include_usage: bool,
    /// Pad events to size buckets.
    pub obfuscate: bool,
}

/// Parses a body for the model that is served.
pub fn parse(body: &[u8], model: &ModelInfo) -> Result<Chat, Refusal> {
    let mut fields = Fields::parse(body, "")?;
    let name: String = fields.need("model", "a string")?;
    if name != model.id {
        return Err(Refusal::unknown_model());
    }
    let messages = messages(&mut fields)?;
    let stream = fields.take("stream", "a boolean")?.unwrap_or(false);
    let options = stream_options(&mut fields, stream)?;
    let max_tokens = max_tokens(&mut fields, model.context_length)?;
    let temperature = fields.take("temperature", "a number")?.unwrap_or(1.0);
    if !(0.0..=2.0).contains(&temperature) {
        return Err(Refusal::field(
            "temperature",
            "`temperature` must be 0 to 2.",
        ));
    }
    let top_p = fields.take("top_p", "a number")?.unwrap_or(1.0);
    if !(top_p > 0.0 && top_p <= 1.0) {
        return Err(Refusal::field(
            "top_p",
            "`top_p` must be over 0 and at most 1.",
        ));
    }
    let seed = match fields.take::<i64>("seed", "an integer of 64 bits")? {
        Some(seed) => u64::from_ne_bytes(seed.to_ne_bytes()),
        None => u64::from_ne_bytes(*keys::random().map_err(|_| {
            Refusal::unavailable("no_randomness", "The kernel gave no random seed.")
        })?),
    };
    let stop = stops(&mut fields)?;
    // Means nothing and hides the length of everything else.
    let _padding: Option<&RawValue> = fields.0.remove("padding");
    fields.finish("")?;
    Ok(Chat {
        generation: Generation {
            messages,
            max_tokens,
            temperature,
            top_p,
            seed,
            stop,
        },
        stream,
        include_usage: options.include_usage,
        obfuscate: options.include_obfuscation.unwrap_or(true),
    })
}

fn messages(fields: &mut Fields<'_>) -> Result<Vec<Message>, Refusal> {
    let raw: Vec<&RawValue> = fields.need("messages", "a list of messages")?;
    if raw.is_empty() || raw.len() > MAX_MESSAGES {
        return Err(Refusal::field(
            "messages",
            format!("`messages` must have 1 to {MAX_MESSAGES} messages."),
        ));
    }
    let message = |(at, raw): (usize, &&RawValue)| {
        let place = format!("messages[{at}]");
        let mut fields = Fields::parse(raw.get().as_bytes(), &place)?;
        let role = fields.need_in(&place, "role", "`system`, `user` or `assistant`")?;
        let content = fields.need_in(&place, "content", "a string")?;
        fields.finish(&place)?;
        Ok(Message { role, content })
    };
    raw.iter().enumerate().map(message).collect()
}

fn stream_options(fields: &mut Fields<'_>, stream: bool) -> Result<StreamOptions, Refusal> {
    let Some(raw) = fields.take::<&RawValue>("stream_options", "an object")? else {
        return Ok(StreamOptions::default());
    };
    if !stream {
        return Err(Refusal::field(
            "stream_options",
            "`stream_options` is for requests with `stream` true.",
        ));
    }
    let place = "stream_options";
    let mut options = Fields::parse(raw.get().as_bytes(), place)?;
    let include_usage = options
        .take_in(place, "include_usage", "a boolean")?
        .unwrap_or(false);
    let include_obfuscation = options.take_in(place, "include_obfuscation", "a boolean")?;
    options.finish(place)?;
    Ok(StreamOptions {
        include_usage,
        include_obfuscation,
    })
}

fn max_tokens(fields: &mut Fields<'_>, context: u32) -> Result<u32, Refusal> {
    let new = fields.take::<u32>("max_completion_tokens", "a positive integer")?;
    let old = fields.take::<u32>("max_tokens", "a positive integer")?;
    let (name, given) = match (new, old) {
        (Some(_), Some(_)) => {
            let message =
                "`max_tokens` is the older name of `max_completion_tokens`: give one of them.";
            return Err(Refusal::field("max_tokens", message));
        }
        (None, None) => return Ok(context),
        (Some(given), None) => ("max_completion_tokens", given),
        (None, Some(given)) => ("max_tokens", given),
    };
    if !(1..=context).contains(&given) {
        return Err(Refusal::field(
            name,
            format!("`{name}` must be 1 to {context}, the model's context."),
        ));
    }
    Ok(given)
}

fn stops(fields: &mut Fields<'_>) -> Result<Vec<String>, Refusal> {
    let mut given = fields.take::<Stop>("stop", "a string or a list of strings")?;
    let stop = match &mut given {
        None => Vec::new(),
        Some(Stop::One(one)) => vec![std::mem::take(one)],
        Some(Stop::Many(many)) => std::mem::take(many),
    };
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

/// An object whose values are not looked at yet: nothing of a prompt is copied on the way.
struct Fields<'a>(BTreeMap<std::borrow::Cow<'a, str>, &'a RawValue>);

impl<'a> Fields<'a> {
    fn parse(json: &'a [u8], place: &str) -> Result<Self, Refusal> {
        serde_json::from_slice(json)
            .map(Self)
            .map_err(|error| match place {
                // The error's text could quote the body: only its place is told.
                "" => Refusal::body(format!(
                    "The request body is not a JSON object (line {}, column {}).",
                    error.line(),
                    error.column()
                )),
                place => Refusal::field(place, format!("`{place}` must be an object.")),
            })
    }

    fn take<T: Parse<'a>>(
        &mut self,
        name: &'static str,
        shape: &str,
    ) -> Result<Option<T>, Refusal> {
        self.take_in("", name, shape)
    }

    fn take_in<T: Parse<'a>>(
        &mut self,
        place: &str,
        name: &'static str,
        shape: &str,
    ) -> Result<Option<T>, Refusal> {
        let Some(raw) = self.0.remove(name).filter(|raw| raw.get() != "null") else {
            return Ok(None);
        };
        let param = join(place, name);
        T::parse(raw)
            .map(Some)
            .ok_or_else(|| Refusal::field(&param, format!("`{param}` must be {shape}.")))
    }

    fn need<T: Parse<'a>>(&mut self, name: &'static str, shape: &str) -> Result<T, Refusal> {
        self.need_in("", name, shape)
    }

    fn need_in<T: Parse<'a>>(
        &mut self,
        place: &str,
        name: &'static str,
        shape: &str,
    ) -> Result<T, Refusal> {
        self.take_in(place, name, shape)?.ok_or_else(|| {
            let param = join(place, name);
            Refusal::field(&param, format!("`{param}` is required: {shape}."))
        })
    }

    fn finish(self, place: &str) -> Result<(), Refusal> {
        match self.0.into_keys().next() {
            None => Ok(()),
            Some(name) => {
                let name: String = name
                    .chars()
                    .filter(|c| !c.is_control())
                    .take(MAX_NAME)
                    .collect();
                let param = join(place, &name);
                Err(Refusal::field(
                    &param,
                    format!("`{param}` is not supported: leave it out."),
                ))
            }
        }
    }
}

fn join(place: &str, name: &str) -> String {
    if place.is_empty() {
        name.to_owned()
    } else {
        format!("{place}.{name}")
    }
}

/// Parsing of one value; borrowed raw values pass through.
trait Parse<'a>: Sized {
    fn parse(raw: &'a RawValue) -> Option<Self>;
}

impl<'a> Parse<'a> for &'a RawValue {
    fn parse(raw: &'a RawValue) -> Option<Self> {
        Some(raw)
    }
}

impl<'a> Parse<'a> for Vec<&'a RawValue> {
    fn parse(raw: &'a RawValue) -> Option<Self> {
        serde_json::from_str(raw.get()).ok()
    }
}

macro_rules! owned {
    ($($kind:ty),*) => {$(
        impl Parse<'_> for $kind {
            fn parse(raw: &RawValue) -> Option<Self> {
                from_owned(raw)
            }
        }
    )*};
}

owned!(String, bool, f32, i64, u32, Role, Stop);

fn from_owned<T: DeserializeOwned>(raw: &RawValue) -> Option<T> {
    serde_json::from_str(raw.get()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn model() -> ModelInfo {
        ModelInfo {
            id: "m".into(),
            context_length: 100,
            quantization: "Q4_1".into(),
        }
    }

    fn refused(body: &str) -> (Option<String>, String) {
        let refusal = parse(body.as_bytes(), &model()).err().expect("refused");
        (refusal.param, refusal.message)
    }

    #[test]
    fn a_full_request_parses() {
        let body = r#"{"model":"m","messages":[{"role":"user","content":"hi"}],"stream":true,
            "stream_options":{"include_usage":true,"include_obfuscation":false},"max_tokens":7,
            "temperature":0,"top_p":0.5,"seed":-1,"stop":["a","b"],"padding":"xxxx"}"#;
        let chat = parse(body.as_bytes(), &model()).ok().unwrap();
        assert!(chat.stream && chat.include_usage && !chat.obfuscate);
        assert_eq!(chat.generation.max_tokens, 7);
        assert_eq!(chat.generation.seed, u64::MAX);
        assert_eq!(chat.generation.stop, ["a", "b"]);
        assert_eq!(chat.generation.messages[0].content, "hi");
    }

    #[test]
    fn every_refusal_names_its_field() {
        let one = r#""model":"m","messages":[{"role":"user","content":"hi"}]"#;
        for (body, param, message) in [
            (r#"{"messages":[]}"#.to_owned(), "model", "`model` is required: a string."),
            (r#"{"model":"m"}"#.to_owned(), "messages", "`messages` is required: a list of messages."),
            (r#"{"model":"m","messages":[]}"#.to_owned(), "messages", "`messages` must have 1 to 1024 messages."),
            (
                r#"{"model":"m","messages":[{"role":"user","content":"a"},{"role":"tool","content":"b"}]}"#.to_owned(),
                "messages[1].role",
                "`messages[1].role` must be `system`, `user` or `assistant`.",
            ),
            (
                r#"{"model":"m","messages":[{"role":"user","content":["secret"]}]}"#.to_owned(),
                "messages[0].content",
                "`messages[0].content` must be a string.",
            ),
            (
                r#"{"model":"m","messages":[{"role":"user","content":"a","name":"secret"}]}"#.to_owned(),
                "messages[0].name",
                "`messages[0].name` is not supported: leave it out.",
            ),
            (format!("{{{one},\"tools\":[]}}"), "tools", "`tools` is not supported: leave it out."),
            (format!("{{{one},\"temperature\":3}}"), "temperature", "`temperature` must be 0 to 2."),
            (format!("{{{one},\"top_p\":0}}"), "top_p", "`top_p` must be over 0 and at most 1."),
            (format!("{{{one},\"max_tokens\":101}}"), "max_tokens", "`max_tokens` must be 1 to 100, the model's context."),
            (
                format!("{{{one},\"max_tokens\":-1}}"),
                "max_tokens",
                "`max_tokens` must be a positive integer.",
            ),
            (
                format!("{{{one},\"stop\":\"\"}}"),
                "stop",
                "`stop` must be at most 4 strings of 1 to 256 bytes.",
            ),
            (
                format!("{{{one},\"stream_options\":{{}}}}"),
                "stream_options",
                "`stream_options` is for requests with `stream` true.",
            ),
        ] {
            assert_eq!(refused(&body), (Some(param.to_owned()), message.to_owned()), "{body}");
        }
        assert_eq!(
            refused("[secret").1,
            "The request body is not a JSON object (line 1, column 0)."
        );
    }

    proptest! {
        #[test]
        fn rubbish_never_panics(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&body, &model());
        }
    }
}
