//! Compares a log with a prediction, by position and digest and nothing else.
//!
//! Types and texts of a log are the host's to choose, so an event is what its place and its digest make it. An
//! inserted or missing event shifts what follows: every later row differs too, and the first is the one to look at.

use super::{EventLog, LogEvent};
use crate::tdx::event::{PredictedEvent, Rtmr};

/// One place of a register: what should stand there and what does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventCheck<'a> {
    /// The register.
    pub rtmr: Rtmr,
    /// The place among the register's events, from 0.
    pub position: usize,
    /// The predicted event; `None` when the log has one more than predicted.
    pub expected: Option<&'a PredictedEvent>,
    /// The logged event; `None` when the log lacks it.
    pub found: Option<&'a LogEvent<'a>>,
}

impl EventCheck<'_> {
    /// Whether the digest in this place is the predicted one.
    #[must_use]
    pub fn matches(&self) -> bool {
        matches!((self.expected, self.found), (Some(expected), Some(found)) if expected.digest == found.digest)
    }
}

/// One row for every place of `rtmr` that the log or the prediction has.
#[must_use]
pub fn compare<'a>(
    log: &'a EventLog<'a>,
    expected: &'a [PredictedEvent],
    rtmr: Rtmr,
) -> Vec<EventCheck<'a>> {
    let mut expected = expected.iter().filter(|event| event.rtmr == rtmr);
    let mut found = log.events().iter().filter(|event| event.rtmr == rtmr);
    let mut rows = Vec::new();
    loop {
        match (expected.next(), found.next()) {
            (None, None) => return rows,
            (expected, found) => rows.push(EventCheck {
                rtmr,
                position: rows.len(),
                expected,
                found,
            }),
        }
    }
}
