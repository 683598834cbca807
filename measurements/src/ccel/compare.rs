//! Compares an event log with a prediction, by position and digest only.
//!
//! The host chooses the types and texts in a log, so only position and digest identify an event. An inserted or missing event
//! shifts the following ones: all later rows differ too, and the first differing row shows the cause.

use super::{EventLog, LogEvent};
use crate::tdx::event::{PredictedEvent, Rtmr};

/// Comparison of one position in a register: the predicted event and the logged one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventCheck<'a> {
    /// Register to which the events belong.
    pub rtmr: Rtmr,
    /// Position among the register's events, from 0.
    pub position: usize,
    /// The predicted event; `None` when the log has more events than predicted.
    pub expected: Option<&'a PredictedEvent>,
    /// The logged event; `None` when the log has fewer events than predicted.
    pub found: Option<&'a LogEvent<'a>>,
}

impl EventCheck<'_> {
    /// Returns whether the logged digest is the predicted one.
    #[must_use]
    pub fn matches(&self) -> bool {
        matches!((self.expected, self.found), (Some(expected), Some(found)) if expected.digest == found.digest)
    }
}

/// Returns one row for every position of `rtmr` that the log or the prediction has.
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
