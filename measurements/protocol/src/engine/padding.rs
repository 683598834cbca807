//! How many frames an answer has: as many as its tokens say, and its text does not.
//!
//! Text that may become a stop string or a call is held back, and told in pieces of a usual length when that is decided.
//! So that neither their number nor whether there was a call shows, an answer is filled up with empty frames at its end
//! to a number that depends on its tokens alone.

use super::{Generation, MAX_PIECE, MAX_TOKEN};

/// Bytes of a usual token, amply: held text with more of them has more frames than it should.
const USUAL_TOKEN: usize = 24;
/// Frames for names of calls, and for what ends an answer.
const NAMES: usize = 2;
/// A piece ends where a character does, up to three bytes early.
const SHORTEST_PIECE: usize = MAX_PIECE - 3;

/// What there is to hide of the answer to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Padding {
    stops: bool,
    calls: bool,
    pieces: bool,
    logprobs: bool,
}

impl Padding {
    /// For the answer to `request`.
    pub fn of(request: &Generation) -> Self {
        // What is held of it, and the token with which that is decided, are told in more than one piece.
        let long = |stop: &String| stop.len() + USUAL_TOKEN > MAX_PIECE;
        let calls = !request.tools.is_empty();
        Self {
            stops: !request.stop.is_empty(),
            calls,
            pieces: calls || request.stop.iter().any(long),
            logprobs: request.top_logprobs.is_some(),
        }
    }

    /// Whether anything may be held back: then text comes in pieces of at most [`MAX_PIECE`] bytes.
    pub fn holds(self) -> bool {
        self.stops || self.calls
    }

    /// Frames beyond one for each token that an answer of so many tokens is filled up to.
    pub fn frames(self, tokens: usize) -> usize {
        // What is left of the text at its end; and each log probability that was held back has a frame of its own.
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

    /// Frames beyond one for each token that an answer of so many tokens can have, whatever it says.
    pub fn most_frames(self, tokens: usize) -> usize {
        let pieces = match self.holds() {
            true => (tokens * MAX_TOKEN).div_ceil(SHORTEST_PIECE),
            false => 0,
        };
        // Each call has a name and takes a token at least.
        let names = if self.calls { tokens } else { 0 };
        self.frames(tokens) + pieces + names
    }
}
