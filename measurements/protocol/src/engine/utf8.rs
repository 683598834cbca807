//! Assembly of text from tokens. A character may be spread over several tokens.

use zeroize::{Zeroize as _, Zeroizing};

use super::{MAX_TOKEN, Text};

/// Most bytes held at once: the longest token and what is left of the one before.
const HELD: usize = MAX_TOKEN + 4;

/// Assembles the bytes of tokens into UTF-8 text.
pub struct Utf8(Zeroizing<Vec<u8>>);

impl Clone for Utf8 {
    fn clone(&self) -> Self {
        let mut copy = Self::default();
        copy.0.extend_from_slice(&self.0);
        copy
    }
}

impl Default for Utf8 {
    fn default() -> Self {
        // Allocated once at full size: a reallocation would leave an unwiped copy behind.
        Self(Zeroizing::new(Vec::with_capacity(HELD)))
    }
}

impl Utf8 {
    /// Returns the text that is complete after these bytes. Bytes that can never become text are replaced by U+FFFD.
    pub fn push(&mut self, bytes: &[u8]) -> Text {
        self.0.extend_from_slice(bytes);
        let mut text = String::with_capacity(self.0.len() * char::REPLACEMENT_CHARACTER.len_utf8());
        let mut whole = 0;
        for chunk in self.0.utf8_chunks() {
            text.push_str(chunk.valid());
            whole += chunk.valid().len();
            let invalid = chunk.invalid();
            let last = whole + invalid.len() == self.0.len();
            if invalid.is_empty() || (last && may_become_text(invalid)) {
                break;
            }
            text.push(char::REPLACEMENT_CHARACTER);
            whole += invalid.len();
        }
        self.0[..whole].zeroize();
        self.0.drain(..whole);
        Text(text)
    }

    /// Returns what is left when no more bytes follow.
    pub fn rest(&mut self) -> Text {
        let text = String::from_utf8_lossy(&self.0).into_owned();
        self.0.zeroize();
        Text(text)
    }
}

/// Returns whether more bytes could complete a character.
fn may_become_text(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_wait_until_they_are_whole() {
        let mut text = Utf8::default();
        let crab = "\u{1f980}".as_bytes();
        assert_eq!(text.push(b"a").0, "a");
        assert_eq!(text.push(&crab[..2]).0, "");
        assert_eq!(text.push(&crab[2..3]).0, "");
        assert_eq!(text.push(&crab[3..]).0, "\u{1f980}");
        assert_eq!(text.push(&[0xff, b'b']).0, "\u{fffd}b");
        assert_eq!(text.push(&crab[..3]).0, "");
        assert_eq!(text.rest().0, "\u{fffd}");
        assert_eq!(text.rest().0, "");
    }

    #[test]
    fn pieces_make_the_whole() {
        let text = "caf\u{e9} \u{1f980}\u{4e16} end";
        for size in 1..6 {
            let mut pieces = Utf8::default();
            let mut told = String::new();
            for piece in text.as_bytes().chunks(size) {
                told.push_str(&pieces.push(piece).0);
            }
            told.push_str(&pieces.rest().0);
            assert_eq!(told, text);
        }
    }
}
