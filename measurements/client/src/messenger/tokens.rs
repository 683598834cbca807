//! How many tokens a text takes, without the model's tokenizer: an estimate from above.

/// Tokens of `text`, estimated from above for tokenizers of whole languages.
///
/// Such a tokenizer never makes more tokens than there are bytes, and this counts every byte of what is not ASCII and
/// every digit and sign. Only letters from `a` to `z` count two to a token, where words take three to six, and the one
/// space before a word counts nothing, for it is part of the word's token. Where a tokenizer is worse than that, the
/// appliance answers `context_length_exceeded`, and the text is cut smaller.
pub fn estimate(text: &str) -> usize {
    let mut count = Counter::default();
    for c in text.chars() {
        count.add(c);
    }
    count.tokens
}

/// Counts as the text goes on.
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
