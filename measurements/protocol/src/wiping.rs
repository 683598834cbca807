//! Growing buffers for secrets, which leave no copy behind when they move.

use std::io::{self, Write};

use serde::Serialize;
use zeroize::Zeroize as _;

/// Appends to a text that its owner wipes. If the text must move to grow, its old memory is wiped.
pub fn append(text: &mut String, more: &str) {
    let length = text.len() + more.len();
    if text.capacity() < length {
        let mut grown = String::with_capacity(length.next_power_of_two());
        grown.push_str(text);
        text.zeroize();
        *text = grown;
    }
    text.push_str(more);
}

/// Collects written bytes. Wipes them on drop, and wipes the old memory whenever the buffer moves to grow.
#[derive(Default)]
pub struct WipingWriter {
    bytes: Vec<u8>,
}

impl WipingWriter {
    /// Creates a writer with room for `capacity` bytes.
    pub fn with_capacity(capacity: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(capacity),
        }
    }

    /// Makes room for `more` further bytes.
    pub fn reserve(&mut self, more: usize) {
        let length = self.bytes.len() + more;
        if self.bytes.capacity() < length {
            // Moved by hand: a reallocation inside `Vec` would leave an unwiped copy behind.
            let mut grown = Vec::with_capacity(length.next_power_of_two());
            grown.extend_from_slice(&self.bytes);
            self.bytes.zeroize();
            self.bytes = grown;
        }
    }

    /// Adds bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len());
        self.bytes.extend_from_slice(bytes);
    }

    /// Returns the written bytes, which the caller must wipe.
    pub fn into_bytes(mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }
}

impl Write for WipingWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.push(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for WipingWriter {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

/// Returns the number of bytes that a value takes as JSON, so that a caller can reserve room before writing.
///
/// # Errors
/// Fails if the value cannot be serialised.
pub fn json_len(value: &impl Serialize) -> serde_json::Result<usize> {
    let mut length = Length(0);
    serde_json::to_writer(&mut length, value)?;
    Ok(length.0)
}

/// Writer that counts the bytes written to it and discards them.
struct Length(usize);

impl Write for Length {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_value_is_as_long_as_it_is_written(texts in prop::collection::vec(any::<String>(), 0..9)) {
            prop_assert_eq!(json_len(&texts).unwrap(), serde_json::to_vec(&texts).unwrap().len());
        }

        #[test]
        fn a_text_grows_by_doubling(pieces in prop::collection::vec("\\PC{0,20}", 0..50)) {
            let (mut text, mut moves) = (String::new(), 0);
            for piece in &pieces {
                let place = text.as_ptr();
                append(&mut text, piece);
                moves += usize::from(text.as_ptr() != place);
            }
            prop_assert!(moves <= 13, "{moves}");
            prop_assert_eq!(text, pieces.concat());
        }

        #[test]
        fn everything_is_kept_and_room_at_least_doubles(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..50)) {
            let mut writer = WipingWriter::with_capacity(3);
            let mut moves = 0;
            for piece in &pieces {
                let place = writer.bytes.as_ptr();
                prop_assert_eq!(writer.write(piece).unwrap(), piece.len());
                moves += usize::from(writer.bytes.as_ptr() != place);
            }
            prop_assert!(moves <= 12, "{moves}");
            prop_assert_eq!(writer.into_bytes(), pieces.concat());
        }
    }
}
