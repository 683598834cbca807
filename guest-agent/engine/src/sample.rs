//! Sampling with a separate random generator for each request.
//!
//! mistral.rs 0.8.1 draws the tokens of all requests from one generator that is seeded with zero. Answers would be
//! predictable, and users would influence one another. Here each request has a ChaCha20 generator with one stream per position
//! of the text. The token is the arg max of the logits plus Gumbel noise, which is exactly a draw from the softmax (the
//! Gumbel-max trick). The library is left with a greedy choice and never uses its generator.

use cocoon_protocol::engine::{Sampling, Seed};
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore as _, SeedableRng as _};
use zeroize::Zeroize as _;

/// Lower temperatures are greedy, like zero, because dividing logits by them would overflow.
const LEAST_TEMPERATURE: f32 = 1e-6;

/// Rewrites `logits` so that their arg max is a draw from the softmax of the tokens that `sampling` keeps. At a temperature of
/// zero or close to it the logits stay as they are, and their arg max is the choice.
///
/// `position` is the number of tokens before this one. The same seed, position and logits give the same draw, whatever other
/// requests run.
pub fn perturb(sampling: &Sampling, logits: &mut [f32], position: u64) {
    if sampling.temperature < LEAST_TEMPERATURE {
        return;
    }
    for logit in logits.iter_mut() {
        *logit /= sampling.temperature;
    }
    if sampling.top_p < 1.0 || sampling.top_k > 0 || sampling.min_p > 0.0 {
        keep_likely(sampling, logits);
    }
    let mut generator = match &sampling.seed {
        Seed::Given(number) => ChaCha20Rng::seed_from_u64(*number),
        Seed::Drawn(key) => ChaCha20Rng::from_seed(key.0),
    };
    generator.set_stream(position);
    for logit in logits.iter_mut() {
        // Drawn for impossible tokens too, so that masking a token does not change the draws of others.
        let bits = generator.next_u32();
        if logit.is_finite() {
            *logit += gumbel(bits);
        }
    }
}

/// Applies penalties and biases to the logits. All three penalties count tokens of the answer; the repetition penalty also
/// counts those of the prompt.
pub fn penalize(sampling: &Sampling, logits: &mut [f32], context: &[u32], prompt_tokens: usize) {
    let (prompt, answer) = context.split_at(prompt_tokens.min(context.len()));
    if sampling.repetition_penalty != 1.0 {
        let mut seen = vec![false; logits.len()];
        for token in prompt.iter().chain(answer) {
            if let Some(seen) = seen.get_mut(*token as usize) {
                *seen = true;
            }
        }
        for (logit, _) in logits.iter_mut().zip(&seen).filter(|(_, seen)| **seen) {
            *logit = match *logit > 0.0 {
                true => *logit / sampling.repetition_penalty,
                false => *logit * sampling.repetition_penalty,
            };
        }
        seen.zeroize();
    }
    if sampling.frequency_penalty != 0.0 || sampling.presence_penalty != 0.0 {
        let mut counts = vec![0_u16; logits.len()];
        for token in answer {
            let Some(count) = counts.get_mut(*token as usize) else {
                continue;
            };
            if *count == 0 {
                logits[*token as usize] -= sampling.presence_penalty;
            }
            *count = count.saturating_add(1);
            logits[*token as usize] -= sampling.frequency_penalty;
        }
        counts.zeroize();
    }
    for (token, bias) in &sampling.bias {
        if let Some(logit) = logits.get_mut(*token as usize) {
            *logit += bias;
        }
    }
}

/// Returns a standard Gumbel variate made of 32 uniform bits. It is never infinite.
fn gumbel(bits: u32) -> f32 {
    let uniform = (f64::from(bits) + 0.5) / 4_294_967_296.0;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a logit is an f32; the value lies in -4..23"
    )]
    let noise = -(-uniform.ln()).ln() as f32;
    noise
}

/// Sets the logits of unlikely tokens to minus infinity. Keeps the `top_k` likeliest tokens, of these the smallest set whose
/// probabilities sum to at least `top_p`, and of these the tokens that are at least `min_p` times as likely as the likeliest.
/// The likeliest token is always kept.
fn keep_likely(sampling: &Sampling, logits: &mut [f32]) {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut weights: Vec<(f32, usize)> = logits
        .iter()
        .enumerate()
        .map(|(i, logit)| ((logit - max).exp(), i))
        .collect();
    weights.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let mut keep = match usize::try_from(sampling.top_k) {
        Ok(k @ 1..) => k.min(weights.len()),
        _ => weights.len(),
    };
    let total: f32 = weights[..keep].iter().map(|w| w.0).sum();
    let mut sum = 0.0;
    for (rank, (weight, _)) in weights[..keep].iter().enumerate() {
        // Weights are relative to the likeliest token, whose weight is one.
        if rank > 0 && *weight < sampling.min_p {
            keep = rank;
            break;
        }
        sum += weight / total;
        if sampling.top_p < 1.0 && sum >= sampling.top_p {
            keep = rank + 1;
            break;
        }
    }
    for (_, index) in &weights[keep..] {
        logits[*index] = f32::NEG_INFINITY;
    }
    // Wiped, because probabilities of the next token reveal much about the text.
    weights.zeroize();
}

#[cfg(test)]
mod tests {
    use super::*;
    use cocoon_protocol::engine::Key;

