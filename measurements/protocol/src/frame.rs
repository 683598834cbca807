//! Framing of the control channel and of the sockets of engine, collector and simulator: length-prefixed JSON. A frame is a
//! big-endian `u32` length and that many bytes of UTF-8 JSON, which hold one value.
//!
//! The decoder is a pure state machine over bytes, so blocking and asynchronous code share it.

use serde::{Serialize, de::DeserializeOwned};
use zeroize::Zeroize;

use crate::wiping::WipingWriter;

/// Reason why a frame was refused. After any of these the stream is out of step and must be closed.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The announced length exceeds the limit of the channel.
    #[error("frame of {found} bytes exceeds the limit of {limit} bytes of this channel")]
    TooLong {
        /// Announced length, in bytes.
        found: usize,
        /// Limit of the channel, in bytes.
        limit: usize,
    },
    /// The bytes are not JSON of the expected message. The error text never repeats them.
    #[error("frame is not a message of this channel (line {line}, column {column})")]
    Malformed {
        /// Line in the JSON text, from 1.
        line: usize,
        /// Column in the JSON text, from 1.
        column: usize,
    },
}

/// Encodes `message` with its length. No copy but the result is left behind; if the message carries a conversation, the caller
/// must wipe the result.
///
/// Fails with [`FrameError::TooLong`] if the message exceeds `limit` bytes.
pub fn encode<T: Serialize>(message: &T, limit: usize) -> Result<Vec<u8>, FrameError> {
    let mut writer = WipingWriter::with_capacity(512);
    writer.push(&[0; 4]);
    serde_json::to_writer(&mut writer, message).map_err(|e| FrameError::Malformed {
        line: e.line(),
        column: e.column(),
    })?;
    let mut out = writer.into_bytes();
    let found = out.len() - 4;
    match u32::try_from(found) {
        Ok(length) if found <= limit => out[..4].copy_from_slice(&length.to_be_bytes()),
        _ => {
            out.zeroize();
            return Err(FrameError::TooLong { found, limit });
        }
    }
    Ok(out)
}

/// Collects bytes and returns whole messages. The buffer exceeds the limit by at most one `push`. It is wiped as messages
/// leave it, because engine frames carry prompts. For strings with escapes the JSON library uses a buffer of its own, which
/// only an allocator can wipe; the agent's allocator does.
pub struct Decoder {
    buffer: Vec<u8>,
    limit: usize,
}

impl Decoder {
    /// Creates a decoder for a channel whose messages have at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            buffer: Vec::new(),
            limit,
        }
    }

    /// Adds bytes in the order in which they arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.buffer.capacity() < self.buffer.len() + bytes.len() {
            // Moved by hand: a reallocation inside `Vec` would leave an unwiped copy behind.
            let mut grown =
                Vec::with_capacity((self.buffer.len() + bytes.len()).next_power_of_two());
            grown.extend_from_slice(&self.buffer);
            self.buffer.zeroize();
            self.buffer = grown;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Returns the next whole message, or `None` until more bytes arrive.
    #[expect(
        clippy::should_implement_trait,
        reason = "each call may ask for another type, and an error ends the stream: no iterator"
    )]
    pub fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        let Some(header) = self.buffer.first_chunk::<4>() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_be_bytes(*header)).unwrap_or(usize::MAX);
        if length > self.limit {
            return Err(FrameError::TooLong {
                found: length,
                limit: self.limit,
            });
        }
        let Some(body) = self.buffer.get(4..4 + length) else {
            return Ok(None);
        };
        let message = serde_json::from_slice(body).map_err(|e| FrameError::Malformed {
            line: e.line(),
            column: e.column(),
        });
        let rest = self.buffer.len() - 4 - length;
        self.buffer.copy_within(4 + length.., 0);
        self.buffer[rest..].zeroize();
        self.buffer.truncate(rest);
        message.map(Some)
    }

    /// Returns whether the stream ended inside a frame.
    pub fn is_mid_frame(&self) -> bool {
        !self.buffer.is_empty()
    }
}

impl Drop for Decoder {
    fn drop(&mut self) {
        self.buffer.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn oversized_frame_is_refused_before_its_body_arrives() {
        let mut decoder = Decoder::new(10);
        decoder.push(&11u32.to_be_bytes());
        assert_eq!(
            decoder.next::<u8>().unwrap_err().to_string(),
            "frame of 11 bytes exceeds the limit of 10 bytes of this channel"
        );
    }

    #[test]
    fn malformed_frame_does_not_repeat_its_content() {
        let mut decoder = Decoder::new(100);
        decoder.push(&[&8u32.to_be_bytes()[..], b"\"secret\""].concat());
        let text = decoder.next::<u8>().unwrap_err().to_string();
        assert_eq!(
            text,
            "frame is not a message of this channel (line 1, column 8)"
        );
    }

    proptest! {
        #[test]
        fn messages_survive_any_split(texts in prop::collection::vec(".{0,40}", 0..8), step in 1usize..17) {
            let stream: Vec<u8> = texts.iter().flat_map(|t| encode(t, 1000).unwrap()).collect();
            let mut decoder = Decoder::new(1000);
            let mut found: Vec<String> = Vec::new();
            for chunk in stream.chunks(step) {
                decoder.push(chunk);
                while let Some(text) = decoder.next().unwrap() { found.push(text); }
            }
            prop_assert_eq!(found, texts);
            prop_assert!(!decoder.is_mid_frame());
        }

        #[test]
        fn rubbish_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut decoder = Decoder::new(64);
            decoder.push(&bytes);
            while let Ok(Some(_)) = decoder.next::<serde_json::Value>() {}
        }
    }
}
