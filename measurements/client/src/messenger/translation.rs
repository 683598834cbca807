//! Translates a text part by part, and keeps what stands between the parts.

use std::collections::VecDeque;

use super::job::{Job, JobError, Next, Question, halved, room, tokens};
use super::pieces::{Piece, fits, outside_code, pieces};
use super::task::Task;
use super::tokens::estimate;

/// Largest part, in tokens, however long the context is: models begin to leave out sentences of
/// longer ones.
const MAX_PART: usize = 2048;
/// Tokens that an answer may have beyond twice those of its question: some words have no short
/// translation.
const SPARE: usize = 64;

/// The translation of one text.
pub struct Translation<'a> {
    task: Task,
    pieces: VecDeque<Piece<'a>>,
    limit: usize,
}

impl<'a> Translation<'a> {
    /// Makes a job that translates `text` with a model whose context has `context` tokens. Code
    /// blocks are kept.
    pub fn new(task: Task, context: u32, text: &'a str) -> Result<Self, JobError> {
        // A third of the room for the part, two thirds for its translation.
        let limit = (room(context, &task)? / 3).min(MAX_PART);
        let mut found = VecDeque::new();
        for piece in outside_code(text) {
            match piece {
                Piece::Text(text) => found.extend(pieces(text, limit)),
                Piece::Kept(_) => found.push_back(piece),
            }
        }
        Ok(Self {
            task,
            pieces: found,
            limit,
        })
    }

    /// Cuts the first piece again if the limit was lowered.
    fn cut(&mut self) {
        if let Some(Piece::Text(text)) = self.pieces.front().copied()
            && !fits(text, self.limit)
        {
            self.pieces.pop_front();
            for piece in pieces(text, self.limit).into_iter().rev() {
                self.pieces.push_front(piece);
            }
        }
    }
}

impl Job for Translation<'_> {
    fn next(&mut self) -> Next<'_> {
        self.cut();
        match self.pieces.front().copied() {
            None => Next::Done,
            Some(Piece::Kept(text)) => {
                self.pieces.pop_front();
                Next::Kept(text)
            }
            Some(Piece::Text(text)) => {
                let more = self.pieces.iter().skip(1);
                Next::Ask(Question {
                    task: &self.task,
                    text,
                    most: tokens(2 * estimate(text) + SPARE),
                    begins: false,
                    left: more.filter(|piece| matches!(piece, Piece::Text(_))).count(),
                })
            }
        }
    }

    fn answered(&mut self, _: &str) -> Result<(), JobError> {
        self.pieces.pop_front();
        Ok(())
    }

    fn exceeded(&mut self) -> Result<(), JobError> {
        let text = self.pieces.front().map_or("", |piece| piece.as_str());
        self.limit = halved(self.limit, text)?;
        Ok(())
    }
}
