//! Number of frames of an answer, chosen so that it depends on the number of tokens and not on the text.
//!
//! Text that may become a stop string or a call is held back until that is decided, and then sent in pieces of ordinary
//! length. Neither the number of these pieces nor the presence of a call may be visible. Each answer therefore ends with empty
//! frames, up to a number that depends on its tokens alone.

use super::{Generation, MAX_PIECE, MAX_TOKEN};

/// Generous length of an ordinary token, in bytes. Held-back text of longer tokens takes more frames than the padding hides.
const USUAL_TOKEN: usize = 24;
/// Frames for the names of calls and for the end of an answer.
const NAMES: usize = 2;
/// Shortest full piece, in bytes: a piece ends at a character boundary, which may be up to three bytes early.
const SHORTEST_PIECE: usize = MAX_PIECE - 3;

/// Properties of a request that decide how its answer is padded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Padding {
    stops: bool,
    calls: bool,
    pieces: bool,
    logprobs: bool,
}

impl Padding {
    /// Returns the padding of the answer to `request`.
    pub fn of(request: &Generation) -> Self {
        // Text held back for such a stop string, and the token that decides it, do not fit in one piece.
        let long = |stop: &String| stop.len() + USUAL_TOKEN > MAX_PIECE;
        let calls = !request.tools.is_empty();
        Self {
            stops: !request.stop.is_empty(),
            calls,
            pieces: calls || request.stop.iter().any(long),
            logprobs: request.top_logprobs.is_some(),
        }
    }

    /// Returns whether text may be held back. If so, all text comes in pieces of at most [`MAX_PIECE`] bytes.
    pub fn holds(self) -> bool {
        self.stops || self.calls
    }

    /// Returns the number of frames, beyond one per token, to which an answer of `tokens` tokens is padded.
    pub fn frames(self, tokens: usize) -> usize {
        // The text left at the end takes one frame. Each log probability that was held back takes a frame of its own.
        let stops = match (self.stops, self.logprobs) {
            (true, true) => 1 + tokens,
            (true, false) => 1,
            (false, _) => 0,
        };
        let pieces = match self.pieces {
            true => (tokens * USUAL_TOKEN).div_ceil(MAX_PIECE),
            false => 0,
        };
        let names = if self.calls { NAMES } else { 0 };
        stops + pieces + names
    }

    /// Returns the most frames, beyond one per token, that an answer of `tokens` tokens can have, whatever its text.
    pub fn most_frames(self, tokens: usize) -> usize {
        let pieces = match self.holds() {
            true => (tokens * MAX_TOKEN).div_ceil(SHORTEST_PIECE),
            false => 0,
        };
        // Each call has a name and takes at least one token.
        let names = if self.calls { tokens } else { 0 };
        self.frames(tokens) + pieces + names
    }
}
