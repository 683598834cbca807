//! Writes a CC event log in the format that [`EventLog::parse`](super::EventLog::parse) reads.

use thiserror::Error;

use super::{MAX_LOG, SHA1_LENGTH, SHA384, SPEC_ID};
use crate::tdx::event::{PredictedEvent, Rtmr, event_type};

/// An event to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoggedEvent<'a> {
    /// Register that the event extends.
    pub rtmr: Rtmr,
    /// Type of the event, one of [`event_type`].
    pub event_type: u32,
    /// SHA-384 digest that extends the register.
    pub digest: [u8; 48],
    /// Event data that the log shows.
    pub data: &'a [u8],
}

impl<'a> From<&'a PredictedEvent> for LoggedEvent<'a> {
    fn from(event: &'a PredictedEvent) -> Self {
        Self {
            rtmr: event.rtmr,
            event_type: event.event_type,
            digest: event.digest,
            data: &event.data,
        }
    }
}

/// Why a log cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum EncodeError {
    /// The log would exceed [`MAX_LOG`], so that it could not be read back.
    #[error("the events need more than {MAX_LOG} bytes of CC event log")]
    TooLarge,
}

/// Encodes `events` as a log without padding.
///
/// # Errors
/// [`EncodeError`] when the log would exceed [`MAX_LOG`].
pub fn encode<'a>(
    events: impl IntoIterator<Item = LoggedEvent<'a>>,
) -> Result<Vec<u8>, EncodeError> {
    let mut log = header();
    for event in events {
        let length = u32::try_from(event.data.len()).map_err(|_| EncodeError::TooLarge)?;
        for field in [event.rtmr.index() as u64 + 1, event.event_type.into(), 1] {
            // Each is at most 32 bits wide; the upper half is zero.
            log.extend(&field.to_le_bytes()[..4]);
        }
        log.extend(SHA384.to_le_bytes());
        log.extend(event.digest);
        log.extend(length.to_le_bytes());
        log.extend(event.data);
        if log.len() > MAX_LOG {
            return Err(EncodeError::TooLarge);
        }
    }
    Ok(log)
}

/// Encodes the Spec ID event: format version 2.0, 64-bit, with SHA-384 as the only algorithm.
fn header() -> Vec<u8> {
    let mut spec = SPEC_ID.to_vec();
    spec.extend([0, 0, 0, 0, 0, 2, 0, 2]);
    spec.extend(1_u32.to_le_bytes());
    spec.extend(SHA384.to_le_bytes());
    spec.extend(48_u16.to_le_bytes());
    spec.push(0); // no vendor information
    let mut header = [1, event_type::NO_ACTION].map(u32::to_le_bytes).concat();
    header.extend([0; SHA1_LENGTH]);
    header.extend([33, 0, 0, 0]);
    header.extend(spec);
    header
}
