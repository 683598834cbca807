//! What answers ask of memory, the VM's or the GPU's, reckoned before they begin: nothing that has begun fills it.
//!
//! The agent knows no tokens, only bytes: a prompt has at most one for each, and what a template adds. The engine counts
//! them, and refuses a prompt that has more than its room.

use cocoon_protocol::engine::{Costs, Generation, ModelInfo, Prompt, Speaker, Tool, Turn};

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

/// What there is, and what answers take of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Demand {
    costs: Costs,
    context: u32,
    memory: u64,
    slots: u64,
}

impl Demand {
    /// Of a machine that has so many bytes of memory for what so many slots generate, unless that lies in a GPU's pool.
    pub fn new(model: &ModelInfo, memory: u64, slots: usize) -> Self {
        let costs = model.costs;
        let memory = costs.pool.unwrap_or(memory);
        let longest = costs.longest(memory, model.context_length);
        Self {
            costs,
            context: longest.max(LEAST_CONTEXT.min(model.context_length)),
            memory,
            slots: slots.max(1) as u64,
        }
    }

    /// Tokens that one answer and its prompt can have together, when nothing runs beside it.
    pub fn context(&self) -> u32 {
        self.context
    }

    /// Tokens of an answer whose client names no number: what its slot's share of memory leaves beside the prompt, so that
    /// as many answers run as there are slots.
    pub fn usual(&self, generation: &Generation) -> u32 {
        let prompt = self.prompt(generation);
        let share = self.memory / self.slots;
        let (mut fits, mut over) = (prompt, self.context.saturating_add(1));
        while over.saturating_sub(fits) > 1 {
            let middle = fits + (over - fits) / 2;
            match self.costs.of(prompt, middle) <= share {
                true => fits = middle,
                false => over = middle,
            }
        }
        let most = match fits >= self.context {
            // The engine ends an answer where the context is full.
            true if self.costs.of(prompt, fits) <= share => self.context,
            _ => fits - prompt,
        };
        most.max(LEAST_ANSWER).min(self.context)
    }

    /// Gives each generation its room; bytes that each of them takes. They are alike but for their draws. `None` where all
    /// together take more than there is.
    pub fn of(&self, generations: &mut [Generation]) -> Option<u64> {
        let mut most = 0;
        for generation in &mut *generations {
            let prompt = self.prompt(generation);
            generation.room = prompt
                .saturating_add(generation.max_tokens)
                .min(self.context);
            most = most.max(self.costs.of(prompt, generation.room));
        }
        // One alone always begins, if only when nothing else runs.
        if generations.len() <= 1 {
            return Some(most.min(self.memory));
        }
        let all = most.saturating_mul(generations.len() as u64);
        (all <= self.memory).then_some(most)
    }

    /// Most tokens of a prompt that is not refused.
    fn prompt(&self, generation: &Generation) -> u32 {
        let most = u32::try_from(most_tokens(generation)).unwrap_or(u32::MAX);
        most.min(self.context)
    }
}

/// Bytes that an answer keeps once its prompt is read, and its tokens known.
pub(super) fn kept(costs: &Costs, tokens: u32) -> u64 {
    costs.of(0, tokens)
}

/// Most tokens that a prompt can have.
fn most_tokens(generation: &Generation) -> usize {
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
    AROUND + said + tools
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
