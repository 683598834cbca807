//! A GPU's pool of KV caches, and how much of it answers may take. The library must never run out of blocks: it would read
//! prompts again and again, and drop those that wait too long.
//!
//! Depends on neither a GPU nor the library, so it can be tested without them.

use cocoon_protocol::engine::Costs;

/// KV caches of all layers, divided into blocks. An answer takes whole blocks.
#[derive(Clone, Copy, Debug)]
pub struct Pool {
    /// Size of the pool, in bytes.
    pub bytes: u64,
    /// Number of blocks, including the one that the library never hands out.
    pub blocks: usize,
    /// Tokens per block.
    pub block: usize,
}

impl Pool {
    /// Returns the most tokens of prompt and answer together for a model with this context length, and the memory costs of an
    /// answer. Returns `None` if the pool has no room for an answer.
    pub fn room(&self, context: usize) -> Option<(u32, Costs)> {
        let step = u32::try_from(self.block).ok()?;
        let all = self.blocks.checked_mul(self.block)?;
        let token = self.bytes.checked_div(u64::try_from(all).ok()?)?;
        let usable = self.blocks.saturating_sub(1);
        // An answer that fills the context may take one block more, because the library begins the next token before it
        // notices that nobody wants it.
        let longest = context.div_ceil(self.block).saturating_add(1);
        let shared = usable - usable.div_ceil(longest);
        let tokens = shared * self.block;
        let costs = Costs {
            token: u32::try_from(token).ok()?,
            step,
            // Reading a prompt takes no memory of the pool.
            prompt: 0,
            pair: 0,
            pool: Some(token.checked_mul(u64::try_from(tokens).ok()?)?),
        };
        let room = context.min(tokens);
        (room > 0).then(|| (u32::try_from(room).unwrap_or(u32::MAX), costs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes per token over all layers of an 8B model.
    const TOKEN: u64 = 128 << 10;

    fn pool(blocks: usize, block: usize) -> Pool {
        let tokens = u64::try_from(blocks * block).expect("a small number");
        Pool {
            bytes: tokens * TOKEN,
            blocks,
            block,
        }
    }

    #[test]
    fn an_answer_takes_whole_blocks_and_never_more_than_there_are() {
        // Of the 12 blocks one is the library's, and one is for the token after the last.
        let (context, costs) = pool(12, 32).room(131_072).unwrap();
        assert_eq!(context, 320);
        assert_eq!(costs.pool, Some(320 * TOKEN));
        assert_eq!(costs.of(20, 33), 64 * TOKEN);
        assert_eq!(costs.of(320, 320), 320 * TOKEN);
        // The model's own context, with a spare block for each answer of four blocks.
        let (context, costs) = pool(101, 32).room(128).unwrap();
        assert_eq!(context, 128);
        assert_eq!(costs.pool, Some(80 * 32 * TOKEN));
    }

    #[test]
    fn what_is_no_pool_has_no_room() {
        for (blocks, block) in [(0, 32), (1, 32), (2, 32), (9, 0)] {
            assert_eq!(pool(blocks, block).room(8192), None, "{blocks} of {block}");
        }
        assert_eq!(pool(9, 32).room(0), None);
        let strange = Pool {
            bytes: u64::MAX,
            ..pool(1, 1)
        };
        assert_eq!(strange.room(8192), None);
    }

    #[test]
    fn whatever_begins_finds_its_blocks() {
        for blocks in 3..200 {
            for context in 1..200 {
                let pool = pool(blocks, 16);
                let (most, costs) = pool.room(context).unwrap();
                let memory = costs.pool.unwrap();
                let each = costs.of(0, most);
                let answers = usize::try_from(memory / each).unwrap();
                // Each answer may begin one more token.
                let taken = usize::try_from(most + 1).unwrap().div_ceil(16);
                assert!(
                    answers >= 1 && answers * taken < blocks,
                    "{blocks} {context}"
                );
            }
        }
    }
}
