//! Work in several requests, without a network: what to ask next, and what came of it.

use super::task::Task;
use super::tokens::estimate;

/// Tokens that a conversation's own marks take, more than any known template needs for two messages.
const TEMPLATE: usize = 64;
/// Fewest tokens of a part: below, nothing can be said about it.
pub(super) const MIN_PART: usize = 16;
/// Most tokens of a part: with all its escapes it fits into the largest request body.
const MAX_PART: usize = 48 * 1024;

/// Texts in, questions out, answers in, result out.
pub trait Job {
    /// What comes next. Until it was answered, the same question comes again.
    fn next(&mut self) -> Next<'_>;

    /// The answer to the question, without white space around it.
    fn answered(&mut self, answer: &str) -> Result<(), JobError>;

    /// The question exceeds the model's context: smaller ones follow.
    fn exceeded(&mut self) -> Result<(), JobError>;
}

/// A step of a [`Job`].
pub enum Next<'a> {
    /// A part of the result that is not the model's: white space, a code block.
    Kept(&'a str),
    /// To be asked.
    Ask(Question<'a>),
    /// There is nothing more.
    Done,
}

/// What one request asks.
#[derive(Clone, Copy)]
pub struct Question<'a> {
    /// Of what kind. Answers to [`Task::Notes`] are no part of the result.
    pub task: &'a Task,
    /// About what.
    pub text: &'a str,
    /// Most tokens of an answer that goes well.
    pub most: u32,
    /// Whether the answer begins a result of its own.
    pub begins: bool,
    /// How many questions of this kind follow, as far as is known.
    pub left: usize,
}

/// Why a job cannot go on. Never repeats a word of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    /// Instructions, a little text and its answer do not fit.
    #[error("the model's context of {0} tokens is too short for this")]
    Context(u32),
    /// Even a part of [`MIN_PART`] tokens was refused.
    #[error("the model refuses as too long even a part of about {0} tokens")]
    Part(usize),
    /// Notes are made to be shorter than the text.
    #[error(
        "the model's notes are no shorter than the text that they are about: use another model, or a shorter text"
    )]
    NoShorter,
}

/// Tokens that a model's context leaves for text and answer, beside the instructions.
pub(super) fn room(context: u32, task: &Task) -> Result<usize, JobError> {
    let all = usize::try_from(context).unwrap_or(usize::MAX);
    let taken = estimate(&task.instructions()) + TEMPLATE;
    match all.saturating_sub(taken) {
        room if room >= 4 * MIN_PART => Ok(room.min(MAX_PART)),
        _ => Err(JobError::Context(context)),
    }
}

/// Half of a part that was too long, as the limit for what comes of it.
pub(super) fn halved(limit: usize, text: &str) -> Result<usize, JobError> {
    let tokens = estimate(text).min(limit);
    match tokens / 2 {
        half if half >= MIN_PART => Ok(half),
        _ => Err(JobError::Part(tokens)),
    }
}

/// As requests count.
pub(super) fn tokens(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
