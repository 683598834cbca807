//! Stop strings: where one appears the answer ends, and no part of it is told.
//!
//! The library looks for them one token late and tells them whole; besides, a stop string may begin in
//! one token and end in another. So text that may become one is held back until that is decided.

use cocoon_protocol::engine::Text;
use cocoon_protocol::openai::FinishReason;
use zeroize::Zeroizing;

use crate::backend::Event;

/// The stop strings of one generation, and what is held back of its answer.
pub struct Stops {
    stops: Vec<Zeroizing<String>>,
    held: Zeroizing<String>,
    met: bool,
}

impl Stops {
    /// For the answer to a request with these stop strings.
    pub fn new(stops: &[String]) -> Self {
        let stops = stops.iter().filter(|stop| !stop.is_empty());
        Self {
            stops: stops.cloned().map(Zeroizing::new).collect(),
            held: Zeroizing::default(),
            met: false,
        }
    }

    /// What is told of an event. Each token keeps its event, if only an empty one: how many there are
    /// and when they come does not depend on stop strings.
    pub fn filter(&mut self, event: Event) -> Vec<Event> {
        match event {
            Event::Delta { text, tokens } => vec![Event::Delta {
                text: self.push(&text.0),
                tokens,
            }],
            Event::Done {
                finish_reason,
                prompt_tokens,
                completion_tokens,
            } => {
                let rest = std::mem::take(&mut *self.held);
                let finish_reason = if self.met {
                    FinishReason::Stop
                } else {
                    finish_reason
                };
                let rest = (!rest.is_empty()).then(|| Event::Delta {
                    text: Text(rest),
                    tokens: 0,
                });
                rest.into_iter()
                    .chain([Event::Done {
                        finish_reason,
                        prompt_tokens,
                        completion_tokens,
                    }])
                    .collect()
            }
            Event::Failed(failure) => vec![Event::Failed(failure)],
        }
    }

    fn push(&mut self, text: &str) -> Text {
        if self.met {
            return Text(String::new());
        }
        self.held.push_str(text);
        let first = self.stops.iter().filter_map(|stop| self.held.find(&**stop));
        if let Some(at) = first.min() {
            self.met = true;
            let told = self.held[..at].to_owned();
            self.held = Zeroizing::default();
            return Text(told);
        }
        let decided = self.held.len() - self.undecided();
        let rest = self.held.split_off(decided);
        Text(std::mem::replace(&mut *self.held, rest))
    }

    /// Bytes at the end of what is held that some stop string begins with.
    fn undecided(&self) -> usize {
        let begun = |stop: &Zeroizing<String>| {
            let ends = stop.char_indices().map(|(at, _)| at);
            ends.rev()
                .find(|at| self.held.ends_with(&stop[..*at]))
                .unwrap_or(0)
        };
        self.stops.iter().map(begun).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The answer told of `pieces`, and whether it was stopped.
    fn told(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let stops: Vec<String> = stops.iter().map(|stop| (*stop).to_owned()).collect();
        let mut stops = Stops::new(&stops);
        let (mut answer, mut tokens, mut finish) = (String::new(), 0, None);
        let deltas = pieces.iter().map(|piece| Event::Delta {
            text: Text((*piece).to_owned()),
            tokens: 1,
        });
        let done = Event::Done {
            finish_reason: FinishReason::Length,
            prompt_tokens: 1,
            completion_tokens: 2,
        };
        for event in deltas.chain([done]) {
            for event in stops.filter(event) {
                match event {
                    Event::Delta { text, tokens: more } => {
                        answer.push_str(&text.0);
                        tokens += more as usize;
                    }
                    Event::Done { finish_reason, .. } => finish = Some(finish_reason),
                    Event::Failed(failure) => panic!("{failure:?}"),
                }
            }
        }
        assert_eq!(tokens, pieces.len());
        (answer, finish == Some(FinishReason::Stop))
    }

    #[test]
    fn an_answer_ends_before_the_stop_string() {
        let cut = |text: &str| (text.to_owned(), true);
        let whole = |text: &str| (text.to_owned(), false);
        assert_eq!(told(&["de"], &["a", "b", "c", "d", "e", "f"]), cut("abc"));
        assert_eq!(told(&["de"], &["abcdef", "g"]), cut("abc"));
        assert_eq!(told(&["x", "cd", "bcd"], &["ab", "cd"]), cut("a"));
        assert_eq!(told(&["aab"], &["a", "a", "a", "b"]), cut("a"));
        assert_eq!(told(&["\u{e9}\n"], &["caf\u{e9}", "\n"]), cut("caf"));
        assert_eq!(told(&["de"], &["c", "d"]), whole("cd"));
        assert_eq!(told(&["de"], &["d", "d", "f"]), whole("ddf"));
        assert_eq!(told(&[], &["a", "", "b"]), whole("ab"));
    }
}
