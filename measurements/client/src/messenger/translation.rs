//! A translation: part by part, with what stands between the parts as it was.

use std::collections::VecDeque;

use super::job::{Job, JobError, Next, Question, halved, room, tokens};
use super::pieces::{Piece, fits, outside_code, pieces};
use super::task::Task;
use super::tokens::estimate;

/// Most tokens of a part, however long the context is: in longer ones models begin to leave sentences out.
const MAX_PART: usize = 2048;
/// Tokens of an answer beyond twice its question's: for words that have no short translation.
const SPARE: usize = 64;

/// The translation of one text.
pub struct Translation<'a> {
    task: Task,
    pieces: VecDeque<Piece<'a>>,
    limit: usize,
}

impl<'a> Translation<'a> {
    /// Of `text` by a model of so long a context. Code blocks stay as they are.
    pub fn new(task: Task, context: u32, text: &'a str) -> Result<Self, JobError> {
        // A third for the part, two for its translation.
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

    /// Cuts the first piece if the limit has become smaller since.
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
