//! Computes the memory that answers take, in the VM and in the GPU, before they begin, so that the running answers
//! cannot exhaust it.
//!
//! The agent counts bytes, not tokens: a prompt has at most one token for each of its bytes, plus what a template adds.
//! The engine counts the tokens, and refuses a prompt that has more than its room. The text of an answer stays in the
//! agent's memory until its client has received it, and takes twice as much while a whole answer is put together.

use cocoon_protocol::engine::{Costs, Generation, ModelInfo, Padding, Prompt, Speaker, Tool, Turn};

/// Most tokens that a template adds around a prompt.
const AROUND: usize = 64;
/// Most tokens that a template adds around a turn.
const AROUND_TURN: usize = 16;
/// Most tokens that a template adds around a call, the result of a call, or a tool, which it may write in words.
const AROUND_CALL: usize = 64;
/// Most tokens that a template adds to introduce the tools.
const TOOLS: usize = 512;
/// Least tokens of an answer, whatever its share of the memory: a shorter answer helps nobody.
const LEAST_ANSWER: u32 = 128;
/// Least context of any machine, in tokens: a machine without memory for it has none for the model.
const LEAST_CONTEXT: u32 = 512;

/// Bytes of a piece of an answer in the agent's memory, generously: its text, and the structure that holds it.
const PIECE: u64 = 128;
/// Bytes of a log probability, or of one of its alternatives, in the agent's memory.
const LOGPROB: u64 = 128;

/// How an answer is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Complete, once it has ended.
    Whole,
    /// As a stream of pieces, as they come.
    Stream,
}

/// Memory that an answer takes, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    /// Memory while the engine works on it: of a GPU's pool if there is one, otherwise of the VM.
    pub engine: u64,
    /// Memory of the VM until the client has received it.
    pub unread: u64,
}

/// The memory that there is, and what answers take of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Demand {
    costs: Costs,
    context: u32,
    memory: u64,
    slots: usize,
}

impl Demand {
    /// Describes a VM that has `memory` bytes for answers, and `slots` slots.
    pub fn new(model: &ModelInfo, memory: u64, slots: usize) -> Self {
        let mut demand = Self {
            costs: model.costs,
            context: 0,
            memory,
            slots: slots.max(1),
        };
        let plain = |tokens: u32| Taken {
            engine: demand.costs.of(tokens, tokens),
            unread: unread(tokens.into(), 0, Told::Whole),
        };
        let most = model.context_length;
        let longest = longest(0, most, |tokens| demand.has(plain(tokens), 1));
        demand.context = longest.max(LEAST_CONTEXT.min(most));
        demand
    }

    /// Most tokens of one answer and its prompt together, when nothing else runs.
    pub fn context(&self) -> u32 {
        self.context
    }

    /// Most tokens of an answer whose client sets no limit: what its slot's share of memory leaves beside the prompt,
    /// so that as many answers can run as there are slots.
    pub fn usual(&self, generation: &Generation, told: Told) -> u32 {
        let prompt = self.prompt(generation);
        let taken = self.taken(generation, prompt, self.context, told);
        let fits = |room| self.has(taken(room), self.slots);
        let longest = longest(prompt, self.context, fits);
        let most = match longest >= self.context {
            // The engine ends an answer when the context is full.
            true if fits(longest) => self.context,
            _ => longest - prompt,
        };
        most.max(LEAST_ANSWER).min(self.context)
    }

    /// Sets the room of each generation, and returns the memory that each of them takes. The generations differ only in
    /// their seeds. Returns `None` if they take more than there is together.
    pub fn of(&self, generations: &mut [Generation], told: Told) -> Option<Taken> {
        let count = generations.len();
        let mut most = Taken::default();
        for generation in generations {
            let prompt = self.prompt(generation);
            let asked = prompt.saturating_add(generation.max_tokens);
            let asked = asked.min(self.context);
            let taken = self.taken(generation, prompt, generation.max_tokens, told);
            generation.room = match count {
                // A single generation always begins, if need be only when nothing else runs.
                1 => {
                    longest(0, asked, |room| self.has(taken(room), 1)).max(LEAST_CONTEXT.min(asked))
                }
                _ => asked,
            };
            let one = taken(generation.room);
            most = Taken {
                engine: most.engine.max(one.engine),
                unread: most.unread.max(one.unread),
            };
        }
        match count {
            0 | 1 => Some(self.least(most)),
            _ => self.has(most, count).then_some(most),
        }
    }

