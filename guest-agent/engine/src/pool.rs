//! A GPU's pool of KV caches as answers share it, so that the library never lacks a block: it would read prompts again and
//! again that it has read, and drop what waits for too long.
//!
//! Knows neither GPU nor library, so that it is tested where there is none.

use cocoon_protocol::engine::Costs;

/// KV caches of all layers, in blocks of tokens of which an answer has whole ones.
#[derive(Clone, Copy, Debug)]
pub struct Pool {
    /// All of them.
    pub bytes: u64,
    /// How many there are, the one among them that the library gives to nobody.
    pub blocks: usize,
    /// Tokens of a block.
    pub block: usize,
}

impl Pool {
    /// Tokens of the longest answer with its prompt, of a model that can have `context`, and what answers take. `None` where
    /// the pool holds none.
    pub fn room(&self, context: usize) -> Option<(u32, Costs)> {
        let step = u32::try_from(self.block).ok()?;
        let all = self.blocks.checked_mul(self.block)?;
        let token = self.bytes.checked_div(u64::try_from(all).ok()?)?;
        let usable = self.blocks.saturating_sub(1);
        // An answer that fills the context may get a block more: the library begins the next token before it hears that
        // nobody wants it.
        let longest = context.div_ceil(self.block).saturating_add(1);
        let shared = usable - usable.div_ceil(longest);
        let tokens = shared * self.block;
        let costs = Costs {
            token: u32::try_from(token).ok()?,
            step,
            // What reading a prompt takes is not the pool's.
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

    /// Bytes of a token in all layers of an 8B model.
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
        // One is the library's, and one that of the token behind the last.
        let (context, costs) = pool(12, 32).room(131_072).unwrap();
        assert_eq!(context, 320);
        assert_eq!(costs.pool, Some(320 * TOKEN));
        assert_eq!(costs.of(20, 33), 64 * TOKEN);
        assert_eq!(costs.of(320, 320), 320 * TOKEN);
        // The model's own, with a block to spare for each four that an answer of that length has.
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
                // Each of them may begin a token more.
                let taken = usize::try_from(most + 1).unwrap().div_ceil(16);
                assert!(
                    answers >= 1 && answers * taken < blocks,
                    "{blocks} {context}"
                );
            }
        }
    }
}
