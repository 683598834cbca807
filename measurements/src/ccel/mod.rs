//! The CC event log (ACPI table CCEL): bounded parsing, replay into registers, comparison with a prediction.
//!
//! Format: TCG PC Client Platform Firmware Profile, crypto-agile log with one SHA-384 digest per event; the register index is
//! RTMR + 1 (Intel TDX Guest-Hypervisor Communication Interface, "CCEL"). The host controls the log, so nothing in it is
//! trusted until its replay equals the quote's registers. Even then an event's *data* are only a claim: they count if they
//! hash to the event's digest ([`LogEvent::hashed_data`]).

mod compare;
mod encode;

use sha2::{Digest, Sha384};
use thiserror::Error;

pub use self::{
    compare::{EventCheck, compare},
    encode::{EncodeError, LoggedEvent, encode},
};
use crate::{
    bytes::{Reader, Truncated},
    tdx::event::{self, Rtmr, event_type},
};

/// Largest log accepted, in bytes. OVMF reserves 64 KiB.
pub const MAX_LOG: usize = 1 << 20;
/// Most events accepted: twenty times as many as in any known boot.
pub const MAX_EVENTS: usize = 1024;

const STRUCTURE: &str = "CC event log";
const SHA384: u16 = 0x000c;
const SHA1_LENGTH: usize = 20;
const SPEC_ID: [u8; 16] = *b"Spec ID Event03\0";

/// Why a log cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CcelError {
    /// The log is larger than [`MAX_LOG`].
    #[error("CC event log has {length} bytes, more than {MAX_LOG}")]
    TooLarge {
        /// Length of the log in bytes.
        length: usize,
    },
    /// The log ends within an event.
    #[error(transparent)]
    Truncated(#[from] Truncated),
    /// The first record does not announce SHA-384 as the only digest algorithm.
    #[error(
        "CC event log: {field} at offset {offset:#x} is not that of a log with SHA-384 digests alone"
    )]
    Header {
        /// Name of the field.
        field: &'static str,
        /// Offset in the log.
        offset: usize,
    },
    /// An event's register index is not that of a runtime register.
    #[error(
        "CC event log: event {position} at offset {offset:#x} names register {index}, 1 to 4 expected"
    )]
    Register {
        /// Position among the events, from 0.
        position: usize,
        /// Offset in the log.
        offset: usize,
        /// The register index found.
        index: u32,
    },
    /// An event does not have exactly one digest, of SHA-384.
    #[error(
        "CC event log: event {position} at offset {offset:#x} has {count} digests of algorithm {algorithm:#06x}, one of {SHA384:#06x} expected"
    )]
    Digest {
        /// Position among the events, from 0.
        position: usize,
        /// Offset in the log.
        offset: usize,
        /// Number of digests.
        count: u32,
        /// Algorithm of the first digest.
        algorithm: u16,
    },
    /// The padding after the last event is not uniform, so something follows the end of the log.
    #[error("CC event log: the padding that begins at offset {offset:#x} is not uniform")]
    Padding {
        /// Offset in the log.
        offset: usize,
    },
    /// The log has more than [`MAX_EVENTS`] events.
    #[error("CC event log has more than {MAX_EVENTS} events")]
    TooManyEvents,
}

/// One event as the log states it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogEvent<'a> {
    /// Offset in the log.
    pub offset: usize,
    /// Register that the event claims to extend.
    pub rtmr: Rtmr,
    /// Type of the event; informative only.
    pub event_type: u32,
    /// Digest that the event claims to have extended.
    pub digest: [u8; 48],
    data: &'a [u8],
}

impl<'a> LogEvent<'a> {
    /// Returns the event's data if they hash to its digest. `None` means that the data prove nothing.
    #[must_use]
    pub fn hashed_data(&self) -> Option<&'a [u8]> {
        (Sha384::digest(self.data)[..] == self.digest).then_some(self.data)
    }

    /// Returns the event's data unchecked, for display only: the host can write anything here.
    #[must_use]
    pub const fn claimed_data(&self) -> &'a [u8] {
        self.data
    }
}

/// A parsed event log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventLog<'a> {
    events: Vec<LogEvent<'a>>,
}

