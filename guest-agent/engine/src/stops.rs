//! Stop strings: an answer ends where one occurs, and no part of it is sent.
//!
//! A stop string may begin in one token and end in another. Text that may become one is therefore held back until that is
//! decided, together with the log probabilities of its tokens.

use cocoon_protocol::engine::{Text, TokenLogprob};
use cocoon_protocol::wiping::append;
use zeroize::Zeroizing;

/// Stop strings of one generation, and the text that is held back.
pub struct Stops {
    stops: Vec<Zeroizing<String>>,
    held: Zeroizing<String>,
    logprobs: Vec<TokenLogprob>,
    met: bool,
}

impl Stops {
    /// Creates the state for an answer with these stop strings.
    pub fn new(stops: &[String]) -> Self {
        let stops = stops.iter().filter(|stop| !stop.is_empty());
        Self {
            stops: stops.cloned().map(Zeroizing::new).collect(),
            held: Zeroizing::default(),
            logprobs: Vec::new(),
            met: false,
        }
    }

    /// Returns whether a stop string has occurred. Nothing more is sent then.
    pub fn met(&self) -> bool {
        self.met
    }

    /// Returns the text and log probabilities to send after one more token.
    pub fn push(&mut self, text: &str, logprob: Option<TokenLogprob>) -> (Text, Vec<TokenLogprob>) {
        if self.met {
            return Default::default();
        }
        append(&mut self.held, text);
        let first = self.stops.iter().filter_map(|stop| self.held.find(&**stop));
        if let Some(at) = first.min() {
            self.met = true;
            let told = self.held[..at].to_owned();
            self.held = Zeroizing::default();
            self.logprobs.clear();
            return (Text(told), Vec::new());
        }
        self.logprobs.extend(logprob);
        let decided = self.held.len() - self.undecided();
        let rest = Zeroizing::new(self.held.split_off(decided));
        let told = Text(std::mem::take(&mut *self.held));
        self.held = rest;
        let logprobs = match self.held.is_empty() {
            true => std::mem::take(&mut self.logprobs),
            false => Vec::new(),
        };
        (told, logprobs)
    }

    /// Returns what was held back when the answer is over.
    pub fn rest(&mut self) -> (Text, Vec<TokenLogprob>) {
        let text = Text(std::mem::take(&mut *self.held));
        (text, std::mem::take(&mut self.logprobs))
    }

    /// Returns the length of the longest end of the held text with which a stop string begins.
    fn undecided(&self) -> usize {
        let begun = |stop: &Zeroizing<String>| begun(&self.held, stop);
        self.stops.iter().map(begun).max().unwrap_or(0)
    }
}

/// Returns the length of the longest end of `text` that is a proper prefix of `mark`.
pub(crate) fn begun(text: &str, mark: &str) -> usize {
    let ends = mark.char_indices().map(|(at, _)| at);
    ends.rev()
        .find(|at| text.ends_with(&mark[..*at]))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cocoon_protocol::engine::Alternative;

    /// Returns the text sent for `pieces`, the number of log probabilities sent, and whether the answer was stopped.
    fn told(stops: &[&str], pieces: &[&str]) -> (String, usize, bool) {
        let stops: Vec<String> = stops.iter().map(|stop| (*stop).to_owned()).collect();
        let mut stops = Stops::new(&stops);
        let (mut answer, mut count) = (String::new(), 0);
        let mut hear = |(text, logprobs): (Text, Vec<TokenLogprob>)| {
            answer.push_str(&text.0);
            count += logprobs.len();
        };
        for piece in pieces {
            let logprob = TokenLogprob {
                chosen: Alternative::default(),
                top: vec![],
            };
            hear(stops.push(piece, Some(logprob)));
        }
        hear(stops.rest());
        (answer, count, stops.met())
    }

    #[test]
    fn an_answer_ends_before_the_stop_string() {
        let cut = |text: &str, count| (text.to_owned(), count, true);
        let whole = |text: &str, count| (text.to_owned(), count, false);
        assert_eq!(
            told(&["de"], &["a", "b", "c", "d", "e", "f"]),
            cut("abc", 3)
        );
        assert_eq!(told(&["de"], &["abcdef", "g"]), cut("abc", 0));
        assert_eq!(told(&["x", "cd", "bcd"], &["ab", "cd"]), cut("a", 0));
        assert_eq!(told(&["aab"], &["a", "a", "a", "b"]), cut("a", 0));
        assert_eq!(told(&["\u{e9}\n"], &["caf\u{e9}", "\n"]), cut("caf", 0));
        assert_eq!(told(&["de"], &["c", "d"]), whole("cd", 2));
        assert_eq!(told(&["de"], &["d", "d", "f"]), whole("ddf", 3));
        assert_eq!(told(&[], &["a", "", "b"]), whole("ab", 3));
    }
}
