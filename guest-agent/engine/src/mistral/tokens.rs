//! The model's tokens, and the library's logits processor with which this crate chooses among them.

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

/// Result of choosing one token.
pub(super) type Chosen = Result<Choice, NoChoice>;

/// Vocabulary and end tokens of a model.
#[derive(Clone)]
pub(super) struct Tokens {
    environment: TokEnv,
    ends: Arc<[u32]>,
}

impl Tokens {
    /// Wraps the tokens of a loaded model. Fails if one is longer than the agent accepts.
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

    /// Returns the size of the vocabulary.
    pub(super) fn vocabulary(&self) -> u32 {
        u32::try_from(self.trie().vocab_size()).unwrap_or(u32::MAX)
    }

    /// Returns the tokens that end an answer.
    pub(super) fn ends(&self) -> &[u32] {
        &self.ends
    }

    /// Returns the bytes of a token. Those of a special token are included only if `special` is set.
    pub(super) fn bytes(&self, token: u32, special: bool) -> Vec<u8> {
        self.trie().decode_ext(&[token], special)
    }
}

/// Returns a processor with which `chooser` chooses each token and sends it to `choices`. The library gets logits that allow
/// only the chosen token. If the chooser fails, the failure is sent once and `end` ends this answer. An error instead would
/// end all running answers.
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
        // Fails if the client has gone. The library notices that by itself.
        let _ = choices.send(choice);
        let mut forced = vec![f32::NEG_INFINITY; values.len()];
        let token = token.and_then(|token| usize::try_from(token).ok());
        if let Some(only) = forced.get_mut(token.unwrap_or(0)) {
            *only = 0.0;
        }
        Tensor::from_vec(forced, logits.dims(), logits.device())
    })
}
