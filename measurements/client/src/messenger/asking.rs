//! Runs the jobs of the messenger on verified appliances.

use cocoon_measurements::verdict::Verdict;
use zeroize::Zeroizing;

use super::context::{self, ContextError};
use super::digest::Digest;
use super::job::{Job, JobError, Next, Question};
use super::report::Report;
use super::task::Task;
use super::translation::Translation;
use crate::address::Address;
use crate::chat::{ChatError, ChatOptions, EXCEEDED, send};
use crate::upstreams::Upstreams;
use crate::wiped::push;

/// Longest text, in bytes.
pub const MAX_TEXT_LEN: usize = 1024 * 1024;
/// Largest number of drafts of one reply.
pub const MAX_DRAFTS: usize = 8;
/// Largest total length of the results for one text, in bytes.
const MAX_RESULT_LEN: usize = 8 * MAX_TEXT_LEN;

/// Translates, summarises and answers messages with verified appliances.
pub struct Messenger {
    upstreams: Upstreams,
    options: ChatOptions,
    context: u32,
}

/// Progress of a job.
#[derive(Clone, Copy)]
pub enum Heard<'a> {
    /// A request is about to be sent.
    Asking(&'a Question<'a>),
    /// More text of the result.
    Words(&'a str),
}

/// Why a job was not done, or not completely. Never contains words of the text.
#[derive(Debug, thiserror::Error)]
pub enum MessengerError {
    /// The text contains only white space.
    #[error("the text is empty")]
    Empty,
    /// The text is longer than [`MAX_TEXT_LEN`].
    #[error("the text has more than {MAX_TEXT_LEN} bytes: divide it")]
    TooLong,
    /// The number of drafts is 0 or more than [`MAX_DRAFTS`].
    #[error("{0} drafts cannot be had: ask for 1 to {MAX_DRAFTS}")]
    Drafts(usize),
    /// The length of the model's context could not be found out.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// The job cannot be done in parts.
    #[error(transparent)]
    Job(#[from] JobError),
    /// A request got no answer.
    #[error(transparent)]
    Chat(#[from] ChatError),
    /// The results are longer than [`MAX_RESULT_LEN`].
    #[error("the answers exceed {MAX_RESULT_LEN} bytes")]
    ResultTooLong,
}

impl MessengerError {
    /// Returns whether every appliance was refused for what it presented, rather than not reached.
    pub fn is_rejection(&self) -> bool {
        match self {
            MessengerError::Context(ContextError::Upstream(error)) => error.is_rejection(),
            MessengerError::Chat(error) => error.is_rejection(),
            _ => false,
        }
    }

    /// Returns the first appliance that was refused by a verdict, and that verdict.
    pub fn verdict(&self) -> Option<(&Address, &Verdict)> {
        match self {
            MessengerError::Context(ContextError::Upstream(error)) => error.verdict(),
            MessengerError::Chat(error) => error.verdict(),
            _ => None,
        }
    }
}

impl Messenger {
    /// Makes a messenger, and asks an appliance for the length of the model's context.
    pub async fn new(upstreams: Upstreams, options: ChatOptions) -> Result<Self, MessengerError> {
        let context = context::length(&upstreams, &options.model).await?;
        Ok(Self {
            upstreams,
            options,
            context,
        })
    }

    /// Does `task` for `text`, and makes `drafts` drafts if it is a reply. Writes the results into
    /// `report`, also if it fails on the way. Calls `heard` with the result as it arrives.
    pub async fn run(
        &self,
        task: Task,
        drafts: usize,
        text: &str,
        report: &mut Report,
        heard: impl FnMut(Heard<'_>),
    ) -> Result<(), MessengerError> {
        if text.len() > MAX_TEXT_LEN {
            return Err(MessengerError::TooLong);
        }
        if text.trim().is_empty() {
            return Err(MessengerError::Empty);
        }
        if !(1..=MAX_DRAFTS).contains(&drafts) {
            return Err(MessengerError::Drafts(drafts));
        }
        let context = self.context;
        match task {
            Task::Translate { .. } => {
                let mut job = Translation::new(task, context, text)?;
                report.results.push(Zeroizing::default());
                self.work(&mut job, report, heard).await
            }
            Task::Notes | Task::Summarize { .. } => {
                let mut job = Digest::summary(task, context, text)?;
                self.work(&mut job, report, heard).await
            }
            Task::Reply { .. } => {
                let mut job = Digest::replies(task, context, text, drafts)?;
                self.work(&mut job, report, heard).await
            }
        }
    }

    async fn work(
        &self,
        job: &mut impl Job,
        report: &mut Report,
        mut heard: impl FnMut(Heard<'_>),
    ) -> Result<(), MessengerError> {
        loop {
            let question = match job.next() {
                Next::Done => return Ok(()),
                Next::Kept(text) => {
                    tell(report, text, &mut heard)?;
                    continue;
                }
                Next::Ask(question) => question,
            };
            heard(Heard::Asking(&question));
            match self.ask(&question, report, &mut heard).await {
                Ok(answer) => job.answered(answer.trim())?,
                Err(MessengerError::Chat(ChatError::Refused {
                    code: Some(code), ..
                })) if code == EXCEEDED => {
                    job.exceeded()?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn ask(
        &self,
        question: &Question<'_>,
        report: &mut Report,
        heard: &mut impl FnMut(Heard<'_>),
    ) -> Result<Zeroizing<String>, MessengerError> {
        let mut options = self.options.clone();
        let most = options.max_tokens.unwrap_or(u32::MAX);
        options.max_tokens = Some(most.min(question.most));
        // Drafts must differ under a fixed seed, but be the same ones every time.
        let draft = i64::try_from(question.left).unwrap_or(0);
        options.seed = options.seed.map(|seed| seed.wrapping_add(draft));
        let request = question.task.request(&options, question.text);
        let shown = !matches!(question.task, Task::Notes);
        let mut result = Ok(());
        let mut trimmed = Trimmed::default();
        let mut begins = question.begins;
        let (answer, ending) = send(&self.upstreams, &request, |piece| {
            if !shown || result.is_err() {
                return;
            }
            if std::mem::take(&mut begins) {
                report.results.push(Zeroizing::default());
            }
            trimmed.take(piece, |words| {
                if result.is_ok() {
                    result = tell(report, words, heard);
                }
            });
        })
        .await?;
        result?;
        if begins && shown {
            report.results.push(Zeroizing::default());
        }
        report.add(question.task.name(), question.text, ending);
        Ok(answer)
    }
}

/// Appends to the last result.
fn tell(
    report: &mut Report,
    words: &str,
    heard: &mut impl FnMut(Heard<'_>),
) -> Result<(), MessengerError> {
    let length: usize = report.results.iter().map(|result| result.len()).sum();
    if length + words.len() > MAX_RESULT_LEN {
        return Err(MessengerError::ResultTooLong);
    }
    if let Some(last) = report.results.last_mut() {
        push(last, words);
    }
    heard(Heard::Words(words));
    Ok(())
}

/// Trims white space around an answer as it arrives: models often begin with some, and the text has
/// its own.
#[derive(Default)]
struct Trimmed {
    begun: bool,
    blank: Zeroizing<String>,
}

impl Trimmed {
    fn take(&mut self, piece: &str, mut give: impl FnMut(&str)) {
        let words = match self.begun {
            true => piece,
            false => piece.trim_start(),
        };
        let solid = words.trim_end();
        if !solid.is_empty() {
            let blank = std::mem::take(&mut self.blank);
            if !blank.is_empty() {
                give(&blank);
            }
            give(solid);
            self.begun = true;
        }
        if self.begun {
            push(&mut self.blank, &words[solid.len()..]);
        }
    }
}

impl std::fmt::Debug for Messenger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Messenger")
            .field("context", &self.context)
            .finish_non_exhaustive()
    }
}
