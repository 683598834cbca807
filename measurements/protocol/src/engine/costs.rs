//! Memory that an answer takes beside the model, in the VM or on the GPU. The engine states it, and the agent accounts for it
//! before an answer begins.

use serde::{Deserialize, Serialize};

/// Upper limits of the memory of an answer, in bytes unless stated otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Costs {
    /// Bytes of KV cache for each token of prompt and answer.
    pub token: u32,
    /// Number of tokens by which a KV cache grows.
    pub step: u32,
    /// Bytes of activations for each token of a prompt while it is read.
    pub prompt: u32,
    /// Bytes of the attention mask for each pair of a prompt's tokens while it is read.
    pub pair: u32,
    /// Bytes available to all answers together, if they are not taken from the VM's memory: the GPU's pool of KV caches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<u64>,
}

impl Costs {
    /// Returns the bytes of an answer with room for `room` tokens, of which up to `prompt` belong to the prompt.
    pub fn of(&self, prompt: u32, room: u32) -> u64 {
        let (prompt, room) = (u64::from(prompt.min(room)), u64::from(room));
        let grown = room.next_multiple_of(u64::from(self.step.max(1)));
        let reading = u64::from(self.prompt) + prompt.saturating_mul(self.pair.into());
        let cache = grown.saturating_mul(self.token.into());
        cache.saturating_add(prompt.saturating_mul(reading))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_grows_in_steps_and_a_prompt_costs_while_it_is_read() {
        let costs = Costs {
            token: 100,
            step: 512,
            prompt: 10,
            pair: 2,
            pool: None,
        };
        assert_eq!(costs.of(0, 1), 51_200);
        assert_eq!(costs.of(0, 512), 51_200);
        assert_eq!(costs.of(30, 513), 102_400 + 300 + 1800);
        assert_eq!(costs.of(900, 30), costs.of(30, 30));
        assert_eq!(Costs::default().of(u32::MAX, u32::MAX), 0);
    }
}
