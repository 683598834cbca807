//! What an answer takes of memory beside the model, the VM's or the GPU's: told by the engine, reckoned with by the agent
//! before the answer begins.

use serde::{Deserialize, Serialize};

/// Bytes, at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Costs {
    /// Of the KV cache for each token of prompt and answer.
    pub token: u32,
    /// Tokens by which a KV cache grows.
    pub step: u32,
    /// Of activations for each token of a prompt while it is read.
    pub prompt: u32,
    /// Of the mask of attention for each pair of a prompt's tokens while it is read.
    pub pair: u32,
    /// All that there are for answers, where they are not the VM's: of a GPU's pool of KV caches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<u64>,
}

impl Costs {
    /// Bytes of an answer that has room for `room` tokens, `prompt` of which may be its prompt's.
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
