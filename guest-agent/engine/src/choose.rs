//! Choice of one token: penalties, then the grammar, then sampling. With this order, tokens that the grammar forbids take no
//! probability from those that it allows. Tokens that it refuses only when they are chosen do, but these are rare.
//!
//! The library does none of this. With its own grammars every running request fails when the grammar of one becomes too
//! complex, and its log probabilities would include the noise of our sampling.

use cocoon_protocol::engine::{
    Alternative, LEAST_LOGPROB, MAX_TOKEN, MAX_TOP, Sampling, TokenLogprob,
};
use zeroize::{Zeroize as _, Zeroizing};

use crate::sample::{penalize, perturb};

/// A restriction of the tokens of an answer.
pub trait Grammar: Send {
    /// Sets the logits of tokens that are not allowed next to minus infinity.
    fn restrict(&mut self, logits: &mut [f32]) -> Result<(), TooComplex>;

    /// Advances by a chosen token. Returns false, and does not advance, if no allowed answer continues with it: a grammar may
    /// leave to this call what is expensive to find out for all tokens. Not called for tokens that end the answer.
    fn accept(&mut self, token: u32) -> Result<bool, TooComplex>;
}

/// Most tokens that are tried until the grammar accepts one. Other answers wait meanwhile, and a client's biases could make
/// thousands of tokens likely that are refused.
const MAX_TRIED: usize = 64;

/// The grammar exceeded its limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooComplex;

/// Reason why no token was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoChoice {
    /// The grammar exceeded its limits.
    TooComplex,
    /// No logit is usable, although no grammar restricts the answer.
    Nothing,
}

impl From<TooComplex> for NoChoice {
    fn from(TooComplex: TooComplex) -> Self {
        Self::TooComplex
    }
}

/// A chosen token.
pub struct Choice {
    /// Identifier of the token.
    pub token: u32,
    /// Number of tokens of prompt and answer before it.
    pub before: usize,
    /// Log probabilities, if the request asked for them.
    pub logprob: Option<TokenLogprob>,
}

impl Choice {
    /// Returns the log probabilities of a token that adds `bytes` to the answer. The bytes of all tokens together must be the
    /// text of the answer, so a token that is left out of the text, such as a special token, gets no bytes.
    pub fn told_as(self, bytes: &[u8]) -> Option<TokenLogprob> {
        let mut logprob = self.logprob?;
        if bytes.is_empty() {
            logprob.chosen.bytes.zeroize();
        }
        Some(logprob)
    }
}

/// Chooses the tokens of one answer.
pub struct Chooser {
    /// Sampling parameters.
    pub sampling: Sampling,
    /// If present, log probabilities are reported with this many alternatives.
    pub top: Option<u8>,
    /// Grammar of the answer.
    pub grammar: Option<Box<dyn Grammar>>,
    /// Tokens that end the answer.
    pub ends: Vec<u32>,
    /// Returns the bytes of a token.
    pub bytes: Box<dyn Fn(u32) -> Vec<u8> + Send>,
    /// Number of tokens of the prompt, known from the first choice on.
    pub prompt_tokens: Option<usize>,
}

impl Chooser {
    /// Chooses the token that follows `context`. Overwrites `logits`, which are the model's.
    pub fn choose(&mut self, logits: &mut [f32], context: &[u32]) -> Result<Choice, NoChoice> {
        let prompt_tokens = *self.prompt_tokens.get_or_insert(context.len());
        let before = context.len();
        // Log probabilities describe the model alone, without penalties, grammar and noise.
        let own = self.top.map(|_| Zeroizing::new(logits.to_vec()));
        penalize(&self.sampling, logits, context, prompt_tokens);
        let token = self.sample(logits, before as u64)?;
        let logprob = own
            .zip(self.top)
            .map(|(own, top)| self.logprob(&own, token, usize::from(top).min(MAX_TOP)));
        Ok(Choice {
            token,
            before,
            logprob,
        })
    }

