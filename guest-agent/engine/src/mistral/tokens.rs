//! The model's tokens, and our choice among them as the library's logits processor.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::ensure;
use cocoon_protocol::engine::MAX_TOKEN;
use mistralrs::Tensor;
use mistralrs_core::CustomLogitsProcessor;
use mistralrs_core::llguidance::toktrie::{TokEnv, TokTrie};
use tokio::sync::mpsc;

#[cfg(not(feature = "cuda"))]
use super::threads;
use crate::choose::{Choice, Chooser, NoChoice};

/// What is told of each choice.
pub(super) type Chosen = Result<Choice, NoChoice>;

/// The tokens of a model.
#[derive(Clone)]
pub(super) struct Tokens {
    environment: TokEnv,
    ends: Arc<[u32]>,
}

impl Tokens {
    /// Those that a loaded model speaks in. Errors where one is longer than the agent believes.
    pub(super) fn new(environment: TokEnv, ends: &[u32]) -> anyhow::Result<Self> {
        let tokens = Self {
            environment,
            ends: ends.into(),
        };
        let lengths = (0..tokens.vocabulary()).map(|token| tokens.bytes(token, true).len());
        let longest = lengths.max().unwrap_or(0);
        ensure!(
            longest <= MAX_TOKEN,
            "the model's vocabulary has a token of {longest} bytes, and {MAX_TOKEN} is the most: serve another model"
        );
        Ok(tokens)
    }

    pub(super) fn environment(&self) -> &TokEnv {
        &self.environment
    }

    pub(super) fn trie(&self) -> &TokTrie {
        self.environment.tok_trie()
    }

    /// How many there are.
    pub(super) fn vocabulary(&self) -> u32 {
        u32::try_from(self.trie().vocab_size()).unwrap_or(u32::MAX)
    }

    /// Those that end an answer.
    pub(super) fn ends(&self) -> &[u32] {
        &self.ends
    }

    /// What a token writes; with `special`, also one that is a mark and no text.
    pub(super) fn bytes(&self, token: u32, special: bool) -> Vec<u8> {
        self.trie().decode_ext(&[token], special)
    }
}

/// Lets `chooser` choose each token and tells it through `choices`. The library is left with logits of
/// which one alone is possible. Where the chooser gives up, that is told once and `end` ends this
/// answer: an error here would end every answer that runs beside it.
pub(super) fn processor(
    chooser: Chooser,
    choices: mpsc::UnboundedSender<Chosen>,
    end: Option<u32>,
) -> Arc<dyn CustomLogitsProcessor> {
    let chooser = Mutex::new(chooser);
    Arc::new(move |logits: &Tensor, context: &[u32]| {
        #[cfg(not(feature = "cuda"))]
        threads::join();
        let mut values = zeroize::Zeroizing::new(logits.to_vec1::<f32>()?);
        let mut chooser = chooser.lock().unwrap_or_else(PoisonError::into_inner);
        let choice = chooser.choose(&mut values, context);
        let token = choice.as_ref().ok().map(|choice| choice.token).or(end);
        // Nobody listens any more where the client has gone: the library notices by itself.
        let _ = choices.send(choice);
        let mut forced = vec![f32::NEG_INFINITY; values.len()];
        let token = token.and_then(|token| usize::try_from(token).ok());
        if let Some(only) = forced.get_mut(token.unwrap_or(0)) {
            *only = 0.0;
        }
        Tensor::from_vec(forced, logits.dims(), logits.device())
    })
}
