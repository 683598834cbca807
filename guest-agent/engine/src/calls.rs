//! Detection of tool calls in an answer. Text that may become a call is held back.
//!
//! Models write calls as JSON, between marks that depend on the model's family or without marks. Text that turns out not to be
//! a call is sent as text.

use std::sync::Arc;

use cocoon_protocol::engine::{Choice, Generation, Spoken, Text, Tool, opened_call, parse_calls};
use cocoon_protocol::wiping::append;
use zeroize::Zeroizing;

use crate::stops::begun;

/// Marks around a call. Without an end mark the call lasts to the end of the answer.
const MARKS: [(&str, Option<&str>); 3] = [
    ("<tool_call>", Some("</tool_call>")),
    ("[TOOL_CALLS]", None),
    ("<|python_tag|>", None),
];

/// The ends of JSON values that may be calls.
const COMPLETE: [char; 2] = ['}', ']'];

/// Detector of the tool calls in one answer.
#[derive(Clone)]
pub struct Calls {
    tools: Arc<[Tool]>,
    /// Whether the grammar forces the answer to be a call.
    forced: bool,
    parallel: bool,
    held: Zeroizing<String>,
    mode: Mode,
    made: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    /// There was only white space so far.
    Opening,
    /// The answer began like JSON.
    Bare,
    Text,
    /// The opening mark with this index came before.
    Marked(usize),
}

/// Result of reading a piece of text.
#[derive(Default)]
pub struct Heard {
    /// Text that is not part of a call.
    pub text: Text,
    /// Complete calls.
    pub calls: Vec<Spoken>,
    /// Whether the answer must end here.
    pub over: bool,
}

impl Calls {
    /// Creates the detector for the answer to `request`; `None` if the request has no tools.
    pub fn new(request: &Generation) -> Option<Self> {
        (!request.tools.is_empty()).then(|| Self {
            tools: request.tools.clone().into(),
            forced: request.choice != Choice::Auto,
            parallel: request.parallel,
            held: Zeroizing::default(),
            mode: Mode::Opening,
            made: false,
        })
    }

    /// Returns whether the answer contains a call.
    pub fn made(&self) -> bool {
        self.made
    }

    /// Returns the strict tool whose call has just begun, up to the quotation mark after its name.
    pub fn opened(&self) -> Option<&Tool> {
        match self.mode {
            Mode::Bare | Mode::Marked(_) => opened_call(&self.held, &self.tools),
            Mode::Opening | Mode::Text => None,
        }
    }

    /// Reads one more piece of text.
    pub fn push(&mut self, text: &str) -> Heard {
        let mut heard = Heard::default();
        // Bare JSON may be complete after each of these, so calls do not depend on the pieces in which the text comes.
        for piece in text.split_inclusive(COMPLETE) {
            append(&mut self.held, piece);
            while !heard.over && self.step(&mut heard) {}
            if heard.over {
                self.held = Zeroizing::default();
                break;
            }
        }
        heard
    }

    /// Returns what was held back when the answer is over.
    pub fn rest(&mut self) -> Heard {
        let mut heard = Heard::default();
        let held = std::mem::take(&mut self.held);
        match self.mode {
            Mode::Text => self.tell(&held, &mut heard),
            Mode::Opening | Mode::Bare => self.call_or_tell(&held, "", "", &mut heard),
            Mode::Marked(mark) => self.call_or_tell(&held, MARKS[mark].0, "", &mut heard),
        }
        heard
    }

    /// Makes one decision. Returns false if more text is needed first.
    fn step(&mut self, heard: &mut Heard) -> bool {
        match self.mode {
            Mode::Opening => {
                let text = self.held.trim_start();
                self.mode = match text.chars().next() {
                    None => return false,
                    Some('{') => Mode::Bare,
                    Some('[') if MARKS[1].0.starts_with(text) => return false,
                    Some('[') if !text.starts_with(MARKS[1].0) => Mode::Bare,
                    Some(_) => Mode::Text,
                };
                true
            }
            Mode::Bare => {
                // It is not parsed again for every token.
                if !self.held.ends_with(COMPLETE) {
                    return false;
                }
                if let Some(calls) = parse_calls(&self.held, &self.tools) {
                    self.held = Zeroizing::default();
                    self.mode = Mode::Text;
                    self.call(calls, heard);
                    heard.over |= self.forced;
                    return false;
                }
                false
            }
            Mode::Text => {
                let found = MARKS.iter().enumerate();
                let found = found.filter_map(|(i, mark)| Some((self.held.find(mark.0)?, i)));
                let Some((at, mark)) = found.min() else {
                    let begun = |mark: &(&str, _)| begun(&self.held, mark.0);
                    let keep = MARKS.iter().map(begun).max().unwrap_or(0);
                    let decided = self.held.len() - keep;
                    let rest = self.held.split_off(decided);
                    let told = std::mem::replace(&mut self.held, Zeroizing::new(rest));
                    self.tell(&told, heard);
                    return false;
                };
                let rest = self.held.split_off(at + MARKS[mark].0.len());
                let told = std::mem::replace(&mut self.held, Zeroizing::new(rest));
                self.tell(&told[..at], heard);
                self.mode = Mode::Marked(mark);
                true
            }
            Mode::Marked(mark) => {
                let (begin, end) = MARKS[mark];
                let Some((end, at)) = end.and_then(|end| Some((end, self.held.find(end)?))) else {
                    return false;
                };
                let rest = self.held.split_off(at + end.len());
                let inner = std::mem::replace(&mut self.held, Zeroizing::new(rest));
                self.mode = Mode::Text;
                self.call_or_tell(&inner[..at], begin, end, heard);
                true
            }
        }
    }

