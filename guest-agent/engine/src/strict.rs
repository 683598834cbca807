//! Grammar of an answer that may call strict tools, but need not: it holds from where a call of such a tool begins to where
//! it ends. All other text is free.
//!
//! A call begins where [`Calls::opened`] says. Nothing else is taken for a call of a strict tool, so a grammar holds each such
//! call.

use cocoon_protocol::engine::{Generation, Utf8};

use crate::calls::Calls;
use crate::choose::{Grammar, TooComplex};

/// Grammars of the calls of strict tools.
pub trait Schemas: Send {
    /// Grammar of one call.
    type Call: Grammar;

    /// Returns the bytes of a token.
    fn bytes(&self, token: u32) -> Vec<u8>;

    /// Returns the grammar of the rest of a call, after the name of `tool` and the bytes `then`; `None` if no call continues
    /// with them.
    fn begun(&mut self, tool: &str, then: &[u8]) -> Result<Option<Self::Call>, TooComplex>;

    /// Returns whether the call is complete.
    fn over(call: &Self::Call) -> bool;
}

/// Grammar of one answer.
pub struct Strict<S: Schemas> {
    schemas: S,
    reader: Reader,
    call: Option<S::Call>,
}

/// Finds the calls in an answer of tokens.
#[derive(Clone)]
struct Reader {
    text: Utf8,
    calls: Calls,
}

impl<S: Schemas> Strict<S> {
    /// Creates the grammar of the answer to `request`; `None` if the request has no tools.
    pub fn new(request: &Generation, schemas: S) -> Option<Self> {
        let calls = Calls::new(request)?;
        Some(Self {
            schemas,
            reader: Reader {
                text: Utf8::default(),
                calls,
            },
            call: None,
        })
    }

    /// Reads a token outside a call. Returns false, and reads nothing, if a call begins in it and cannot continue like this.
    fn begin(&mut self, bytes: &[u8]) -> Result<bool, TooComplex> {
        // The beginning of a call ends with a quotation mark. The state is copied only where it may be needed again.
        if !bytes.contains(&b'"') {
            self.reader.read(bytes);
            return Ok(true);
        }
        let mut reader = self.reader.clone();
        let mut read = 0;
        for piece in bytes.split_inclusive(|byte| *byte == b'"') {
            reader.read(piece);
            read += piece.len();
            let Some(tool) = reader.calls.opened() else {
                continue;
            };
            let then = &bytes[read..];
            let Some(call) = self.schemas.begun(&tool.name, then)? else {
                return Ok(false);
            };
            self.call = Some(call).filter(|call| !S::over(call));
            reader.read(then);
            break;
        }
        self.reader = reader;
        Ok(true)
    }
}

impl<S: Schemas> Grammar for Strict<S> {
    fn restrict(&mut self, logits: &mut [f32]) -> Result<(), TooComplex> {
        match &mut self.call {
            Some(call) => call.restrict(logits),
            None => Ok(()),
        }
    }

    fn accept(&mut self, token: u32) -> Result<bool, TooComplex> {
        let bytes = zeroize::Zeroizing::new(self.schemas.bytes(token));
        let Some(call) = &mut self.call else {
            return self.begin(&bytes);
        };
        let accepted = call.accept(token)?;
        if accepted {
            self.reader.read(&bytes);
            if S::over(call) {
                self.call = None;
            }
        }
        Ok(accepted)
    }
}

impl Reader {
    fn read(&mut self, bytes: &[u8]) {
        let text = self.text.push(bytes);
        self.calls.push(&text.0);
    }
}

#[cfg(test)]
mod tests {
    use cocoon_protocol::engine::{Choice, Format, Prompt, Sampling, Tool};

    use super::*;

    /// What follows a name in the only call that fits.
    const REST: &[u8] = br#","arguments":{}}"#;

