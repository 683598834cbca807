//! Grammars of answers: JSON schemas compiled by llguidance, with one matcher per answer or call and separate from the
//! library's grammars.
//!
//! A schema is untrusted input. Its size and keywords are limited before it gets here. The time and memory that its grammar
//! takes per token are limited by [`limits`].

use std::sync::{Arc, OnceLock};

use cocoon_protocol::engine::{
    Choice, EngineFailure, Format, Generation, Tool, json_value, schema_of_calls,
};
use mistralrs_core::llguidance::api::{ParserLimits, StopReason, TopLevelGrammar};
use mistralrs_core::llguidance::{Matcher, ParserFactory};
use zeroize::Zeroizing;

use super::tokens::Tokens;
use crate::choose::{Grammar, TooComplex};
use crate::strict::{Schemas, Strict};

/// Compiles grammars for a model's tokens.
pub(super) struct Grammars {
    tokens: Tokens,
    /// Created for the first request that needs it, because this takes time and most requests need no grammar.
    factory: OnceLock<Option<Arc<ParserFactory>>>,
}

impl Grammars {
    pub(super) fn new(tokens: Tokens) -> Self {
        Self {
            tokens,
            factory: OnceLock::new(),
        }
    }

    /// Returns whether the answer to `request` needs a grammar.
    pub(super) fn needed(request: &Generation) -> bool {
        let strict = request.tools.iter().any(|tool| tool.strict);
        strict || request.choice != Choice::Auto || !matches!(request.format, Format::Text)
    }

    /// Compiles the grammar of the answer to `request`, if it needs one. May take long.
    pub(super) fn of(
        &self,
        request: &Generation,
    ) -> Result<Option<Box<dyn Grammar>>, EngineFailure> {
        if !Self::needed(request) {
            return Ok(None);
        }
        let schema = match (&request.choice, &request.format) {
            (Choice::Auto, Format::Text) => {
                let strict = request.tools.iter().filter(|tool| tool.strict).cloned();
                let strict: Vec<Tool> = strict.collect();
                schema_of_calls(&strict, &Choice::Required).ok_or(EngineFailure::Grammar)?
            }
            (Choice::Auto, Format::Json) => r#"{"type":"object"}"#.to_owned(),
            (Choice::Auto, Format::Schema(schema)) => schema.clone(),
            (choice, _) => schema_of_calls(&request.tools, choice).ok_or(EngineFailure::Grammar)?,
        };
        let schema = Zeroizing::new(schema);
        let value = json_value(&schema).ok_or(EngineFailure::Grammar)?;
        let factory = self.factory.get_or_init(|| {
            let mut factory = ParserFactory::new_simple(self.tokens.environment()).ok()?;
            // Its messages quote grammar and answer, and by default go to standard error.
            factory.quiet();
            *factory.limits_mut() = limits();
            Some(Arc::new(factory))
        });
        let factory = factory.as_ref().ok_or(EngineFailure::Internal)?;
        let parser = factory.create_parser(TopLevelGrammar::from_json_schema(value));
        // The error is dropped, because it may quote the schema.
        let parser = parser.map_err(|_| EngineFailure::Grammar)?;
        let matcher = Matcher::new(Ok(parser));
        let tokens = self.tokens.clone();
        Ok(match (&request.choice, &request.format) {
            (Choice::Auto, Format::Text) => {
                let strict = Strict::new(request, CallSchemas { matcher, tokens });
                Some(Box::new(strict.ok_or(EngineFailure::Grammar)?))
            }
            _ => Some(Box::new(Schema { matcher, tokens })),
        })
    }
}

/// About a tenth of the library's default memory limits, which assume a single trusted caller.
fn limits() -> ParserLimits {
    ParserLimits {
        max_lexer_states: 25_000,
        max_grammar_size: 100_000,
        verbose_errors: false,
        // Precomputing would run each large pattern over the whole vocabulary, however long that takes.
        precompute_large_lexemes: false,
        ..ParserLimits::default()
    }
}

struct Schema {
    matcher: Matcher,
    tokens: Tokens,
}

impl Grammar for Schema {
    fn restrict(&mut self, logits: &mut [f32]) -> Result<(), TooComplex> {
        let mask = self.matcher.compute_mask_or_eos().map_err(|_| TooComplex)?;
        // The tokenizer knows one end token, but the model may have several.
        let may_end = mask.is_allowed(self.tokens.trie().eos_token());
        for (token, logit) in (0..).zip(logits.iter_mut()) {
            let allowed = match self.tokens.ends().contains(&token) {
                true => may_end,
                false => (token as usize) < mask.len() && mask.is_allowed(token),
            };
            if !allowed {
                *logit = f32::NEG_INFINITY;
            }
        }
        Ok(())
    }

    fn accept(&mut self, token: u32) -> Result<bool, TooComplex> {
        if !self.matcher.is_stopped() {
            let consumed = self.matcher.consume_token(token);
            consumed.map_err(|_| TooComplex)?;
        }
        Ok(true)
    }
}

/// Schemas of the calls of strict tools.
struct CallSchemas {
    /// The matcher at the beginning of a call.
    matcher: Matcher,
    tokens: Tokens,
}

impl Schemas for CallSchemas {
    type Call = Schema;

    fn bytes(&self, token: u32) -> Vec<u8> {
        self.tokens.bytes(token, true)
    }

    fn begun(&mut self, tool: &str, then: &[u8]) -> Result<Option<Schema>, TooComplex> {
        let begun = [b"{\"name\":\"", tool.as_bytes(), b"\"", then].concat();
        let begun = Zeroizing::new(begun);
        let trie = self.tokens.trie();
        // To the matcher only the bytes count, not how they are divided into tokens.
        let read = Zeroizing::new(trie.greedy_tokenize(&begun));
        // Bytes that are no token's are left out.
        if *Zeroizing::new(trie.decode_raw(&read)) != *begun {
            return Ok(None);
        }
        let mut matcher = self.matcher.deep_clone();
        let taken = matcher.try_consume_tokens(&read).map_err(|_| TooComplex)?;
        Ok((taken == read.len()).then(|| Schema {
            matcher,
            tokens: self.tokens.clone(),
        }))
    }

    fn over(call: &Schema) -> bool {
        // A matcher also stops when it fails, but then the call is not over.
        matches!(
            call.matcher.stop_reason(),
            StopReason::NoExtension | StopReason::NoExtensionBias | StopReason::EndOfSentence
        )
    }
}
