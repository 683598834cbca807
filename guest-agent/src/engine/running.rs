//! One generation as the link sees it: how much the engine may still say of it, and what it has counted.

use std::sync::Arc;

use cocoon_protocol::engine::{
    Costs, EngineFailure, Generation, MAX_TOKEN, Padding, Text, TokenLogprob,
};
use tokio::sync::mpsc;

use super::demand::{kept, most_tokens};
use super::link::{LinkError, MAX_CONTEXT};
use super::{Failure, Piece, Slot};
use crate::metering::Tally;

/// Frames and bytes beyond what the tokens explain: the end of a text.
const SLACK_PIECES: usize = 16;
const SLACK_BYTES: usize = 64 * 1024;
/// Longest name of a tool.
pub(crate) const MAX_NAME: usize = 64;

const MORE_TOKENS: &str = "it counts more tokens than there can be";

/// A generation that the engine works on, and what its frames may still say.
pub(super) struct Running {
    pieces: mpsc::Sender<Piece>,
    tally: Arc<Tally>,
    prompt_tokens: Option<u32>,
    /// Most tokens of its prompt.
    prompt_limit: u32,
    tokens: u32,
    /// Of so many of them the log probabilities were told.
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

    /// The prompt was read, for the first and only time, and is no longer than there is room for.
    pub fn start(&mut self, prompt_tokens: u32, costs: &Costs) -> Result<(), LinkError> {
        if self.prompt_tokens.is_some() {
            return Err(LinkError::Lie("it reads a prompt twice"));
        }
        if prompt_tokens > self.room {
            return Err(LinkError::Lie(MORE_TOKENS));
        }
        self.prompt_tokens = Some(prompt_tokens);
        // What reading it took is free again, and so is what was kept for tokens that it has not.
        let tokens = prompt_tokens.saturating_add(self.max_tokens);
        self.slot.keep(kept(costs, tokens.min(self.room)));
        self.tally.prompt(prompt_tokens);
        Ok(())
    }

    /// Tokens of its prompt that are still to be read, at most.
    pub fn unread(&self) -> u32 {
        match self.prompt_tokens {
            None => self.prompt_limit,
            Some(_) => 0,
        }
    }

    /// So many tokens more. They count when they come: the client may leave before the end.
    pub fn count(&mut self, tokens: u32) -> Result<(), LinkError> {
        let sum = self.tokens.checked_add(tokens);
        let Some(sum) = sum.filter(|sum| *sum <= self.max_tokens) else {
            return Err(LinkError::Lie(MORE_TOKENS));
        };
        self.tokens = sum;
        self.tally.completion(tokens);
        Ok(())
    }

    /// Its last words are those that it said before.
    pub fn check_end(&self, prompt_tokens: u32, tokens: u32) -> Result<(), LinkError> {
        if self.prompt_tokens != Some(prompt_tokens) || self.tokens != tokens {
            return Err(LinkError::Lie("its last count is not what it counted"));
        }
        Ok(())
    }

    /// Passes a piece on, if the request explains that there is one more, of so many bytes.
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
        // Never full: the buffer has room for every piece that the counts above let through.
        // Closed: the client is gone, and its cancellation is on the way.
        let _ = self.pieces.try_send(piece);
        Ok(())
    }

    /// Bytes of log probabilities that the request asked for: one for each token that was counted, at most, for an empty one
    /// takes memory too.
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

    /// Bytes of a call's name, if the call is the next one or goes on.
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

    /// What a failure that the engine tells is to the client.
    pub fn failure(&self, reason: EngineFailure) -> Failure {
        match reason {
            EngineFailure::ContextLength => Failure::TooLong { most: self.room },
            reason => Failure::Engine(reason),
        }
    }

    /// Its client is gone; the engine may still be at it.
    pub fn leave(self) -> Slot {
        self.slot
    }

    /// The last piece.
    pub fn end(self, piece: Piece) {
        // The last place in the buffer is kept for this; the client may be gone.
        let _ = self.pieces.try_send(piece);
    }
}

/// Frames with text that the answer to `generation` may have: one for each token, and what [`Padding`] says. What is held
/// back comes in frames of its own.
pub(super) fn piece_limit(generation: &Generation) -> usize {
    let tokens = tokens(generation);
    // Each log probability may have a frame beside that of the token that it came with.
    let twice = 1 + usize::from(generation.top_logprobs.is_some());
    tokens * twice + Padding::of(generation).most_frames(tokens) + SLACK_PIECES
}

/// Bytes of text and log probabilities that the answer to `generation` may have.
fn byte_limit(generation: &Generation) -> usize {
    // A token, and those that are told with it.
    let told = generation
        .top_logprobs
        .map_or(1, |top| 2 + usize::from(top));
    tokens(generation) * MAX_TOKEN * told + SLACK_BYTES
}

fn tokens(generation: &Generation) -> usize {
    usize::try_from(generation.max_tokens.min(MAX_CONTEXT)).unwrap_or(0)
}
