//! Conversion of a backend's events into the frames of one answer. Finds stop strings and tool calls, counts tokens and splits
//! the text into frames, whose number depends on the number of tokens only.

use cocoon_protocol::engine::{
    EngineFailure, FromEngine, Generation, MAX_FROM_ENGINE, MAX_PIECE, Padding, Spoken, Text,
    TokenLogprob,
};
use cocoon_protocol::openai::FinishReason;

use crate::backend::Event;
use crate::calls::{Calls, Heard};
use crate::stops::Stops;

/// Longest text in one frame, in bytes. JSON escapes a byte to at most six, and log probabilities need the rest.
const MAX_TEXT: usize = MAX_FROM_ENGINE / 16;
/// Most log probabilities in one frame. Each has a token and up to twenty alternatives.
const MAX_LOGPROBS: usize = 1;

/// State of one answer.
pub struct Answer {
    id: u64,
    stops: Stops,
    calls: Option<Calls>,
    padding: Padding,
    room: u32,
    made: u32,
    prompt_tokens: u32,
    tokens: u32,
    /// Number of frames sent so far.
    told: usize,
}

impl Answer {
    /// Creates the state for the answer to `request`.
    pub fn new(id: u64, request: &Generation) -> Self {
        Self {
            id,
            stops: Stops::new(&request.stop),
            calls: Calls::new(request),
            padding: Padding::of(request),
            room: request.room,
            made: 0,
            prompt_tokens: 0,
            tokens: 0,
            told: 0,
        }
    }

