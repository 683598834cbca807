//! Calls of tools in an answer: found in its text, held back while it may become one.
//!
//! Models write them as JSON between marks of their family, or as bare JSON. What turns out to be no
//! call is told as text after all.

use cocoon_protocol::engine::{Choice, Generation, Spoken, Text, Tool, parse_calls};
use cocoon_protocol::wiping::append;
use zeroize::Zeroizing;

use crate::stops::begun;

/// What a call stands between; no end is the end of the answer.
const MARKS: [(&str, Option<&str>); 3] = [
    ("<tool_call>", Some("</tool_call>")),
    ("[TOOL_CALLS]", None),
    ("<|python_tag|>", None),
];

/// The reader of one answer.
pub struct Calls {
    tools: Vec<Tool>,
    /// The answer is a call, by its grammar.
    forced: bool,
    parallel: bool,
    held: Zeroizing<String>,
    mode: Mode,
    made: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    /// Nothing but white space so far.
    Opening,
    /// The answer began like JSON.
    Bare,
    Text,
    /// Behind the mark of this number.
    Marked(usize),
}

/// What is told after a piece of text.
#[derive(Default)]
pub struct Heard {
    /// Text that is no call.
    pub text: Text,
    /// Calls.
    pub calls: Vec<Spoken>,
    /// The answer may not go on.
    pub over: bool,
}

impl Calls {
    /// For the answer to `request`; `None` when it offers no tools.
    pub fn new(request: &Generation) -> Option<Self> {
        (!request.tools.is_empty()).then(|| Self {
            tools: request.tools.clone(),
            forced: request.choice != Choice::Auto,
            parallel: request.parallel,
            held: Zeroizing::default(),
            mode: Mode::Opening,
            made: false,
        })
    }

    /// Whether the answer has called.
    pub fn made(&self) -> bool {
        self.made
    }

    /// What is told after one more piece.
    pub fn push(&mut self, text: &str) -> Heard {
        let mut heard = Heard::default();
        append(&mut self.held, text);
        while !heard.over && self.step(&mut heard) {}
        heard
    }

    /// What is left when the answer is over.
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

    /// Takes one decision; false when it takes more text.
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
                // Only here may it be whole: JSON is not read again for every token.
                if !self.held.trim_end().ends_with(['}', ']']) {
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

    /// Tells text; the white space that models put between calls means nothing.
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

    /// Text and calls told of `answer`, given in pieces of `size` bytes.
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
            assert_eq!(
                read(calls(Choice::Required, true), &format!("{one} more"), 1),
                some("", 1)
            );
        }
    }
}
