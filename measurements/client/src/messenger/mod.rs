//! Translates, summarises and answers messages, in one request or, if they are long, in several.
//!
//! Only [`Messenger`] uses the network. A [`Job`] says what to ask next and takes the answers, and
//! [`Task::request`] returns the exact request, which any client of the API can send
//! (`docs/messenger.md`).
//!
//! | module | provides |
//! |---|---|
//! | [`task`] | instructions and requests |
//! | [`language`] | languages by code or name |
//! | [`pieces`](mod@pieces) | the cutting of long texts |
//! | [`guarded`] | ranges that are not cut: links, code |
//! | [`tokens`] | an estimate of the tokens of a text |
//! | [`job`], [`translation`], [`digest`] | the questions of a task, and what to do with the answers |
//! | [`Messenger`] | jobs run by verified appliances |

mod asking;
mod context;
pub mod digest;
pub mod guarded;
pub mod job;
pub mod language;
mod line;
pub mod pieces;
mod report;
pub mod task;
#[cfg(test)]
mod tests;
pub mod tokens;
pub mod translation;

pub use asking::{Heard, MAX_DRAFTS, MAX_TEXT_LEN, Messenger, MessengerError};
pub use context::ContextError;
pub use digest::Digest;
pub use job::{Job, JobError};
pub use language::{Language, LanguageError};
pub use line::Line;
pub use report::{Part, Report};
pub use task::{Style, Task, Tone};
pub use translation::Translation;