impl<'a> EventLog<'a> {
    /// Parses a log with or without padding. Records that extend nothing (`EV_NO_ACTION`) are left out.
    ///
    /// # Errors
    /// [`CcelError`] when the log exceeds a limit, or its header, an event or the padding is malformed.
    pub fn parse(log: &'a [u8]) -> Result<Self, CcelError> {
        if log.len() > MAX_LOG {
            return Err(CcelError::TooLarge { length: log.len() });
        }
        let mut reader = Reader::new(STRUCTURE, log);
        header(&mut reader)?;
        let mut events = Vec::new();
        while !at_padding(log, &reader)? {
            if events.len() == MAX_EVENTS {
                return Err(CcelError::TooManyEvents);
            }
            events.extend(event(&mut reader, events.len())?);
        }
        Ok(Self { events })
    }

    /// Returns all events in log order.
    #[must_use]
    pub fn events(&self) -> &[LogEvent<'a>] {
        &self.events
    }

    /// Returns RTMR0 to RTMR3 after all events. The log is authentic only if the quote has the same values.
    #[must_use]
    pub fn replay(&self) -> [[u8; 48]; 4] {
        event::replay(self.events.iter().map(|event| (event.rtmr, &event.digest)))
    }
}

fn header(reader: &mut Reader<'_>) -> Result<(), CcelError> {
    let check = |offset, field, good| {
        if good {
            Ok(())
        } else {
            Err(CcelError::Header { field, offset })
        }
    };
    reader.u32()?; // register: unused
    let at = reader.offset();
    check(
        at,
        "the type of the first record",
        reader.u32()? == event_type::NO_ACTION,
    )?;
    reader.take(SHA1_LENGTH)?;
    let length = reader.size()?;
    let at = reader.offset();
    let mut spec = Reader::at("Spec ID event", reader.take(length)?, 0);
    check(at, "the signature", spec.array()? == SPEC_ID)?;
    spec.take(8)?; // platform class, version, size of UINTN
    check(at + 24, "the number of algorithms", spec.u32()? == 1)?;
    check(at + 28, "the algorithm", spec.u16()? == SHA384)?;
    check(at + 30, "the digest size", spec.u16()? == 48)
}

/// Returns whether the events end here, at the end of the log or at padding that fills the rest of it.
fn at_padding(log: &[u8], reader: &Reader<'_>) -> Result<bool, CcelError> {
    let offset = reader.offset();
    let rest = log.get(offset..).unwrap_or_default();
    let filler = match rest {
        [] => return Ok(true),
        [0xff, 0xff, 0xff, 0xff, ..] => 0xff,
        // A register index of zero is no runtime register's, so zeroes can only be padding.
        [0, 0, 0, 0, 0, 0, 0, 0, ..] => 0,
        [first, ..] if rest.len() < 8 && matches!(first, 0 | 0xff) => *first,
        _ => return Ok(false),
    };
    match rest.iter().all(|byte| *byte == filler) {
        true => Ok(true),
        false => Err(CcelError::Padding { offset }),
    }
}

fn event<'a>(reader: &mut Reader<'a>, position: usize) -> Result<Option<LogEvent<'a>>, CcelError> {
    let offset = reader.offset();
    let (index, event_type) = (reader.u32()?, reader.u32()?);
    let (count, algorithm) = (reader.u32()?, reader.u16()?);
    if count != 1 || algorithm != SHA384 {
        return Err(CcelError::Digest {
            position,
            offset,
            count,
            algorithm,
        });
    }
    let digest = reader.array()?;
    let length = reader.size()?;
    let data = reader.take(length)?;
    if event_type == event_type::NO_ACTION {
        return Ok(None);
    }
    let rtmr = match index {
        1 => Rtmr::Rtmr0,
        2 => Rtmr::Rtmr1,
        3 => Rtmr::Rtmr2,
        4 => Rtmr::Rtmr3,
        _ => {
            return Err(CcelError::Register {
                position,
                offset,
                index,
            });
        }
    };
    Ok(Some(LogEvent {
        offset,
        rtmr,
        event_type,
        digest,
        data,
    }))
}

#[cfg(test)]
mod tests;