    /// Samples a token that the grammar accepts.
    fn sample(&mut self, logits: &mut [f32], before: u64) -> Result<u32, NoChoice> {
        let Some(grammar) = &mut self.grammar else {
            perturb(&self.sampling, logits, before);
            return arg_max(logits).ok_or(NoChoice::Nothing);
        };
        grammar.restrict(logits)?;
        let mut allowed = Zeroizing::new(logits.to_vec());
        perturb(&self.sampling, logits, before);
        for _ in 0..MAX_TRIED {
            // Sampling excludes all but the likeliest tokens. If all that it left are refused, the next likeliest follows.
            let token = arg_max(logits).or_else(|| arg_max(&allowed));
            let token = token.ok_or(NoChoice::TooComplex)?;
            if self.ends.contains(&token) || grammar.accept(token)? {
                return Ok(token);
            }
            logits[token as usize] = f32::NEG_INFINITY;
            allowed[token as usize] = f32::NEG_INFINITY;
        }
        Err(NoChoice::TooComplex)
    }

    fn logprob(&self, logits: &[f32], token: u32, top: usize) -> TokenLogprob {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f32 = logits.iter().map(|logit| (logit - max).exp()).sum();
        let normal = max + sum.ln();
        let alternative = |token: u32| {
            let logit = logits.get(token as usize).copied();
            let logprob = logit.unwrap_or(f32::NEG_INFINITY) - normal;
            let mut bytes = (self.bytes)(token);
            bytes.truncate(MAX_TOKEN);
            // Not finite if the token has no probability or the model computes nonsense.
            let logprob = match logprob.is_finite() {
                true => logprob.clamp(LEAST_LOGPROB, 0.0),
                false => LEAST_LOGPROB,
            };
            Alternative { bytes, logprob }
        };
        let mut ranked: Vec<u32> = (0..).take(logits.len()).collect();
        let by_logit = |a: &u32, b: &u32| {
            let logit = |token: &u32| logits[*token as usize];
            logit(b).total_cmp(&logit(a)).then(a.cmp(b))
        };
        let top = top.min(ranked.len());
        if (1..ranked.len()).contains(&top) {
            ranked.select_nth_unstable_by(top - 1, by_logit);
        }
        ranked[..top].sort_unstable_by(by_logit);
        let likeliest = ranked[..top].iter().map(|token| alternative(*token));
        let logprob = TokenLogprob {
            chosen: alternative(token),
            top: likeliest.collect(),
        };
        ranked.zeroize();
        logprob
    }
}

