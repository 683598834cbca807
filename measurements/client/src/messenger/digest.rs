//! Tasks that need a text as a whole: the text itself if it fits into the context, else notes about
//! its parts, or notes about those notes.

use std::collections::VecDeque;
use std::ops::Range;

use zeroize::Zeroizing;

use super::job::{Job, JobError, MIN_PART, Next, Question, halved, room, tokens};
use super::pieces::{Piece, pieces};
use super::task::Task;
use super::tokens::estimate;
use crate::wiped::push;

/// Separates notes from each other and from text that is kept verbatim.
const BETWEEN: &str = "\n\n";

/// A job that makes a summary or replies. Its texts are wiped on drop.
pub struct Digest {
    task: Task,
    /// Number of answers still to be made.
    left: usize,
    /// Largest number of tokens of the text in a request of the task itself, and of a part in a
    /// request for notes.
    whole_limit: usize,
    part_limit: usize,
    /// The text that may be replaced by notes, and the end of a thread that may not, because a
    /// reply answers it.
    text: Zeroizing<String>,
    end: Zeroizing<String>,
    /// Parts of the text for which there are no notes yet, and the notes on the parts before them.
    parts: VecDeque<Range<usize>>,
    notes: Zeroizing<String>,
    whole: Option<Zeroizing<String>>,
}

impl Digest {
    /// Makes a job for a summary.
    pub fn summary(task: Task, context: u32, text: &str) -> Result<Self, JobError> {
        Self::new(task, context, text, 1)
    }

    /// Makes a job for `drafts` drafts of a reply. If a thread is too long, its end is kept
    /// verbatim.
    pub fn replies(task: Task, context: u32, text: &str, drafts: usize) -> Result<Self, JobError> {
        let mut digest = Self::new(task, context, text, drafts)?;
        if estimate(text) > digest.whole_limit {
            digest.keep_end(text);
        }
        Ok(digest)
    }

    fn new(task: Task, context: u32, text: &str, left: usize) -> Result<Self, JobError> {
        // A quarter of the room is left for the answer.
        let whole_limit = room(context, &task)? / 4 * 3;
        let part_limit = room(context, &Task::Notes)? / 4 * 3;
        Ok(Self {
            task,
            left,
            whole_limit,
            part_limit,
            text: Zeroizing::new(text.to_owned()),
            end: Zeroizing::default(),
            parts: VecDeque::new(),
            notes: Zeroizing::default(),
            whole: None,
        })
    }

    /// Sets the end that is kept verbatim: the last piece of `all`, with at most half of the tokens
    /// that fit. Everything before it may be replaced by notes.
    fn keep_end(&mut self, all: &str) {
        // Surrounding white space belongs to no piece: if it alone exceeded the limit, there would
        // be nothing to ask about.
        let all = all.trim();
        let pieces = ranges(all, 0..all.len(), self.whole_limit / 2);
        let end = pieces.back().map_or(0, |last| last.start);
        self.text = Zeroizing::new(all[..end].to_owned());
        self.end = Zeroizing::new(all[end..].to_owned());
    }

    /// Assembles the whole text if it fits, or else divides it into parts for notes.
    fn prepare(&mut self) {
        if self.whole.is_some() || !self.parts.is_empty() {
            return;
        }
        if estimate(&self.text) + estimate(&self.end) <= self.whole_limit {
            let mut whole = Zeroizing::default();
            push(&mut whole, &self.text);
            push(&mut whole, &self.end);
            self.whole = Some(whole);
        } else {
            self.parts = ranges(&self.text, 0..self.text.len(), self.part_limit);
        }
    }

    /// Replaces the text by its notes.
    fn condense(&mut self) -> Result<(), JobError> {
        let notes = std::mem::take(&mut self.notes);
        if estimate(&notes) >= estimate(&self.text) {
            return Err(JobError::NoShorter);
        }
        self.text = notes;
        Ok(())
    }
}

impl Job for Digest {
    fn next(&mut self) -> Next<'_> {
        if self.left == 0 {
            return Next::Done;
        }
        self.prepare();
        if let Some(part) = self.parts.front() {
            let text = &self.text[part.clone()];
            return Next::Ask(Question {
                task: &Task::Notes,
                text,
                // Notes must be shorter than the text, or condensing would never end.
                most: tokens((estimate(text) / 4).max(MIN_PART)),
                begins: false,
                left: self.parts.len() - 1,
            });
        }
        Next::Ask(Question {
            task: &self.task,
            text: self.whole.as_deref().map_or("", String::as_str),
            most: tokens(self.whole_limit / 3),
            begins: true,
            left: self.left - 1,
        })
    }

    fn answered(&mut self, answer: &str) -> Result<(), JobError> {
        if self.parts.pop_front().is_none() {
            self.left -= 1;
            return Ok(());
        }
        push(&mut self.notes, answer);
        push(&mut self.notes, BETWEEN);
        match self.parts.is_empty() {
            true => self.condense(),
            false => Ok(()),
        }
    }

    fn exceeded(&mut self) -> Result<(), JobError> {
        if let Some(part) = self.parts.front().cloned() {
            self.part_limit = halved(self.part_limit, &self.text[part.clone()])?;
            // Later parts were cut with the same limit.
            let rest = part.start..self.text.len();
            self.parts = ranges(&self.text, rest, self.part_limit);
            return Ok(());
        }
        let whole = self.whole.take().unwrap_or_default();
        self.whole_limit = halved(self.whole_limit, &whole)?;
        self.part_limit = self.part_limit.min(self.whole_limit);
        if let Task::Reply { .. } = self.task {
            self.keep_end(&whole);
        }
        Ok(())
    }
}

/// Returns the ranges of the pieces in `part` of `text` that are for the model.
fn ranges(text: &str, part: Range<usize>, limit: usize) -> VecDeque<Range<usize>> {
    let mut from = part.start;
    let mut found = VecDeque::new();
    for piece in pieces(&text[part], limit) {
        let to = from + piece.as_str().len();
        if let Piece::Text(_) = piece {
            found.push_back(from..to);
        }
        from = to;
    }
    found
}
