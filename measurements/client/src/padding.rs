//! Request bodies of a few sizes only, so that their length on the wire does not tell the prompt's.

use bytes::Bytes;
use cocoon_protocol::openai::ChatRequest;
use zeroize::Zeroizing;

/// Smallest body, in bytes. Most questions fit.
pub const MIN_BODY_LEN: usize = 4 * 1024;
/// Largest body, in bytes, padding included.
pub const MAX_BODY_LEN: usize = 1024 * 1024;

/// `,"padding":""`: what a padding of no bytes costs.
const OVERHEAD: usize = 13;

/// Why a request has no body.
#[derive(Debug, thiserror::Error)]
pub enum PaddingError {
    /// Longer than [`MAX_BODY_LEN`].
    #[error("the request takes {0} bytes, the limit is {MAX_BODY_LEN}: shorten the conversation")]
    TooLong(usize),
    /// A number that JSON cannot express.
    #[error("the request is not expressible as JSON")]
    Encode(#[source] serde_json::Error),
}

/// The request as JSON, padded to the next power of two from [`MIN_BODY_LEN`]. Any padding that it
/// already has is replaced. The bytes are wiped when the last holder drops them.
pub fn padded(request: &ChatRequest) -> Result<Bytes, PaddingError> {
    let mut request = request.clone();
    request.padding = None;
    let bare = encode(&request)?.len();
    let bucket = (bare + OVERHEAD).next_power_of_two().max(MIN_BODY_LEN);
    if bucket > MAX_BODY_LEN {
        return Err(PaddingError::TooLong(bare));
    }
    request.padding = Some(" ".repeat(bucket - bare - OVERHEAD));
    Ok(Bytes::from_owner(encode(&request)?))
}

fn encode(request: &ChatRequest) -> Result<Zeroizing<Vec<u8>>, PaddingError> {
    // A growing vector leaves copies behind that nobody wipes: measure first, then fill.
    let mut length = Length(0);
    serde_json::to_writer(&mut length, request).map_err(PaddingError::Encode)?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(length.0));
    serde_json::to_writer(&mut *bytes, request).map_err(PaddingError::Encode)?;
    Ok(bytes)
}

/// Counts what is written.
struct Length(usize);

impl std::io::Write for Length {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
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
        // 3000 bytes that take 7200: into the bucket of what is written.
        let body = padded(&request("\n\"\u{1}é".repeat(600))).unwrap();
        assert_eq!(body.len(), 8192);
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