/// Returns the first of the largest logits; `None` if no token is possible.
fn arg_max(logits: &[f32]) -> Option<u32> {
    let mut best: Option<(usize, f32)> = None;
    for (token, logit) in logits.iter().enumerate() {
        if *logit > best.map_or(f32::NEG_INFINITY, |(_, logit)| logit) {
            best = Some((token, *logit));
        }
    }
    best.and_then(|(token, _)| u32::try_from(token).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use cocoon_protocol::engine::Seed;

    /// Grammar that allows one sequence of tokens.
    struct Sequence(Vec<u32>);

    impl Grammar for Sequence {
        fn restrict(&mut self, logits: &mut [f32]) -> Result<(), TooComplex> {
            let next = *self.0.first().ok_or(TooComplex)? as usize;
            let others = logits.iter_mut().enumerate().filter(|(i, _)| *i != next);
            others.for_each(|(_, logit)| *logit = f32::NEG_INFINITY);
            Ok(())
        }

        fn accept(&mut self, token: u32) -> Result<bool, TooComplex> {
            assert_eq!(self.0.remove(0), token);
            Ok(true)
        }
    }

    /// Grammar that restricts no logits and takes only the named token.
    struct Picky(u32);

    impl Grammar for Picky {
        fn restrict(&mut self, _: &mut [f32]) -> Result<(), TooComplex> {
            Ok(())
        }

        fn accept(&mut self, token: u32) -> Result<bool, TooComplex> {
            Ok(token == self.0)
        }
    }

    fn chooser(grammar: Option<Vec<u32>>) -> Chooser {
        let mut sampling = Sampling::default();
        (sampling.seed, sampling.top_p) = (Seed::Given(3), 0.5);
        Chooser {
            sampling,
            top: Some(2),
            grammar: grammar.map(|tokens| Box::new(Sequence(tokens)) as Box<dyn Grammar>),
            ends: vec![0],
            bytes: Box::new(|token| vec![u8::try_from(token).unwrap(); 1]),
            prompt_tokens: None,
        }
    }

    fn model() -> [f32; 4] {
        [0.1f32.ln(), 0.2f32.ln(), 0.3f32.ln(), 0.4f32.ln()]
    }

    #[test]
    fn a_grammar_rules_over_the_nucleus() {
        // Token 0 is outside the nucleus, but the grammar finally allows no other token.
        let mut chooser = chooser(Some(vec![1, 3, 0]));
        let mut context = vec![9, 9];
        for expected in [1, 3, 0] {
            let choice = chooser.choose(&mut model(), &context).unwrap();
            assert_eq!(choice.token, expected);
            context.push(choice.token);
        }
        assert_eq!(chooser.prompt_tokens, Some(2));
        // The grammar is not advanced by the end token and therefore still expects it.
        assert!(chooser.choose(&mut model(), &context).is_ok());
    }

    #[test]
    fn a_token_that_is_not_accepted_gives_way_to_the_next() {
        let mut chooser = chooser(None);
        chooser.grammar = Some(Box::new(Picky(1)));
        assert_eq!(chooser.choose(&mut model(), &[7]).unwrap().token, 1);
        // Token 0 ends the answer.
        chooser.grammar = Some(Box::new(Picky(9)));
        assert_eq!(chooser.choose(&mut model(), &[7]).unwrap().token, 0);
        chooser.ends = vec![];
        let result = chooser.choose(&mut model(), &[7]);
        assert_eq!(result.err(), Some(NoChoice::TooComplex));
        let last = MAX_TRIED - 1;
        for (only, sampled) in [(last, true), (last + 1, false)] {
            chooser.grammar = Some(Box::new(Picky(u32::try_from(only).unwrap())));
            let result = chooser.choose(&mut vec![0.5; MAX_TRIED + 1], &[7]);
            assert_eq!(result.is_ok(), sampled);
        }
    }

    #[test]
    fn a_grammar_that_gives_up_is_told_from_a_model_that_does() {
        let result = chooser(Some(vec![])).choose(&mut model(), &[1]);
        assert_eq!(result.err(), Some(NoChoice::TooComplex));
        let nothing = [f32::NEG_INFINITY, f32::NAN];
        let result = chooser(Some(vec![1])).choose(&mut nothing.clone(), &[1]);
        assert_eq!(result.err(), Some(NoChoice::TooComplex));
        let result = chooser(None).choose(&mut nothing.clone(), &[1]);
        assert_eq!(result.err(), Some(NoChoice::Nothing));
    }

    #[test]
    fn log_probabilities_are_the_models_own() {
        let mut chooser = chooser(Some(vec![1]));
        chooser.sampling.bias = vec![(2, 50.0)];
        let choice = chooser.choose(&mut model(), &[7]).unwrap();
        let told = choice.logprob.as_ref().unwrap();
        let close = |alternative: &Alternative, byte: u8, probability: f32| {
            assert_eq!(alternative.bytes, [byte]);
            assert!((alternative.logprob - probability.ln()).abs() < 1e-5);
        };
        close(&told.chosen, 1, 0.2);
        assert_eq!(told.top.len(), 2);
        close(&told.top[0], 3, 0.4);
        close(&told.top[1], 2, 0.3);
    }

    /// With bytes for such a token, the offsets of all later tokens would be wrong.
    #[test]
    fn a_token_that_is_left_out_of_the_text_has_no_bytes() {
        for (bytes, expected) in [(&[3][..], &[3][..]), (&[], &[])] {
            let choice = chooser(Some(vec![3])).choose(&mut model(), &[7]).unwrap();
            let told = choice.told_as(bytes).unwrap();
            assert_eq!(told.chosen.bytes, expected);
            assert_eq!(told.top[0].bytes, [3], "what the model thought of");
        }
    }
}