    /// Schemas for tokens that are texts.
    struct Texts(Vec<&'static [u8]>);

    /// The bytes that are still to come.
    struct Rest(Vec<&'static [u8]>, &'static [u8]);

    impl Schemas for Texts {
        type Call = Rest;

        fn bytes(&self, token: u32) -> Vec<u8> {
            self.0[token as usize].to_vec()
        }

        fn begun(&mut self, tool: &str, then: &[u8]) -> Result<Option<Rest>, TooComplex> {
            assert_eq!(tool, "f");
            let rest = REST.strip_prefix(then);
            Ok(rest.map(|rest| Rest(self.0.clone(), rest)))
        }

        fn over(call: &Rest) -> bool {
            call.1.is_empty()
        }
    }

    impl Grammar for Rest {
        fn restrict(&mut self, logits: &mut [f32]) -> Result<(), TooComplex> {
            for (token, logit) in self.0.iter().zip(logits) {
                if !self.1.starts_with(token) {
                    *logit = f32::NEG_INFINITY;
                }
            }
            Ok(())
        }

        fn accept(&mut self, token: u32) -> Result<bool, TooComplex> {
            let token = self.0[token as usize];
            self.1 = self.1.strip_prefix(token).ok_or(TooComplex)?;
            Ok(true)
        }
    }

    fn tool(name: &str, strict: bool) -> Tool {
        Tool {
            name: name.into(),
            description: None,
            parameters: "{}".into(),
            strict,
        }
    }

    /// Reads tokens of an answer that may call the strict tool `f` and the tool `g`. Returns for each whether it was accepted,
    /// and whether a call goes on after it.
    fn read(tokens: &[&'static [u8]]) -> Vec<(bool, bool)> {
        let request = Generation {
            prompt: Prompt::Text(String::new()),
            tools: vec![tool("g", false), tool("f", true)],
            choice: Choice::Auto,
            parallel: true,
            format: Format::Text,
            max_tokens: 9,
            room: 100,
            sampling: Sampling::default(),
            stop: vec![],
            top_logprobs: None,
        };
        let mut strict = Strict::new(&request, Texts(tokens.to_vec())).unwrap();
        let one = |token| {
            let accepted = strict.accept(token).unwrap();
            let mut logits = vec![0.0; tokens.len()];
            strict.restrict(&mut logits).unwrap();
            (accepted, logits.contains(&f32::NEG_INFINITY))
        };
        (0..u32::try_from(tokens.len()).unwrap()).map(one).collect()
    }

    const FREE: (bool, bool) = (true, false);
    const CALLED: (bool, bool) = (true, true);
    const REFUSED: (bool, bool) = (false, false);

    #[test]
    fn a_call_is_held_from_its_name_to_its_end() {
        let marked: &[&[u8]] = &[
            b"I will look. ",
            b"<tool_",
            b"call>\n{\"na",
            b"me\": \"f",
            b"\",",
            b"\"arguments\":{",
            b"}}",
            b"\n</tool_call> and",
            b"<tool_call>{\"name\":\"f\"",
            b",\"arguments\":{}}",
            b"</tool_call>",
        ];
        let expected = [
            FREE, FREE, FREE, FREE, CALLED, CALLED, FREE, FREE, CALLED, FREE, FREE,
        ];
        assert_eq!(read(marked), expected);
        let bare: &[&[u8]] = &[
            b" [{\"function\"",
            b":\"f\",\"arguments\":{}}",
            b", {\"name\":\"f\"",
            b",\"arguments\":{}}",
            b"]",
        ];
        assert_eq!(read(bare), [FREE, FREE, CALLED, FREE, FREE]);
    }

    /// The reader of the answer may get a token in two pieces, because the second may begin a stop string.
    #[test]
    fn a_call_may_end_within_a_token() {
        let tokens: &[&[u8]] = &[
            b"{\"name\":\"g\",\"arguments\":{}",
            b"}</",
            b"b><tool_call>{\"name\":\"f\"",
            b",\"arguments\":{}}",
            b"</tool_call>",
        ];
        assert_eq!(read(tokens), [FREE, FREE, CALLED, FREE, FREE]);
    }

    /// A token that is refused leaves no trace: another one follows what was before it.
    #[test]
    fn a_token_that_ends_a_name_and_fits_no_call_is_refused() {
        let tokens: &[&[u8]] = &[
            b"<tool_call>{\"name\":\"f",
            b"\"}</tool_call>",
            b"\",\"id\"",
            b"\",\"",
            b"arguments\":{}}",
            b"</tool_call>",
        ];
        let expected = [FREE, REFUSED, REFUSED, CALLED, FREE, FREE];
        assert_eq!(read(tokens), expected);
    }

    #[test]
    fn whatever_is_no_call_of_a_strict_tool_is_free() {
        for tokens in [
            &[b"{\"name\":\"g\"".as_slice(), b"}"],
            &[b"It is {\"name\":\"f\"", b"}"],
            &[b"[1] Send {\"name\":\"f\"", b"}"],
            &[b"{\"items\":[{\"name\":\"f\"", b"}]}"],
            &[
                b"<tool_call>{\"name\":\"g\",\"arguments\":{\"a\":{\"name\":\"f\"",
                b"}}}",
            ],
            &[b"{\"names\":\"f\"", b"}"],
            &[b"{\"name\":\"f", b"g\"}"],
            &[b"<tool_call>\xc3", b"\xa9\"</tool_call>{\"name\":\"f\"}"],
        ] {
            assert_eq!(read(tokens), [FREE, FREE]);
        }
    }
}