    /// Returns whether there is memory for `count` answers that take as much as `taken`.
    fn has(&self, taken: Taken, count: usize) -> bool {
        let all = |bytes: u64| bytes.saturating_mul(count as u64);
        match self.costs.pool {
            Some(pool) => all(taken.engine) <= pool && all(taken.unread) <= self.memory,
            None => all(taken.engine.saturating_add(taken.unread)) <= self.memory,
        }
    }

    /// Reduces `taken` to the memory that there is.
    fn least(&self, taken: Taken) -> Taken {
        let engine = taken.engine.min(self.costs.pool.unwrap_or(self.memory));
        let rest = match self.costs.pool {
            Some(_) => self.memory,
            None => self.memory - engine,
        };
        let unread = taken.unread.min(rest);
        Taken { engine, unread }
    }

    /// Returns a function from the room of an answer of `tokens` tokens to the memory that it takes.
    fn taken(
        &self,
        generation: &Generation,
        prompt: u32,
        tokens: u32,
        told: Told,
    ) -> impl Fn(u32) -> Taken + use<> {
        let costs = self.costs;
        let padding = Padding::of(generation);
        let likely = generation.top_logprobs.map_or(0, |top| 1 + u64::from(top));
        move |room| {
            let tokens = usize::try_from(tokens.min(room)).unwrap_or(usize::MAX);
            let pieces = tokens.saturating_add(padding.frames(tokens)) as u64;
            Taken {
                engine: costs.of(prompt, room),
                unread: unread(pieces, likely.saturating_mul(tokens as u64), told),
            }
        }
    }

    /// Most tokens of a prompt that is not refused.
    fn prompt(&self, generation: &Generation) -> u32 {
        most_tokens(generation).min(self.context)
    }
}

/// Bytes of pieces and log probabilities in the agent's memory.
fn unread(pieces: u64, likely: u64, told: Told) -> u64 {
    let pieces = pieces.saturating_mul(PIECE);
    let bytes = pieces.saturating_add(likely.saturating_mul(LOGPROB));
    match told {
        Told::Whole => bytes.saturating_mul(2),
        Told::Stream => bytes,
    }
}

/// Returns the largest number from `least` to `most` that fits, given that smaller ones fit too; `least` if none does.
fn longest(least: u32, most: u32, fits: impl Fn(u32) -> bool) -> u32 {
    let (mut within, mut over) = (least, most.saturating_add(1));
    while over.saturating_sub(within) > 1 {
        let middle = within + (over - within) / 2;
        match fits(middle) {
            true => within = middle,
            false => over = middle,
        }
    }
    within
}

/// Bytes that an answer keeps once its prompt has been read and the number of its tokens is known.
pub(super) fn kept(costs: &Costs, tokens: u32) -> u64 {
    costs.of(0, tokens)
}

/// Most tokens that a prompt can have.
pub(super) fn most_tokens(generation: &Generation) -> u32 {
    let turn = |turn: &Turn| {
        let calls = turn.calls.iter();
        let calls = calls.map(|call| call.name.len() + call.arguments.len() + AROUND_CALL);
        let around = match turn.speaker {
            Speaker::Tool => AROUND_CALL,
            Speaker::System | Speaker::User | Speaker::Assistant => AROUND_TURN,
        };
        turn.content.len() + calls.sum::<usize>() + around
    };
    let said = match &generation.prompt {
        Prompt::Text(text) => text.len(),
        Prompt::Conversation(turns) => turns.iter().map(turn).sum(),
    };
    let tool = |tool: &Tool| {
        let description = tool.description.as_deref().map_or(0, json_length);
        let parameters = tool.parameters.len() + escaped(&tool.parameters, |_| false);
        tool.name.len() + description + parameters + AROUND_CALL
    };
    let tools = match generation.tools.is_empty() {
        true => 0,
        false => TOOLS + generation.tools.iter().map(tool).sum::<usize>(),
    };
    u32::try_from(AROUND + said + tools).unwrap_or(u32::MAX)
}

/// Most bytes of a text when a template writes it as JSON.
fn json_length(text: &str) -> usize {
    let json = |byte| matches!(byte, 0..=31 | b'"' | b'\\');
    text.len() + escaped(text, json)
}

/// Bytes that a template adds to a text when it writes it as JSON. Each byte that `json` selects, or that the
/// template's filter `tojson` escapes, becomes six.
fn escaped(text: &str, json: impl Fn(u8) -> bool) -> usize {
    let html = |byte| matches!(byte, b'<' | b'>' | b'&' | b'\'');
    5 * text
        .bytes()
        .filter(|byte| html(*byte) || json(*byte))
        .count()
}

#[cfg(test)]
mod tests;
