//! Pads request bodies to a few fixed sizes, so that their length on the wire does not reveal the
//! length of the prompt.

use bytes::Bytes;
use cocoon_protocol::openai::ChatRequest;
use cocoon_protocol::wiping::json_len;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use crate::wiped::json;

/// Smallest body, in bytes; most questions fit.
pub const MIN_BODY_LEN: usize = 4 * 1024;
/// Largest body, in bytes, padding included.
pub const MAX_BODY_LEN: usize = 1024 * 1024;

/// Length of `,"padding":""`, the cost of an empty padding, in bytes.
const OVERHEAD: usize = 13;

/// Why a request cannot be encoded.
#[derive(Debug, thiserror::Error)]
pub enum PaddingError {
    /// The body is longer than [`MAX_BODY_LEN`].
    #[error("the request takes {0} bytes, the limit is {MAX_BODY_LEN}: shorten the conversation")]
    TooLong(usize),
    /// The request contains a number that JSON cannot express.
    #[error("the request is not expressible as JSON")]
    Encode(#[source] serde_json::Error),
    /// An application's request is not an object. Only the position is reported, because the text
    /// may contain a prompt.
    #[error("the request is not a JSON object: see line {line}, column {column}")]
    NotAnObject {
        /// Line, from 1.
        line: usize,
        /// Column, from 0.
        column: usize,
    },
}

/// Encodes the request as JSON, padded to the next power of two, at least [`MIN_BODY_LEN`].
/// Replaces padding that it already has. The bytes are wiped when their last holder drops them.
pub fn padded(request: &ChatRequest) -> Result<Bytes, PaddingError> {
    let mut request = request.clone();
    request.padding = None;
    let bare = length(&request)?;
    let bucket = (bare + OVERHEAD).next_power_of_two().max(MIN_BODY_LEN);
    if bucket > MAX_BODY_LEN {
        return Err(PaddingError::TooLong(bare));
    }
    request.padding = Some(" ".repeat(bucket - bare - OVERHEAD));
    Ok(Bytes::from_owner(
        json(&request).map_err(PaddingError::Encode)?,
    ))
}

/// Pads an application's request in the same way. Its fields stay as they are and in their order,
/// except for a `padding` field, which would otherwise be given twice. The appliance validates the
/// fields.
pub fn padded_object(json: &[u8]) -> Result<Bytes, PaddingError> {
    let fields: Fields<'_> =
        serde_json::from_slice(json).map_err(|error| PaddingError::NotAnObject {
            line: error.line(),
            column: error.column(),
        })?;
    // The braces, and a colon and a comma for each field.
    let bare: usize = 2
        + (fields.0.iter())
            .map(|(name, value)| name.len() + value.len() + 2)
            .sum::<usize>();
    let bucket = (bare + OVERHEAD).next_power_of_two().max(MIN_BODY_LEN);
    if bucket > MAX_BODY_LEN {
        return Err(PaddingError::TooLong(bare));
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(bucket));
    bytes.push(b'{');
    for (name, value) in fields.0 {
        for part in [name, ":", value, ","] {
            bytes.extend_from_slice(part.as_bytes());
        }
    }
    bytes.extend_from_slice(b"\"padding\":\"");
    bytes.resize(bucket - 2, b' ');
    bytes.extend_from_slice(b"\"}");
    Ok(Bytes::from_owner(bytes))
}

/// The fields of an object as they are written, without padding. They are borrowed, not copied.
struct Fields<'a>(Vec<(&'a str, &'a str)>);

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Vec::new();
                while let Some((name, value)) = map.next_entry::<&RawValue, &RawValue>()? {
                    if !is_padding(name.get()) {
                        fields.push((name.get(), value.get()));
                    }
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// Returns whether this is the name `padding`, also if it is written with escapes:
/// `"p\u0061dding"`.
fn is_padding(name: &str) -> bool {
    if !name.contains('\\') {
        return name == "\"padding\"";
    }
    serde_json::from_str::<Zeroizing<String>>(name).is_ok_and(|name| *name == "padding")
}

fn length(request: &ChatRequest) -> Result<usize, PaddingError> {
    json_len(request).map_err(PaddingError::Encode)
}

#[cfg(test)]
mod tests {
    use cocoon_protocol::openai::{Message, Role};

    use super::*;

    pub(crate) fn request(text: String) -> ChatRequest {
        ChatRequest {
            model: "m".into(),
            messages: vec![Message {
                role: Role::User,
                content: text,
            }],
            stream: false,
            stream_options: None,
            max_completion_tokens: None,
            max_tokens: None,
            temperature: None,
            top_p: None,
            seed: None,
            stop: None,
            padding: Some("whatever an application put there".into()),
        }
    }

    #[test]
    fn lengths_fall_into_buckets() {
        for text in [0, 1, 3_000, 4_000, 4_050, 4_096, 10_000, 500_000] {
            let body = padded(&request("x".repeat(text))).unwrap();
            assert!(
                body.len().is_power_of_two() && body.len() >= MIN_BODY_LEN,
                "{text}: {}",
                body.len()
            );
            let back: ChatRequest = serde_json::from_slice(&body).unwrap();
            assert_eq!(back.messages[0].content.len(), text);
        }
    }

    #[test]
    fn escapes_count_as_they_are_written() {
        // 3000 bytes that take 7200 when escaped: the escaped length chooses the bucket.
        let body = padded(&request("\n\"\u{1}é".repeat(600))).unwrap();
        assert_eq!(body.len(), 8192);
    }

    #[test]
    fn a_request_of_others_passes_as_it_is() {
        for body in [
            "{}",
            " {\"a\":[1, 2],\"b\":{\"c\":\"}\"}} \n",
            "{\"padding\":\"theirs\"}",
            "{\"padding\":\"theirs\", \"a\":1}",
            "{\"a\":1,\"p\\u0061dding\":[\"theirs\", {}] , \"b\":\"padding\",\"padding\":null}",
        ] {
            let padded = padded_object(body.as_bytes()).unwrap();
            assert_eq!(padded.len(), MIN_BODY_LEN);
            assert!(!padded.windows(6).any(|bytes| bytes == b"theirs"), "{body}");
            let mut back: serde_json::Value = serde_json::from_slice(&padded).unwrap();
            let mut sent: serde_json::Value = serde_json::from_str(body).unwrap();
            let padding = back.as_object_mut().unwrap().remove("padding").unwrap();
            assert!(padding.as_str().unwrap().trim().is_empty());
            sent.as_object_mut().unwrap().remove("padding");
            assert_eq!(back, sent);
        }
        // A struct, which refuses fields that are given twice, as the guest does.
        let sent = padded_object(&json(&request("x".into())).unwrap()).unwrap();
        let back: ChatRequest = serde_json::from_slice(&sent).unwrap();
        assert_eq!(back.padding.as_deref().unwrap().trim(), "");
        let long = format!("{{\"a\":\"{}\"}}", "x".repeat(MIN_BODY_LEN));
        assert_eq!(
            padded_object(long.as_bytes()).unwrap().len(),
            2 * MIN_BODY_LEN
        );
        for (body, column) in [("[1]", 0), ("{\"secret", 8), ("{} {}", 4)] {
            let error = padded_object(body.as_bytes()).unwrap_err();
            assert!(
                matches!(error, PaddingError::NotAnObject { line: 1, column: found } if found == column),
                "{body}: {error}"
            );
        }
        let huge = format!("{{\"a\":\"{}\"}}", "x".repeat(MAX_BODY_LEN));
        assert!(matches!(
            padded_object(huge.as_bytes()),
            Err(PaddingError::TooLong(_))
        ));
    }

    #[test]
    fn too_long_a_request_is_refused_with_its_length() {
        let error = padded(&request("x".repeat(MAX_BODY_LEN))).unwrap_err();
        assert!(
            matches!(error, PaddingError::TooLong(n) if n > MAX_BODY_LEN),
            "{error}"
        );
    }
}
