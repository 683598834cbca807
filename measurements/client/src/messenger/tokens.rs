//! An upper estimate of the tokens of a text, without the model's tokenizer.

/// Returns an upper estimate of the tokens of `text`, for tokenizers that are made for whole
/// languages.
///
/// Such a tokenizer never makes more tokens than there are bytes. This counts every byte of a
/// character outside ASCII, and every digit and punctuation mark. Only ASCII letters count as two
/// to a token, while tokens of words have three to six letters. A single space before a word counts
/// nothing, because it is part of the word's token. If a tokenizer makes more tokens than that, the
/// appliance answers `context_length_exceeded`, and the text is cut into smaller pieces.
pub fn estimate(text: &str) -> usize {
    let mut count = Counter::default();
    for c in text.chars() {
        count.add(c);
    }
    count.tokens
}

/// Counts tokens one character at a time.
#[derive(Default)]
pub(super) struct Counter {
    pub(super) tokens: usize,
    letters: usize,
    after_space: bool,
}

impl Counter {
    pub(super) fn add(&mut self, c: char) {
        let cost = match c {
            'a'..='z' | 'A'..='Z' => 1 - self.letters % 2,
            ' ' => usize::from(self.after_space),
            _ => c.len_utf8(),
        };
        self.letters = if c.is_ascii_alphabetic() {
            self.letters + 1
        } else {
            0
        };
        self.after_space = c == ' ';
        self.tokens += cost;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_character_has_its_price() {
        for (text, tokens) in [
            ("", 0),
            ("a", 1),
            ("ab", 1),
            ("abc", 2),
            ("ab cd", 2),
            ("ab  cd", 3),
            ("12", 2),
            ("a1a", 3),
            ("\n\n", 2),
            ("é", 2),
            ("Привет", 12),
            ("你好", 6),
            ("👍", 4),
        ] {
            assert_eq!(estimate(text), tokens, "{text:?}");
        }
    }
}
