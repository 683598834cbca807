//! Checks one generation of an engine: how much it may still send, and the tokens that it has counted.

use std::sync::Arc;

use cocoon_protocol::engine::{
    Costs, EngineFailure, Generation, MAX_TOKEN, Padding, Text, TokenLogprob,
};
use tokio::sync::mpsc;

use super::demand::{kept, most_tokens};
use super::link::{LinkError, MAX_CONTEXT};
use super::{Failure, Piece, Slot};
use crate::metering::Tally;

/// Frames beyond what the tokens explain, for the end of a text.
const SLACK_PIECES: usize = 16;
/// Bytes beyond what the tokens explain, for the end of a text.
const SLACK_BYTES: usize = 64 * 1024;
/// Longest name of a tool, in bytes.
pub(crate) const MAX_NAME: usize = 64;

const MORE_TOKENS: &str = "it counts more tokens than there can be";

/// A generation that the engine works on, and what its frames may still contain.
pub(super) struct Running {
    pieces: mpsc::Sender<Piece>,
    tally: Arc<Tally>,
    prompt_tokens: Option<u32>,
    /// Most tokens of its prompt.
    prompt_limit: u32,
    tokens: u32,
    /// Number of tokens whose log probabilities were reported.
    likely: u32,
    max_tokens: u32,
    room: u32,
    top_logprobs: Option<u8>,
    tools: bool,
    calls: u32,
    pieces_left: usize,
    bytes_left: usize,
    slot: Slot,
}

impl Running {
    pub fn new(
        generation: &Generation,
        pieces: mpsc::Sender<Piece>,
        tally: Arc<Tally>,
        slot: Slot,
    ) -> Self {
        Self {
            pieces,
            tally,
            prompt_tokens: None,
            prompt_limit: most_tokens(generation).min(generation.room),
            tokens: 0,
            likely: 0,
            max_tokens: generation.max_tokens,
            room: generation.room,
            top_logprobs: generation.top_logprobs,
            tools: !generation.tools.is_empty(),
            calls: 0,
            pieces_left: piece_limit(generation) - 1,
            bytes_left: byte_limit(generation),
            slot,
        }
    }

    /// Records that the prompt was read. It is read once, and must not be longer than the room for it.
    pub fn start(&mut self, prompt_tokens: u32, costs: &Costs) -> Result<(), LinkError> {
        if self.prompt_tokens.is_some() {
            return Err(LinkError::Lie("it reads a prompt twice"));
        }
        if prompt_tokens > self.room {
            return Err(LinkError::Lie(MORE_TOKENS));
        }
        self.prompt_tokens = Some(prompt_tokens);
        // Frees the memory for reading the prompt, and the memory kept for tokens that it does not have.
        let tokens = prompt_tokens.saturating_add(self.max_tokens);
        self.slot.keep(kept(costs, tokens.min(self.room)));
        self.tally.prompt(prompt_tokens);
        Ok(())
    }

    /// Most tokens of its prompt that are still to be read.
    pub fn unread(&self) -> u32 {
        match self.prompt_tokens {
            None => self.prompt_limit,
            Some(_) => 0,
        }
    }

    /// Counts further tokens. They count when they come, because the client may leave before the end.
    pub fn count(&mut self, tokens: u32) -> Result<(), LinkError> {
        let sum = self.tokens.checked_add(tokens);
        let Some(sum) = sum.filter(|sum| *sum <= self.max_tokens) else {
            return Err(LinkError::Lie(MORE_TOKENS));
        };
        self.tokens = sum;
        self.tally.completion(tokens);
        Ok(())
    }

    /// Checks that the counts reported at the end are those reported before.
    pub fn check_end(&self, prompt_tokens: u32, tokens: u32) -> Result<(), LinkError> {
        if self.prompt_tokens != Some(prompt_tokens) || self.tokens != tokens {
            return Err(LinkError::Lie("its last count is not what it counted"));
        }
        Ok(())
    }

