//! Encodes one server-sent event, padded to a multiple of a size bucket.
//!
//! The length of a TLS record reveals the length of a piece of text, and pieces are tokens: enough to guess an answer.
//! So every event is padded to a multiple of [`BUCKET`] bytes, which is more than the event of any usual token needs.

use cocoon_protocol::wiping::WipingWriter;
use hyper::body::Bytes;
use serde::Serialize;

/// Events are padded to a multiple of this many bytes.
pub const BUCKET: usize = 512;
/// Bytes that the log probability of a usual token takes at most; its bytes appear twice.
const LOGPROB: usize = 128;

/// How the events of a stream are formatted.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Whether to send the usage last.
    pub include_usage: bool,
    /// Whether to pad events to buckets.
    pub obfuscate: bool,
    /// Number of alternatives of each token to report with the log probabilities; `None` for no log probabilities.
    pub top_logprobs: Option<u8>,
    /// Padded events are a multiple of this many bytes.
    pub bucket: usize,
}

/// Bucket for usual events, in bytes: larger with log probabilities, so that events with these have one length too.
pub(super) fn bucket(top_logprobs: Option<u8>) -> usize {
    BUCKET + logprobs(top_logprobs).next_multiple_of(BUCKET)
}

/// Bytes that the log probabilities of one usual token take at most: the token's own and those of its alternatives.
pub(super) fn logprobs(top: Option<u8>) -> usize {
    LOGPROB * top.map_or(0, |top| 1 + usize::from(top))
}

/// Encodes one event. If padding is on, the last field of `value` must be an empty `obfuscation`, which is filled.
pub(super) fn event(value: &impl Serialize, shape: Shape) -> Bytes {
    const TAIL: &[u8] = b"\"}\n\n";
    let bucket = shape.bucket;
    let mut json = WipingWriter::with_capacity(2 * bucket.max(BUCKET));
    json.push(b"data: ");
    // Serialising strings and numbers into memory cannot fail.
    if serde_json::to_writer(&mut json, value).is_err() {
        return Bytes::new();
    }
    // Reserves all that follows, so that the buffer does not move from here on and leaves no copy of the text behind.
    json.reserve(bucket + TAIL.len());
    let mut bytes = json.into_bytes();
    if shape.obfuscate {
        bytes.truncate(bytes.len() - 2);
        let whole = (bytes.len() + TAIL.len()).next_multiple_of(bucket);
        bytes.resize(whole - TAIL.len(), b'0');
        bytes.extend_from_slice(TAIL);
    } else {
        bytes.extend_from_slice(b"\n\n");
    }
    wiped(bytes)
}

/// Wraps bytes whose memory is wiped when the last reader drops them.
pub fn wiped(bytes: Vec<u8>) -> Bytes {
    Bytes::from_owner(zeroize::Zeroizing::new(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::wire::{ChatChoice, ChatLogprobs, Delta, Envelope, Kind};
    use cocoon_protocol::engine::{Alternative, TokenLogprob};
    use proptest::prelude::*;

    fn chunk(text: &str, obfuscate: bool) -> Bytes {
        told(text, obfuscate, None, &[])
    }

    fn told(text: &str, obfuscate: bool, top: Option<u8>, logprobs: &[TokenLogprob]) -> Bytes {
        let shape = Shape {
            include_usage: true,
            obfuscate,
            top_logprobs: top,
            bucket: bucket(top),
        };
        let choice = ChatChoice {
            index: 0,
            message: None,
            delta: Some(Delta {
                content: Some(text),
                ..Delta::default()
            }),
            logprobs: top.map(|_| ChatLogprobs::of(logprobs)),
            finish_reason: None,
        };
        let envelope = Envelope {
            kind: Kind::Chat,
            id: "chatcmpl-000000000000000000000000".into(),
            created: 1_800_000_000,
            model: "smollm2-135m-instruct-q4_1".into(),
            fingerprint: "fp_0123456789ab".into(),
        };
        let body = envelope.around([choice], Some(None), (true, obfuscate));
        event(&body, shape)
    }

    #[test]
    fn events_with_log_probabilities_have_one_length_too() {
        let logprob = |word: &str| TokenLogprob {
            chosen: Alternative {
                bytes: word.into(),
                logprob: -1.25,
            },
            top: vec![
                Alternative {
                    bytes: word.into(),
                    logprob: -9.123_456,
                };
                5
            ],
        };
        let short = told("a", true, Some(5), &[logprob("a")]);
        let long = told(" electricity", true, Some(5), &[logprob(" electricity")]);
        assert_eq!(short.len(), long.len());
        assert_eq!(short.len(), 3 * BUCKET);
    }

    proptest! {
        #[test]
        fn events_of_usual_pieces_have_one_length(text in "\\PC{0,24}") {
            let event = chunk(&text, true);
            prop_assert_eq!(event.len(), BUCKET);
            let json = event.strip_prefix(b"data: ").and_then(|e| e.strip_suffix(b"\n\n")).unwrap();
            let value: serde_json::Value = serde_json::from_slice(json).unwrap();
            prop_assert_eq!(value["choices"][0]["delta"]["content"].as_str().unwrap(), text);
        }

        #[test]
        fn longer_ones_have_a_multiple_of_it(text in "\\PC{0,2000}") {
            prop_assert_eq!(chunk(&text, true).len() % BUCKET, 0);
        }
    }

    #[test]
    fn without_obfuscation_nothing_is_added() {
        let event = chunk("hi", false);
        assert!(!event.windows(11).any(|w| w == b"obfuscation"));
        assert!(event.ends_with(b"}\n\n"));
    }
}
