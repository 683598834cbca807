//! Polls the choices of one answer as they come from the engine, so that no choice waits for the others.

use std::task::{Context, Poll};

use super::wire::Offsets;
use crate::engine::{Answer, Piece};

/// All choices of one answer.
pub(super) struct Choices {
    all: Vec<Choice>,
    /// Index of the choice that is polled first.
    turn: usize,
}

struct Choice {
    answer: Answer,
    /// Offsets of the tokens that were sent, used in completions.
    offsets: Offsets,
    over: bool,
}

impl Choices {
    pub fn new(answers: Vec<Answer>) -> Self {
        let choice = |answer| Choice {
            answer,
            offsets: Offsets::default(),
            over: false,
        };
        Self {
            all: answers.into_iter().map(choice).collect(),
            turn: 0,
        }
    }

    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// Index of the first choice that has not ended.
    pub fn unfinished(&self) -> usize {
        let unfinished = self.all.iter().position(|choice| !choice.over);
        unfinished.unwrap_or(0)
    }

    /// Marks a choice as ended; returns true if it was the last.
    pub fn end(&mut self, index: usize) -> bool {
        self.all[index].over = true;
        self.all.iter().all(|choice| choice.over)
    }

    /// Where the next tokens of a choice begin in its text.
    pub fn offsets(&mut self, index: usize) -> &mut Offsets {
        &mut self.all[index].offsets
    }

    /// Returns the next piece of any choice, in turns; `None` when all have ended.
    pub async fn next(&mut self) -> Option<(usize, Piece)> {
        std::future::poll_fn(|context| self.poll(context)).await
    }

    /// Returns the answers, which hold the places of all choices.
    pub fn into_answers(self) -> Vec<Answer> {
        self.all.into_iter().map(|choice| choice.answer).collect()
    }

    /// Cancels the generations that are still running.
    pub fn cancel(&mut self) {
        self.all.clear();
    }

    /// Polls for the next piece of any choice, in turns.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<(usize, Piece)>> {
        let count = self.all.len();
        let mut pending = false;
        for step in 0..count {
            let index = (self.turn + step) % count;
            match self.poll_of(index, context) {
                Poll::Ready(Some(piece)) => {
                    self.turn = (index + 1) % count;
                    return Poll::Ready(Some((index, piece)));
                }
                Poll::Ready(None) => {}
                Poll::Pending => pending = true,
            }
        }
        match pending {
            true => Poll::Pending,
            false => Poll::Ready(None),
        }
    }

    /// Polls for the next piece of one choice.
    pub fn poll_of(&mut self, index: usize, context: &mut Context<'_>) -> Poll<Option<Piece>> {
        let choice = &mut self.all[index];
        if choice.over {
            return Poll::Ready(None);
        }
        let polled = choice.answer.poll_next(context);
        choice.over |= matches!(polled, Poll::Ready(None));
        polled
    }
}