    /// Passes on a piece of `length` bytes, if the request allows one more.
    pub fn tell(&mut self, length: usize, piece: Piece) -> Result<(), LinkError> {
        if self.prompt_tokens.is_none() {
            return Err(LinkError::Lie("it answers before it has read the prompt"));
        }
        let pieces = self.pieces_left.checked_sub(1);
        let Some((pieces_left, bytes_left)) = pieces.zip(self.bytes_left.checked_sub(length))
        else {
            return Err(LinkError::Lie(
                "an answer is longer than its request allows",
            ));
        };
        (self.pieces_left, self.bytes_left) = (pieces_left, bytes_left);
        // Never full: the buffer has room for every piece that the counts above allow.
        // If it is closed, the client is gone and its cancellation is on the way.
        let _ = self.pieces.try_send(piece);
        Ok(())
    }

    /// Checks log probabilities against the request, and returns their bytes. There is at most one for each counted
    /// token, because even an empty one takes memory.
    pub fn check_logprobs(&mut self, logprobs: &[TokenLogprob]) -> Result<usize, LinkError> {
        let sum = u32::try_from(logprobs.len()).ok();
        let sum = sum.and_then(|more| self.likely.checked_add(more));
        let Some(sum) = sum.filter(|sum| *sum <= self.tokens) else {
            return Err(LinkError::Lie("it tells more probabilities than tokens"));
        };
        self.likely = sum;
        let most = self.top_logprobs.map(usize::from);
        let mut length = 0;
        for logprob in logprobs {
            let few = most.is_some_and(|most| logprob.top.len() <= most);
            let mut all = std::iter::once(&logprob.chosen).chain(&logprob.top);
            if !few || all.any(|one| one.bytes.len() > MAX_TOKEN || one.logprob > 0.0) {
                return Err(LinkError::Lie(
                    "it tells probabilities that nobody asked for",
                ));
            }
            let tops = logprob.top.iter().map(|one| one.bytes.len()).sum::<usize>();
            length += logprob.chosen.bytes.len() + tops;
        }
        Ok(length)
    }

    /// Checks that a call is the next one or the current one. Returns the bytes of its name.
    pub fn check_call(&mut self, index: u32, name: Option<&Text>) -> Result<usize, LinkError> {
        let next = match name {
            Some(name) if name.0.len() <= MAX_NAME => index == self.calls,
            Some(_) => false,
            None => index.checked_add(1) == Some(self.calls),
        };
        if !self.tools || !next {
            return Err(LinkError::Lie("it calls what nobody offered"));
        }
        self.calls = index.saturating_add(1);
        Ok(name.map_or(0, |name| name.0.len()))
    }

    /// Converts a failure of the engine for the client.
    pub fn failure(&self, reason: EngineFailure) -> Failure {
        match reason {
            EngineFailure::ContextLength => Failure::TooLong { most: self.room },
            reason => Failure::Engine(reason),
        }
    }

    /// Gives up the generation, because its client is gone. The engine may still work on it, so its slot is returned.
    pub fn leave(self) -> Slot {
        self.slot
    }

    /// Sends the last piece.
    pub fn end(self, piece: Piece) {
        // The last place in the buffer is reserved for it. The client may be gone.
        let _ = self.pieces.try_send(piece);
    }
}

/// Most frames of the answer to `generation`: one for each token, and those that [`Padding`] allows. Text that was held
/// back comes in frames of its own.
pub(super) fn piece_limit(generation: &Generation) -> usize {
    let tokens = tokens(generation);
    // Each log probability may come in another frame than its token.
    let twice = 1 + usize::from(generation.top_logprobs.is_some());
    tokens * twice + Padding::of(generation).most_frames(tokens) + SLACK_PIECES
}

/// Most bytes of text and log probabilities of the answer to `generation`.
fn byte_limit(generation: &Generation) -> usize {
    // Bytes of a token, and of the tokens reported with its log probability.
    let told = generation
        .top_logprobs
        .map_or(1, |top| 2 + usize::from(top));
    tokens(generation) * MAX_TOKEN * told + SLACK_BYTES
}

fn tokens(generation: &Generation) -> usize {
    usize::try_from(generation.max_tokens.min(MAX_CONTEXT)).unwrap_or(0)
}