    /// Returns the frames for an event, and whether it was the last one.
    ///
    /// Each token gets a frame, which may be empty, and the end is padded. The number of frames therefore does not depend on
    /// which text was held back. The last frame says how the answer ended.
    pub fn hear(&mut self, event: Event) -> (Vec<FromEngine>, bool) {
        let mut frames = Vec::new();
        match event {
            Event::Started { prompt_tokens } => {
                // The exact length is known only now, because the template may add more tokens than was estimated before. Only
                // this request may fail: the agent takes a longer prompt for a lie and would end all answers.
                if prompt_tokens > self.room {
                    return self.hear(Event::Failed(EngineFailure::ContextLength));
                }
                self.prompt_tokens = prompt_tokens;
                let id = self.id;
                frames.push(FromEngine::Started { id, prompt_tokens });
                (frames, false)
            }
            Event::Token { text, logprob } => {
                self.tokens = self.tokens.saturating_add(1);
                let (text, logprobs) = self.stops.push(&text.0, logprob);
                let heard = self.read(text);
                let over = self.stops.met() || heard.over;
                self.tell(heard, 1, logprobs, &mut frames);
                if over {
                    self.end(FinishReason::Stop, &mut frames);
                }
                (frames, over)
            }
            Event::Done { finish_reason } => {
                let (text, logprobs) = self.stops.rest();
                let heard = self.read(text);
                self.tell(heard, 0, logprobs, &mut frames);
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

    /// Finds the calls in a text, if the request has tools.
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
        if let Some(rest) = self.calls.as_mut().map(Calls::rest) {
            self.tell(rest, 0, Vec::new(), frames);
        }
        let tokens = usize::try_from(self.tokens).unwrap_or(usize::MAX);
        let most = tokens.saturating_add(self.padding.frames(tokens));
        while self.told < most {
            frames.push(self.delta("", 0, Vec::new()));
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

    /// Appends the frames for text, calls, log probabilities and tokens, if there are any.
    fn tell(
        &mut self,
        heard: Heard,
        tokens: u32,
        mut logprobs: Vec<TokenLogprob>,
        frames: &mut Vec<FromEngine>,
    ) {
        let longest = match self.padding.holds() {
            true => MAX_PIECE,
            false => MAX_TEXT,
        };
        let mut rest = heard.text.0.as_str();
        let mut tokens = tokens;
        while !rest.is_empty() || !logprobs.is_empty() || tokens > 0 {
            let (piece, next) = rest.split_at(rest.floor_char_boundary(longest));
            let some = logprobs.len().min(MAX_LOGPROBS);
            let logprobs = logprobs.drain(..some).collect();
            frames.push(self.delta(piece, tokens, logprobs));
            (rest, tokens) = (next, 0);
        }
        for Spoken { name, arguments } in heard.calls {
            let index = self.made;
            self.made += 1;
            frames.push(self.call(index, Some(&name), ""));
            let mut rest = arguments.as_str();
            while !rest.is_empty() {
                let (piece, next) = rest.split_at(rest.floor_char_boundary(MAX_PIECE));
                frames.push(self.call(index, None, piece));
                rest = next;
            }
        }
    }

    fn delta(&mut self, text: &str, tokens: u32, logprobs: Vec<TokenLogprob>) -> FromEngine {
        self.told += 1;
        FromEngine::Delta {
            id: self.id,
            text: Text(text.to_owned()),
            tokens,
            logprobs,
        }
    }

    fn call(&mut self, index: u32, name: Option<&str>, piece: &str) -> FromEngine {
        self.told += 1;
        FromEngine::Call {
            id: self.id,
            index,
            name: name.map(|name| Text(name.to_owned())),
            arguments: Text(piece.to_owned()),
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
            strict: false,
        };
        Generation {
            prompt: Prompt::Text(String::new()),
            tools: tools.then_some(tool).into_iter().collect(),
            choice: Choice::Auto,
            parallel: true,
            format: Format::Text,
            max_tokens: 9,
            room: 100,
            sampling: Sampling::default(),
            stop: stop.iter().map(|stop| (*stop).to_owned()).collect(),
            top_logprobs: None,
        }
    }

    /// Returns text, arguments, finish reason, token count and number of frames of an answer.
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
                        assert!(more.0.len() <= MAX_PIECE);
                        arguments.push_str(&more.0);
                        frames += 1;
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
        // One frame more, as in every answer with stop strings.
        assert_eq!((text.as_str(), tokens, frames), ("a", 3, 4));
    }

    #[test]
    fn a_prompt_that_turned_out_longer_than_its_room_fails_alone() {
        let heard = |prompt_tokens| {
            let mut answer = Answer::new(1, &request(&[], false));
            answer.hear(Event::Started { prompt_tokens })
        };
        let (frames, over) = heard(100);
        assert!(
            !over
                && matches!(
                    frames[..],
                    [FromEngine::Started {
                        id: 1,
                        prompt_tokens: 100
                    }]
                )
        );
        let (frames, over) = heard(101);
        let reason = EngineFailure::ContextLength;
        assert!(
            over && matches!(frames[..], [FromEngine::Failed { id: 1, reason: told }] if told == reason)
        );
    }

    /// Answers with equally many tokens have equally many frames, whatever is held back, called or sent.
    #[test]
    fn the_number_of_frames_is_a_function_of_the_tokens() {
        let call =
            r#"{"name":"f","arguments":{"city":"Kyiv, the one on the Dnipro","day":"tomorrow"}}"#;
        let answer = |text: &str| -> Vec<String> {
            // Splits the text into twelve tokens of up to twelve bytes.
            let mut pieces: Vec<String> = text
                .as_bytes()
                .chunks(12)
                .map(|piece| String::from_utf8(piece.to_vec()).unwrap())
                .collect();
            pieces.resize(12, String::new());
            pieces
        };
        let frames = |request: &Generation, text: &str| {
            let pieces = answer(text);
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let (_, _, _, tokens, frames) = told(request, &pieces);
            assert_eq!(tokens, 12);
            frames
        };
        let tools = request(&[], true);
        for text in [
            "plain words",
            call,
            &format!("Well. <tool_call>{call}</tool_call>"),
            &format!("[{call}, {{}}"),
            "{\"is no call\": \"but was held back for as long as it might become one, to its very end\"}",
            "",
        ] {
            assert_eq!(frames(&tools, text), 12 + 12 * 24 / 96 + 2, "{text}");
        }
        let stops = request(&["words and so on"], false);
        for text in ["plain words", "words and so", "words and so of", ""] {
            assert_eq!(frames(&stops, text), 12 + 1, "{text}");
        }
        // Text longer than a piece is held back, to the end of the answer or not.
        let long = "stop ".repeat(40);
        let stops = request(&[&long], false);
        for text in [
            &long[..144],
            &format!("{}words", &long[..120]),
            "plain words",
            "",
        ] {
            assert_eq!(frames(&stops, text), 12 + 1 + 12 * 24 / 96, "{text}");
        }
        let short = &long[..80];
        let stops = request(&[short], false);
        for text in [
            &format!("{}words, words and words", &short[..79]),
            "plain words",
        ] {
            assert_eq!(frames(&stops, text), 12 + 1 + 12 * 24 / 96, "{text}");
        }
        let mut both = request(&["words and so on"], false);
        both.top_logprobs = Some(0);
        for text in ["plain words", "words and so", "words and so of", ""] {
            assert_eq!(frames(&both, text), 12 + 1 + 12, "{text}");
        }
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
        let (text, .., frames) = told(&request(&["stop"], false), &[&long]);
        assert_eq!((text == long, frames), (true, (2 * MAX_TEXT).div_ceil(96)));
    }
}