    fn draw(sampling: &Sampling, logits: &[f32], position: u64) -> usize {
        let mut logits = logits.to_vec();
        perturb(sampling, &mut logits, position);
        (0..logits.len())
            .max_by(|a, b| logits[*a].total_cmp(&logits[*b]))
            .unwrap()
    }

    /// Logits for the probabilities 0.1, 0.2 and 0.7.
    fn logits() -> [f32; 3] {
        [0.1f32.ln(), 0.2f32.ln(), 0.7f32.ln()]
    }

    fn sampling(change: impl FnOnce(&mut Sampling)) -> Sampling {
        let mut sampling = Sampling::default();
        sampling.seed = Seed::Given(1);
        change(&mut sampling);
        sampling
    }

    /// Returns the tokens that occur in 2000 draws.
    fn drawn(sampling: &Sampling) -> Vec<usize> {
        let mut tokens: Vec<usize> = (0..2_000)
            .map(|position| draw(sampling, &logits(), position))
            .collect();
        tokens.sort_unstable();
        tokens.dedup();
        tokens
    }

    #[test]
    fn a_seed_repeats_and_another_differs() {
        let logits = vec![0.0; 64];
        let run = |seed: Seed| -> Vec<usize> {
            let sampling = sampling(|sampling| sampling.seed = seed.clone());
            (0..32).map(|p| draw(&sampling, &logits, p)).collect()
        };
        assert_eq!(run(Seed::Given(7)), run(Seed::Given(7)));
        assert_ne!(run(Seed::Given(7)), run(Seed::Given(8)));
        // Every byte of a drawn key matters.
        let key = |byte| {
            let mut key = [7; 32];
            key[31] = byte;
            Seed::Drawn(Key(key))
        };
        assert_eq!(run(key(1)), run(key(1)));
        assert_ne!(run(key(1)), run(key(2)));
    }

    #[test]
    fn temperatures_next_to_zero_are_greedy() {
        for temperature in [f32::MIN_POSITIVE, 1e-39, 1e-7] {
            let mut logits = [-30.0, 40.0, 39.9];
            let sampling = sampling(|sampling| sampling.temperature = temperature);
            perturb(&sampling, &mut logits, 0);
            assert_eq!(logits, [-30.0, 40.0, 39.9], "{temperature}");
        }
        let mut logits = [-30.0, 40.0, 39.9];
        let sampling = sampling(|sampling| sampling.temperature = LEAST_TEMPERATURE);
        perturb(&sampling, &mut logits, 0);
        assert!(logits.iter().all(|logit| logit.is_finite()), "{logits:?}");
    }

    #[test]
    fn draws_follow_the_softmax() {
        // With 20 000 draws, frequencies are within 0.02 of the probabilities by an overwhelming margin.
        let sampling = sampling(|_| ());
        let mut counts = [0u32; 3];
        for position in 0..20_000 {
            counts[draw(&sampling, &logits(), position)] += 1;
        }
        for (count, expected) in counts.iter().zip([0.1, 0.2, 0.7]) {
            assert!(
                (f64::from(*count) / 20_000.0 - expected).abs() < 0.02,
                "{counts:?}"
            );
        }
    }

    #[test]
    fn what_is_masked_never_comes_and_the_rest_follows_its_softmax() {
        let sampling = sampling(|_| ());
        let masked = [logits()[0], logits()[1], f32::NEG_INFINITY];
        let draws = (0..20_000).map(|position| draw(&sampling, &masked, position));
        let mut counts = [0u32; 3];
        draws.for_each(|token| counts[token] += 1);
        assert_eq!(counts[2], 0);
        assert!((f64::from(counts[0]) / 20_000.0 - 1.0 / 3.0).abs() < 0.02);
    }

    #[test]
    fn the_tail_is_excluded() {
        assert_eq!(drawn(&sampling(|_| ())), [0, 1, 2]);
        assert_eq!(drawn(&sampling(|sampling| sampling.top_p = 0.8)), [1, 2]);
        assert_eq!(drawn(&sampling(|sampling| sampling.top_p = 1e-6)), [2]);
        assert_eq!(drawn(&sampling(|sampling| sampling.top_k = 2)), [1, 2]);
        assert_eq!(drawn(&sampling(|sampling| sampling.min_p = 0.2)), [1, 2]);
        assert_eq!(drawn(&sampling(|sampling| sampling.min_p = 1.0)), [2]);
        assert_eq!(drawn(&sampling(|sampling| sampling.temperature = 0.0)), [2]);
    }

    #[test]
    fn penalties_count_what_they_are_named_for() {
        let penalized = |sampling: Sampling| {
            let mut logits = [1.0, -1.0, 1.0, 1.0];
            // Two tokens of prompt, then token 2 twice in the answer.
            penalize(&sampling, &mut logits, &[0, 1, 2, 2], 2);
            logits
        };
        assert_eq!(
            penalized(sampling(|sampling| sampling.frequency_penalty = 0.5)),
            [1.0, -1.0, 0.0, 1.0]
        );
        assert_eq!(
            penalized(sampling(|sampling| sampling.presence_penalty = 0.5)),
            [1.0, -1.0, 0.5, 1.0]
        );
        assert_eq!(
            penalized(sampling(|sampling| sampling.repetition_penalty = 2.0)),
            [0.5, -2.0, 0.5, 1.0]
        );
        assert_eq!(
            penalized(sampling(
                |sampling| sampling.bias = vec![(3, -100.0), (9, 1.0)]
            )),
            [1.0, -1.0, 1.0, -99.0]
        );
    }
}
