//! One answer on its way from a backend to the agent: its stop strings and calls found, its tokens
//! counted, its pieces cut to frames.

use cocoon_protocol::engine::{
    FromEngine, Generation, MAX_ARGUMENTS, MAX_FROM_ENGINE, Spoken, Text, TokenLogprob,
};
use cocoon_protocol::openai::FinishReason;

use crate::backend::Event;
use crate::calls::{Calls, Heard};
use crate::stops::Stops;

/// Longest text in one frame: JSON escapes a byte to at most six, and log probabilities take the rest.
const MAX_TEXT: usize = MAX_FROM_ENGINE / 16;
/// Log probabilities in one frame; each is at most a token and twenty others.
const MAX_LOGPROBS: usize = 1;

/// The state of one answer.
pub struct Answer {
    id: u64,
    stops: Stops,
    calls: Option<Calls>,
    made: u32,
    prompt_tokens: u32,
    tokens: u32,
}

impl Answer {
    /// The answer to `request`.
    pub fn new(id: u64, request: &Generation) -> Self {
        Self {
            id,
            stops: Stops::new(&request.stop),
            calls: Calls::new(request),
            made: 0,
            prompt_tokens: 0,
            tokens: 0,
        }
    }

    /// What the agent is told of an event, and whether it was the last one.
    ///
    /// Each token keeps its frame, if only an empty one: how many there are and when they come does not
    /// depend on stop strings.
    pub fn hear(&mut self, event: Event) -> (Vec<FromEngine>, bool) {
        let mut frames = Vec::new();
        match event {
            Event::Started { prompt_tokens } => {
                self.prompt_tokens = prompt_tokens;
                let id = self.id;
                frames.push(FromEngine::Started { id, prompt_tokens });
                (frames, false)
            }
            Event::Token { text, logprob } => {
                self.tokens = self.tokens.saturating_add(1);
                let over = self.piece(&text, logprob, 1, &mut frames);
                (frames, over)
            }
            Event::Rest { text } => {
                let over = self.piece(&text, None, 0, &mut frames);
                (frames, over)
            }
            Event::Done { finish_reason } => {
                let (text, logprobs) = self.stops.rest();
                let heard = self.read(text);
                if !(heard.text.0.is_empty() && heard.calls.is_empty() && logprobs.is_empty()) {
                    self.tell(heard, 0, logprobs, &mut frames);
                }
                self.end(finish_reason, &mut frames);
                (frames, true)
            }
            Event::Failed(reason) => {
                let id = self.id;
                frames.push(FromEngine::Failed { id, reason });
                (frames, true)
            }
        }
    }

    /// Tells a piece of text; true when it was the last one.
    fn piece(
        &mut self,
        text: &Text,
        logprob: Option<TokenLogprob>,
        tokens: u32,
        frames: &mut Vec<FromEngine>,
    ) -> bool {
        let (text, logprobs) = self.stops.push(&text.0, logprob);
        let heard = self.read(text);
        let over = self.stops.met() || heard.over;
        self.tell(heard, tokens, logprobs, frames);
        if over {
            self.end(FinishReason::Stop, frames);
        }
        over
    }

    /// The calls in a text, if there may be any.
    fn read(&mut self, text: Text) -> Heard {
        match &mut self.calls {
            Some(calls) => calls.push(&text.0),
            None => Heard {
                text,
                ..Heard::default()
            },
        }
    }

    fn end(&mut self, finish_reason: FinishReason, frames: &mut Vec<FromEngine>) {
        if let Some(rest) = self.calls.as_mut().map(Calls::rest)
            && !(rest.text.0.is_empty() && rest.calls.is_empty())
        {
            self.tell(rest, 0, Vec::new(), frames);
        }
        let called = self.calls.as_ref().is_some_and(Calls::made);
        frames.push(FromEngine::Done {
            id: self.id,
            finish_reason: match finish_reason {
                FinishReason::Stop if called => FinishReason::ToolCalls,
                reason => reason,
            },
            prompt_tokens: self.prompt_tokens,
            completion_tokens: self.tokens,
        });
    }

