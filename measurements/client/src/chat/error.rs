//! Errors of a conversation.

use cocoon_measurements::verdict::Verdict;

use super::{EXCEEDED, MAX_ANSWER_LEN};
use crate::address::Address;
use crate::padding::PaddingError;
use crate::receipts::ReceiptFault;
use crate::sse::EventTooLong;
use crate::upstreams::UpstreamError;

/// Why there is no answer, or not a whole one. Never contains text of the conversation.
#[derive(Debug, thiserror::Error)]
pub enum ChatError {
    /// The request cannot be encoded.
    #[error("the question cannot be sent")]
    Request(#[from] PaddingError),
    /// No verified appliance took the request.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// The appliance answered with an error.
    #[error("the appliance answers with status {status}: {message}")]
    Refused {
        /// HTTP status; 200 when the error came inside a stream.
        status: u16,
        /// The appliance's error message, without control characters.
        message: String,
        /// OpenAI's error code, without control characters.
        code: Option<String>,
    },
    /// The question does not fit into the context together with the earlier messages.
    #[error("the conversation is full: begin a new one (/new) and ask again")]
    Full(#[source] Box<ChatError>),
    /// The connection broke during the answer.
    #[error("the connection broke in the middle of the answer")]
    Broken(#[source] hyper::Error),
    /// The stream ended without `[DONE]`.
    #[error("the answer was cut short: its stream has no end mark")]
    CutShort,
    /// The answer's receipt is missing or wrong.
    #[error(transparent)]
    Receipt(ReceiptFault),
    /// An event is longer than the limit.
    #[error("the answer is not a stream of this API")]
    Event(#[from] EventTooLong),
    /// An event does not match OpenAI's schema.
    #[error("the answer holds an event that is not of this API")]
    Malformed,
    /// The answer is longer than [`MAX_ANSWER_LEN`].
    #[error("the answer exceeds {MAX_ANSWER_LEN} bytes")]
    TooLong,
}

impl ChatError {
    /// Returns whether every appliance was refused for what it presented, rather than not reached.
    pub fn is_rejection(&self) -> bool {
        matches!(self, ChatError::Upstream(error) if error.is_rejection())
    }

    /// Returns the first appliance that was refused by a verdict, and that verdict.
    pub fn verdict(&self) -> Option<(&Address, &Verdict)> {
        match self {
            ChatError::Upstream(error) => error.verdict(),
            _ => None,
        }
    }

    /// Returns whether the conversation is too long for the model's context or for any request.
    pub(super) fn is_too_long(&self) -> bool {
        match self {
            ChatError::Request(PaddingError::TooLong(_)) => true,
            ChatError::Refused { code, .. } => code.as_deref() == Some(EXCEEDED),
            _ => false,
        }
    }
}