    fn call_or_tell(&mut self, inner: &str, begin: &str, end: &str, heard: &mut Heard) {
        match parse_calls(inner, &self.tools) {
            Some(calls) => self.call(calls, heard),
            None => {
                for text in [begin, inner, end] {
                    self.tell(text, heard);
                }
            }
        }
    }

    fn call(&mut self, mut calls: Vec<Spoken>, heard: &mut Heard) {
        if !self.parallel {
            calls.truncate(1);
            heard.over = true;
        }
        self.made = true;
        heard.calls.append(&mut calls);
    }

    /// Adds text to the result, but drops white space after a call, which models write between calls.
    fn tell(&self, text: &str, heard: &mut Heard) {
        if !(self.made && text.trim().is_empty()) {
            append(&mut heard.text.0, text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cocoon_protocol::engine::{Format, Prompt, Sampling};

    fn calls(choice: Choice, parallel: bool) -> Calls {
        let tool = Tool {
            name: "f".into(),
            description: None,
            parameters: "{}".into(),
            strict: false,
        };
        Calls::new(&Generation {
            prompt: Prompt::Text(String::new()),
            tools: vec![tool],
            choice,
            parallel,
            format: Format::Text,
            max_tokens: 1,
            room: 9,
            sampling: Sampling::default(),
            stop: vec![],
            top_logprobs: None,
        })
        .unwrap()
    }

    /// Returns text and calls found in `answer`, which is read in pieces of `size` bytes.
    fn read(mut calls: Calls, answer: &str, size: usize) -> (String, Vec<String>) {
        let (mut text, mut made) = (String::new(), Vec::new());
        let mut hear = |heard: Heard| {
            text.push_str(&heard.text.0);
            made.extend(heard.calls.iter().map(|call| call.arguments.to_string()));
            heard.over
        };
        for piece in answer.as_bytes().chunks(size) {
            if hear(calls.push(std::str::from_utf8(piece).unwrap())) {
                return (text, made);
            }
        }
        hear(calls.rest());
        (text, made)
    }

    #[test]
    fn calls_are_found_and_everything_else_is_text() {
        let one = r#"{"name":"f","arguments":{"a":1}}"#;
        let arguments = r#"{"a":1}"#.to_owned();
        for size in [1, 2, 3, 7, 1000] {
            let auto = |answer: &str| read(calls(Choice::Auto, true), answer, size);
            let some = |text: &str, count| (text.to_owned(), vec![arguments.clone(); count]);
            assert_eq!(auto(one), some("", 1));
            assert_eq!(auto(&format!("[{one}]")), some("", 1));
            assert_eq!(
                auto(&format!("Let me see. <tool_call>\n{one}\n</tool_call>")),
                some("Let me see. ", 1)
            );
            assert_eq!(
                auto(&format!(
                    "<tool_call>{one}</tool_call>\n<tool_call>{one}</tool_call>"
                )),
                some("", 2)
            );
            assert_eq!(auto(&format!("[TOOL_CALLS][{one}, {one}]")), some("", 2));
            assert_eq!(auto(&format!("<|python_tag|>{one}")), some("", 1));
            for text in [
                "1 < 2, and <tool>",
                "{\"name\":\"other\",\"arguments\":{}}",
                "{ is a brace",
                "[1] a footnote",
                "[TOOL_",
                "<tool_call>nonsense</tool_call> then",
                "<tool_call>cut short",
                "  ",
            ] {
                assert_eq!(auto(text), some(text, 0));
            }
            let single = format!("<tool_call>{one}</tool_call>\n<tool_call>{one}</tool_call>");
            assert_eq!(read(calls(Choice::Auto, false), &single, size), some("", 1));
            let more = format!("{one} more");
            assert_eq!(
                read(calls(Choice::Required, true), &more, size),
                some("", 1)
            );
            let (text, made) = auto(&more);
            assert_eq!((text.trim(), made.len()), ("more", 1));
        }
    }
}
