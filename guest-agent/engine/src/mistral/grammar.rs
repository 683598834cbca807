//! Grammars of answers: JSON schemas through llguidance, one matcher per answer, apart from the library's.
//!
//! A schema is a stranger's program. Its size and its keywords are bounded before it comes here; what its
//! grammar may take of time and memory with each token is bounded by [`limits`].

use std::sync::{Arc, OnceLock};

use cocoon_protocol::engine::{
    Choice, EngineFailure, Format, Generation, json_value, schema_of_calls,
};
use mistralrs_core::llguidance::api::{ParserLimits, TopLevelGrammar};
use mistralrs_core::llguidance::{Matcher, ParserFactory};

use super::tokens::Tokens;
use crate::choose::{Grammar, TooComplex};

/// Makes grammars over a model's tokens.
pub(super) struct Grammars {
    tokens: Tokens,
    /// Made for the first request that needs it: it takes its time, and most need none.
    factory: OnceLock<Option<Arc<ParserFactory>>>,
}

impl Grammars {
    pub(super) fn new(tokens: Tokens) -> Self {
        Self {
            tokens,
            factory: OnceLock::new(),
        }
    }

    /// Whether the answer to `request` must have one.
    pub(super) fn needed(request: &Generation) -> bool {
        request.choice != Choice::Auto || !matches!(request.format, Format::Text)
    }

    /// The grammar of the answer to `request`, if it must have one. Takes long.
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
            // Its messages quote grammar and answer, and by default go to the standard error stream.
            factory.quiet();
            *factory.limits_mut() = limits();
            Some(Arc::new(factory))
        });
        let factory = factory.as_ref().ok_or(EngineFailure::Internal)?;
        let parser = factory.create_parser(TopLevelGrammar::from_json_schema(value));
        // The reason may quote the schema.
        let parser = parser.map_err(|_| EngineFailure::Grammar)?;
        Ok(Some(Box::new(Schema {
            matcher: Matcher::new(Ok(parser)),
            tokens: self.tokens.clone(),
        })))
    }
}

/// A tenth of the library's defaults in memory: they are for one trusted caller.
fn limits() -> ParserLimits {
    ParserLimits {
        max_lexer_states: 25_000,
        max_grammar_size: 100_000,
        verbose_errors: false,
        // It would run each large pattern over the whole vocabulary first, whatever that takes.
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
        // The tokenizer knows one end, the model may have several.
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