    fn tell(
        &mut self,
        heard: Heard,
        tokens: u32,
        mut logprobs: Vec<TokenLogprob>,
        frames: &mut Vec<FromEngine>,
    ) {
        let id = self.id;
        let mut rest = heard.text.0.as_str();
        let mut tokens = tokens;
        loop {
            let (piece, next) = rest.split_at(rest.floor_char_boundary(MAX_TEXT));
            let some = logprobs.len().min(MAX_LOGPROBS);
            frames.push(FromEngine::Delta {
                id,
                text: Text(piece.to_owned()),
                tokens,
                logprobs: logprobs.drain(..some).collect(),
            });
            (rest, tokens) = (next, 0);
            if rest.is_empty() && logprobs.is_empty() {
                break;
            }
        }
        for Spoken { name, arguments } in heard.calls {
            let index = self.made;
            self.made += 1;
            let call = |name, piece: &str| FromEngine::Call {
                id,
                index,
                name,
                arguments: Text(piece.to_owned()),
            };
            frames.push(call(Some(Text(name.to_string())), ""));
            let mut rest = arguments.as_str();
            while !rest.is_empty() {
                let (piece, next) = rest.split_at(rest.floor_char_boundary(MAX_ARGUMENTS));
                frames.push(call(None, piece));
                rest = next;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cocoon_protocol::engine::{Choice, Format, Prompt, Sampling, Tool};

    fn request(stop: &[&str], tools: bool) -> Generation {
        let tool = Tool {
            name: "f".into(),
            description: None,
            parameters: "{}".into(),
        };
        Generation {
            prompt: Prompt::Text(String::new()),
            tools: tools.then_some(tool).into_iter().collect(),
            choice: Choice::Auto,
            parallel: true,
            format: Format::Text,
            max_tokens: 9,
            sampling: Sampling::default(),
            stop: stop.iter().map(|stop| (*stop).to_owned()).collect(),
            top_logprobs: None,
        }
    }

    /// Text, arguments, and the end of an answer of these tokens.
    fn told(request: &Generation, tokens: &[&str]) -> (String, String, FinishReason, u32, usize) {
        let mut answer = Answer::new(1, request);
        let (mut text, mut arguments, mut frames) = (String::new(), String::new(), 0);
        let tokens = tokens.iter().map(|text| Event::Token {
            text: Text((*text).to_owned()),
            logprob: None,
        });
        let events = [Event::Started { prompt_tokens: 3 }].into_iter();
        let done = Event::Done {
            finish_reason: FinishReason::Stop,
        };
        for event in events.chain(tokens).chain([done]) {
            for frame in answer.hear(event).0 {
                match frame {
                    FromEngine::Delta { text: more, .. } => {
                        text.push_str(&more.0);
                        frames += 1;
                    }
                    FromEngine::Call {
                        arguments: more, ..
                    } => {
                        assert!(more.0.len() <= MAX_ARGUMENTS);
                        arguments.push_str(&more.0);
                    }
                    FromEngine::Done {
                        finish_reason,
                        prompt_tokens: 3,
                        completion_tokens,
                        ..
                    } => return (text, arguments, finish_reason, completion_tokens, frames),
                    FromEngine::Started { .. } => {}
                    _ => panic!("another frame"),
                }
            }
        }
        panic!("no end")
    }

    #[test]
    fn an_answer_is_counted_to_its_end() {
        let (text, _, reason, tokens, frames) = told(&request(&[], false), &["a", "", "b"]);
        assert_eq!((text.as_str(), tokens, frames), ("ab", 3, 3));
        assert_eq!(reason, FinishReason::Stop);
        let (text, _, _, tokens, frames) = told(&request(&["bc"], false), &["a", "b", "c", "d"]);
        assert_eq!((text.as_str(), tokens, frames), ("a", 3, 3));
    }

    #[test]
    fn a_call_is_told_in_pieces_of_a_usual_length() {
        let long = "x".repeat(300);
        let call = format!(r#"{{"name":"f","arguments":{{"a":"{long}"}}}}"#);
        let (text, arguments, reason, ..) = told(&request(&[], true), &[&call]);
        assert_eq!((text.as_str(), reason), ("", FinishReason::ToolCalls));
        assert_eq!(arguments, format!(r#"{{"a":"{long}"}}"#));
    }

    #[test]
    fn a_long_text_is_cut_at_characters() {
        let long = "\u{e9}".repeat(MAX_TEXT);
        let (text, .., frames) = told(&request(&[], false), &[&long]);
        assert_eq!((text == long, frames), (true, 2));
    }
}
