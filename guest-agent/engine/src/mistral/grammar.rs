//! Grammars of answers: JSON schemas compiled by llguidance, with one matcher per answer and separate from the library's
//! grammars.
//!
//! A schema is untrusted input. Its size and keywords are limited before it gets here. The time and memory that its grammar
//! takes per token are limited by [`limits`].

use std::sync::{Arc, OnceLock};

use cocoon_protocol::engine::{
    Choice, EngineFailure, Format, Generation, json_value, schema_of_calls,
};
use mistralrs_core::llguidance::api::{ParserLimits, TopLevelGrammar};
use mistralrs_core::llguidance::{Matcher, ParserFactory};

use super::tokens::Tokens;
use crate::choose::{Grammar, TooComplex};

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
        request.choice != Choice::Auto || !matches!(request.format, Format::Text)
    }

    /// Compiles the grammar of the answer to `request`, if it needs one. May take long.
    pub(super) fn of(
        &self,
        request: &Generation,
    ) -> Result<Option<Box<dyn Grammar>>, EngineFailure> {
        let schema = match (&request.choice, &request.format) {
            (Choice::Auto, Format::Text) => return Ok(None),
            (Choice::Auto, Format::Json) => r#"{"type":"object"}"#.to_owned(),
            (Choice::Auto, Format::Schema(schema)) => schema.clone(),
            (choice, _) => schema_of_calls(&request.tools, choice).ok_or(EngineFailure::Grammar)?,
        };
        let schema = zeroize::Zeroizing::new(schema);
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
        Ok(Some(Box::new(Schema {
            matcher: Matcher::new(Ok(parser)),
            tokens: self.tokens.clone(),
        })))
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

    fn accept(&mut self, token: u32) -> Result<(), TooComplex> {
        if self.matcher.is_stopped() {
            return Ok(());
        }
        self.matcher.consume_token(token).map_err(|_| TooComplex)
    }
}
