//! A text that is read as a whole: as it is when it fits, else as notes about its parts, and notes about those.

use std::collections::VecDeque;
use std::ops::Range;

use zeroize::Zeroizing;

use super::job::{Job, JobError, MIN_PART, Next, Question, halved, room, tokens};
use super::pieces::{Piece, pieces};
use super::task::Task;
use super::tokens::estimate;
use crate::wiped::push;

/// What stands between notes, and between notes and what is kept word by word.
const BETWEEN: &str = "\n\n";

/// Summaries and replies. What it holds is wiped on drop.
pub struct Digest {
    task: Task,
    /// Answers still wanted.
    left: usize,
    /// Most tokens of the text that the task itself is asked about, and of a part that notes are taken of.
    whole_limit: usize,
    part_limit: usize,
    /// What may become notes, and what may not: the end of a thread, which a reply answers.
    text: Zeroizing<String>,
    end: Zeroizing<String>,
    /// Parts of the text without notes, and the notes of those before them.
    parts: VecDeque<Range<usize>>,
    notes: Zeroizing<String>,
    whole: Option<Zeroizing<String>>,
}

impl Digest {
    /// A summary.
    pub fn summary(task: Task, context: u32, text: &str) -> Result<Self, JobError> {
        Self::new(task, context, text, 1)
    }

    /// So many drafts of a reply. Of a thread that is too long, the end stays as it is.
    pub fn replies(task: Task, context: u32, text: &str, drafts: usize) -> Result<Self, JobError> {
        let mut digest = Self::new(task, context, text, drafts)?;
        if estimate(text) > digest.whole_limit {
            digest.keep_end(text);
        }
        Ok(digest)
    }

    fn new(task: Task, context: u32, text: &str, left: usize) -> Result<Self, JobError> {
        // A quarter is for the answer.
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

    /// The last piece of `all`, of at most half of what fits, is not for notes; everything before it is.
    fn keep_end(&mut self, all: &str) {
        // White space around it has no piece, and would leave nothing to be asked about.
        let all = all.trim();
        let pieces = ranges(all, 0..all.len(), self.whole_limit / 2);
        let end = pieces.back().map_or(0, |last| last.start);
        self.text = Zeroizing::new(all[..end].to_owned());
        self.end = Zeroizing::new(all[end..].to_owned());
    }

    /// The whole text if it fits, or else the parts that notes must be taken of.
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

    /// The notes take the text's place.
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
                // Shorter than the text, or there is no end of it.
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
            // The later ones are no better.
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

/// The pieces of a part of `text` that are for the model.
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
