//! Sampling with a generator of the request's own.
//!
//! mistral.rs 0.8.1 draws every request's tokens from one generator seeded with zero, so answers
//! are predictable and users influence one another. Here each request has a ChaCha20 stream of its
//! own, one per position of its text, and the token is the arg max of the logits after Gumbel noise
//! is added (Gumbel-max trick: exactly a draw from the softmax), so that the library is left with
//! a greedy choice and its generator is never used.

use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore as _, SeedableRng as _};
use zeroize::Zeroize as _;

/// How one request samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Over 0; at 0 the choice is greedy and this type is not used.
    pub temperature: f32,
    /// Nucleus: over 0 to 1.
    pub top_p: f32,
    /// Seed of the request.
    pub seed: u64,
}

impl Sampling {
    /// Rewrites `logits` so that their arg max is a draw from the nucleus of their softmax.
    ///
    /// `position` is the number of tokens before this one: the same seed, position and logits give
    /// the same draw, whatever other requests run.
    pub fn perturb(&self, logits: &mut [f32], position: u64) {
        for logit in logits.iter_mut() {
            *logit /= self.temperature;
        }
        if self.top_p < 1.0 {
            keep_nucleus(logits, self.top_p);
        }
        let mut generator = ChaCha20Rng::seed_from_u64(self.seed);
        generator.set_stream(position);
        for logit in logits.iter_mut().filter(|logit| logit.is_finite()) {
            *logit += gumbel(generator.next_u32());
        }
    }
}

/// A standard Gumbel variate from 32 uniform bits, never infinite.
fn gumbel(bits: u32) -> f32 {
    let uniform = (f64::from(bits) + 0.5) / 4_294_967_296.0;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a logit is an f32; the value lies in -4..23"
    )]
    let noise = -(-uniform.ln()).ln() as f32;
    noise
}

/// Sets to minus infinity whatever lies outside the smallest set of tokens whose probabilities sum
/// to at least `top_p`. The likeliest token always stays.
fn keep_nucleus(logits: &mut [f32], top_p: f32) {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut weights: Vec<(f32, usize)> = logits
        .iter()
        .enumerate()
        .map(|(i, logit)| ((logit - max).exp(), i))
        .collect();
    let total: f32 = weights.iter().map(|w| w.0).sum();
    weights.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let mut sum = 0.0;
    let mut keep = weights.len();
    for (rank, (weight, _)) in weights.iter().enumerate() {
        sum += weight / total;
        if sum >= top_p {
            keep = rank + 1;
            break;
        }
    }
    for (_, index) in &weights[keep..] {
        logits[*index] = f32::NEG_INFINITY;
    }
    // Probabilities of the next token say much about the text.
    for (weight, _) in &mut weights {
        weight.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(sampling: Sampling, logits: &[f32], position: u64) -> usize {
        let mut logits = logits.to_vec();
        sampling.perturb(&mut logits, position);
        (0..logits.len())
            .max_by(|a, b| logits[*a].total_cmp(&logits[*b]))
            .unwrap()
    }

    #[test]
    fn a_seed_repeats_and_another_differs() {
        let logits = vec![0.0; 64];
        let run = |seed| -> Vec<usize> {
            (0..32)
                .map(|p| {
                    draw(
                        Sampling {
                            temperature: 1.0,
                            top_p: 1.0,
                            seed,
                        },
                        &logits,
                        p,
                    )
                })
                .collect()
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
    }

    #[test]
    fn draws_follow_the_softmax() {
        // Probabilities 0.1, 0.2, 0.7; 20 000 draws put each within 0.02 with overwhelming margin.
        let logits = [0.1f32.ln(), 0.2f32.ln(), 0.7f32.ln()];
        let sampling = Sampling {
            temperature: 1.0,
            top_p: 1.0,
            seed: 1,
        };
        let mut counts = [0u32; 3];
        for position in 0..20_000 {
            counts[draw(sampling, &logits, position)] += 1;
        }
        for (count, expected) in counts.iter().zip([0.1, 0.2, 0.7]) {
            assert!(
                (f64::from(*count) / 20_000.0 - expected).abs() < 0.02,
                "{counts:?}"
            );
        }
    }

    #[test]
    fn the_nucleus_excludes_the_tail() {
        let logits = [0.1f32.ln(), 0.2f32.ln(), 0.7f32.ln()];
        let sampling = Sampling {
            temperature: 1.0,
            top_p: 0.8,
            seed: 1,
        };
        assert!((0..2_000).all(|position| draw(sampling, &logits, position) != 0));
        let only = Sampling {
            top_p: 1e-6,
            ..sampling
        };
        assert!((0..200).all(|position| draw(only, &logits, position) == 2));
    }
}
