//! Errors of requests to several appliances.

use cocoon_measurements::verdict::Verdict;

use crate::address::Address;
use crate::attested::SendError;
use crate::error::{ConnectError, chain};

/// Why no appliance answered.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// No appliance could be reached and verified.
    #[error("no appliance can be used: {}", list(.0))]
    NoneUsable(Vec<ConnectError>),
    /// A verified connection broke after the request was sent.
    #[error(
        "the appliance failed while it held the request, which was not sent again because it may have been served"
    )]
    Broken(#[source] SendError),
}

impl UpstreamError {
    /// Returns whether every appliance was refused for what it presented, rather than not reached.
    pub fn is_rejection(&self) -> bool {
        matches!(self, UpstreamError::NoneUsable(errors) if errors.iter().all(ConnectError::is_rejection))
    }

    /// Returns the first appliance that was refused by a verdict, and that verdict.
    pub fn verdict(&self) -> Option<(&Address, &Verdict)> {
        match self {
            UpstreamError::NoneUsable(errors) => errors.iter().find_map(ConnectError::judged),
            UpstreamError::Broken(_) => None,
        }
    }
}

fn list(errors: &[ConnectError]) -> String {
    let texts: Vec<_> = errors.iter().map(|error| chain(error)).collect();
    texts.join(" | ")
}
