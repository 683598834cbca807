//! What a messenger does with messages: translates, summarizes and answers them, in one request or, when they are
//! long, in several.
//!
//! Everything but [`Messenger`] is pure: a [`Job`] says what to ask next, takes the answers and never sees a network,
//! and [`Task::request`] is the request word by word, which any client of the API can send (`docs/messenger.md`).
//!
//! | module | provides |
//! |---|---|
//! | [`task`] | instructions and requests |
//! | [`language`] | languages by code or name |
//! | [`pieces`](mod@pieces) | where long texts are cut |
//! | [`guarded`] | what is not cut: links, code |
//! | [`tokens`] | how long a text is for a model |
//! | [`job`], [`translation`], [`digest`] | what is asked, and what comes of the answers |
//! | [`Messenger`] | the jobs done by verified appliances |

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
