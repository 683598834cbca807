//! Jobs that take several requests, without any network: which question to ask next, and what to do
//! with its answer.

use super::task::Task;
use super::tokens::estimate;

/// Tokens of the chat template, more than any known template needs for two messages.
const TEMPLATE: usize = 64;
/// Smallest part, in tokens: a shorter one is not worth asking about.
pub(super) const MIN_PART: usize = 16;
/// Largest part, in tokens: with all its escapes it fits into the largest request body.
const MAX_PART: usize = 48 * 1024;

/// A job as a sequence of questions and answers.
pub trait Job {
    /// Returns the next step. Returns the same question until it is answered.
    fn next(&mut self) -> Next<'_>;

    /// Takes the answer to the question, without white space around it.
    fn answered(&mut self, answer: &str) -> Result<(), JobError>;

    /// Reports that the question exceeds the model's context; smaller questions follow.
    fn exceeded(&mut self) -> Result<(), JobError>;
}

/// A step of a [`Job`].
pub enum Next<'a> {
    /// A part of the result that does not come from the model: white space or a code block.
    Kept(&'a str),
    /// A question for the model.
    Ask(Question<'a>),
    /// The job is done.
    Done,
}

/// The question of one request.
#[derive(Clone, Copy)]
pub struct Question<'a> {
    /// Task of the question. Answers to [`Task::Notes`] are not part of the result.
    pub task: &'a Task,
    /// Text that the question is about.
    pub text: &'a str,
    /// Limit for the tokens of the answer; a proper answer is shorter.
    pub most: u32,
    /// Whether the answer begins a result of its own.
    pub begins: bool,
    /// Number of questions of this kind that follow, as far as is known.
    pub left: usize,
}

/// Why a job cannot go on. Never contains words of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    /// The context has no room for the instructions, a little text and its answer.
    #[error("the model's context of {0} tokens is too short for this")]
    Context(u32),
    /// The model refused a part that is too short to be halved: half of it has less than
    /// [`MIN_PART`] tokens.
    #[error("the model refuses as too long even a part of about {0} tokens")]
    Part(usize),
    /// The notes are not shorter than the text that they should replace.
    #[error(
        "the model's notes are no shorter than the text that they are about: use another model, or a shorter text"
    )]
    NoShorter,
}

/// Returns the tokens of the context that remain for text and answer after the instructions, at
/// most [`MAX_PART`].
pub(super) fn room(context: u32, task: &Task) -> Result<usize, JobError> {
    let all = usize::try_from(context).unwrap_or(usize::MAX);
    let taken = estimate(&task.instructions()) + TEMPLATE;
    match all.saturating_sub(taken) {
        room if room >= 4 * MIN_PART => Ok(room.min(MAX_PART)),
        _ => Err(JobError::Context(context)),
    }
}

/// Returns half the size of a part that was too long, as the new limit.
pub(super) fn halved(limit: usize, text: &str) -> Result<usize, JobError> {
    let tokens = estimate(text).min(limit);
    match tokens / 2 {
        half if half >= MIN_PART => Ok(half),
        _ => Err(JobError::Part(tokens)),
    }
}

/// Converts a number of tokens to the type that requests use.
pub(super) fn tokens(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
