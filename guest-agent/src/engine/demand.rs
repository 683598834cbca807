//! What answers ask of memory, the VM's and the GPU's, reckoned before they begin: nothing that has begun fills it.
//!
//! The agent knows no tokens, only bytes: a prompt has at most one for each, and what a template adds. The engine counts
//! them, and refuses a prompt that has more than its room. What an answer says lies in the agent's memory until its client
//! has it, and twice while a whole one is put together.

use cocoon_protocol::engine::{Costs, Generation, ModelInfo, Padding, Prompt, Speaker, Tool, Turn};

/// Tokens that a template adds around a prompt, around each turn, around each call, its answer or a tool, where it may be in
/// words, and for being told of tools.
const AROUND: usize = 64;
const AROUND_TURN: usize = 16;
const AROUND_CALL: usize = 64;
const TOOLS: usize = 512;
/// What an answer gets, at least, whatever its share of memory is: nobody is served by a sentence.
const LEAST_ANSWER: u32 = 128;
/// Room that there is on any machine: one that has no memory for it has none for the model.
const LEAST_CONTEXT: u32 = 512;

/// Bytes of a piece of an answer in the agent's memory, amply: its text, and what holds it.
const PIECE: u64 = 128;
/// The same of a log probability, or of one of its alternatives.
const LOGPROB: u64 = 128;

/// How an answer is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// When it is whole.
    Whole,
    /// As it comes.
    Stream,
}

/// Bytes that an answer takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    /// While the engine is at it: of a GPU's pool, where it has one, or of the VM's memory.
    pub engine: u64,
    /// Until its client has it, of the VM's memory.
    pub unread: u64,
}

/// What there is, and what answers take of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Demand {
    costs: Costs,
    context: u32,
    memory: u64,
    slots: usize,
}

impl Demand {
    /// Of a VM that has so many bytes of memory for answers, and so many slots.
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

    /// Tokens that one answer and its prompt can have together, when nothing runs beside it.
    pub fn context(&self) -> u32 {
        self.context
    }

    /// Tokens of an answer whose client names no number: what its slot's share of memory leaves beside the prompt, so that
    /// as many answers run as there are slots.
    pub fn usual(&self, generation: &Generation, told: Told) -> u32 {
        let prompt = self.prompt(generation);
        let taken = self.taken(generation, prompt, self.context, told);
        let fits = |room| self.has(taken(room), self.slots);
        let longest = longest(prompt, self.context, fits);
        let most = match longest >= self.context {
            // The engine ends an answer where the context is full.
            true if fits(longest) => self.context,
            _ => longest - prompt,
        };
        most.max(LEAST_ANSWER).min(self.context)
    }

    /// Gives each generation its room; what each of them takes. They are alike but for their draws. `None` where all
    /// together take more than there is.
    pub fn of(&self, generations: &mut [Generation], told: Told) -> Option<Taken> {
        let count = generations.len();
        let mut most = Taken::default();
        for generation in generations {
            let prompt = self.prompt(generation);
            let asked = prompt.saturating_add(generation.max_tokens);
            let asked = asked.min(self.context);
            let taken = self.taken(generation, prompt, generation.max_tokens, told);
            generation.room = match count {
                // One alone always begins, if only when nothing else runs.
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

    /// Whether there is room for so many that take as much.
    fn has(&self, taken: Taken, count: usize) -> bool {
        let all = |bytes: u64| bytes.saturating_mul(count as u64);
        match self.costs.pool {
            Some(pool) => all(taken.engine) <= pool && all(taken.unread) <= self.memory,
            None => all(taken.engine.saturating_add(taken.unread)) <= self.memory,
        }
    }

    /// No more of it than there is.
    fn least(&self, taken: Taken) -> Taken {
        let engine = taken.engine.min(self.costs.pool.unwrap_or(self.memory));
        let rest = match self.costs.pool {
            Some(_) => self.memory,
            None => self.memory - engine,
        };
        let unread = taken.unread.min(rest);
        Taken { engine, unread }
    }

    /// What an answer of so many tokens takes, by its room.
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

/// Bytes of so many pieces and log probabilities in the agent's memory.
fn unread(pieces: u64, likely: u64, told: Told) -> u64 {
    let pieces = pieces.saturating_mul(PIECE);
    let bytes = pieces.saturating_add(likely.saturating_mul(LOGPROB));
    match told {
        Told::Whole => bytes.saturating_mul(2),
        Told::Stream => bytes,
    }
}

/// The largest number, of `least` to `most`, that fits, where smaller ones do too; `least` where none does.
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

/// Bytes that an answer keeps once its prompt is read, and its tokens known.
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

/// Bytes of a text as JSON in a template, at most.
fn json_length(text: &str) -> usize {
    let json = |byte| matches!(byte, 0..=31 | b'"' | b'\\');
    text.len() + escaped(text, json)
}

/// Bytes that a template adds to a text that it writes as JSON: six for one of those that `json` escapes, and of those that
/// its filter `tojson` does.
fn escaped(text: &str, json: impl Fn(u8) -> bool) -> usize {
    let html = |byte| matches!(byte, b'<' | b'>' | b'&' | b'\'');
    5 * text
        .bytes()
        .filter(|byte| html(*byte) || json(*byte))
        .count()
}

#[cfg(test)]
mod tests;
