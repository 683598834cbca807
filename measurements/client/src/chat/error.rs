//! Why there is no answer.

use cocoon_measurements::verdict::Verdict;

use super::{EXCEEDED, MAX_ANSWER_LEN};
use crate::address::Address;
use crate::padding::PaddingError;
use crate::receipts::ReceiptFault;
use crate::sse::EventTooLong;
use crate::upstreams::UpstreamError;

/// Why there is no answer, or not all of it. Never repeats a word of the conversation.
#[derive(Debug, thiserror::Error)]
pub enum ChatError {
    /// The request cannot be encoded.
    #[error("the question cannot be sent")]
    Request(#[from] PaddingError),
    /// No verified appliance took it.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// The appliance answered with an error.
    #[error("the appliance answers with status {status}: {message}")]
    Refused {
        /// HTTP status; 200 when the error came inside a stream.
        status: u16,
        /// What it said, without control characters.
        message: String,
        /// OpenAI's code for it, without control characters.
        code: Option<String>,
    },
    /// The question does not fit behind what was said before.
    #[error("the conversation is full: begin a new one (/new) and ask again")]
    Full(#[source] Box<ChatError>),
    /// The stream broke.
    #[error("the connection broke in the middle of the answer")]
    Broken(#[source] hyper::Error),
    /// The stream ended without its end mark.
    #[error("the answer was cut short: its stream has no end mark")]
    CutShort,
    /// Its receipt is missing or wrong.
    #[error(transparent)]
    Receipt(ReceiptFault),
    /// An event without end.
    #[error("the answer is not a stream of this API")]
    Event(#[from] EventTooLong),
    /// An event that is not of OpenAI's schema.
    #[error("the answer holds an event that is not of this API")]
    Malformed,
    /// More than [`MAX_ANSWER_LEN`].
    #[error("the answer exceeds {MAX_ANSWER_LEN} bytes")]
    TooLong,
}

impl ChatError {
    /// Whether every appliance was refused for what it showed, rather than not reached.
    pub fn is_rejection(&self) -> bool {
        matches!(self, ChatError::Upstream(error) if error.is_rejection())
    }

    /// The first appliance that was judged and refused, and its verdict.
    pub fn verdict(&self) -> Option<(&Address, &Verdict)> {
        match self {
            ChatError::Upstream(error) => error.verdict(),
            _ => None,
        }
    }

    /// For the model, or for any request.
    pub(super) fn is_too_long(&self) -> bool {
        match self {
            ChatError::Request(PaddingError::TooLong(_)) => true,
            ChatError::Refused { code, .. } => code.as_deref() == Some(EXCEEDED),
            _ => false,
        }
    }
}
