//! The CC event log (ACPI table CCEL): parsed within bounds, replayed into registers, compared with a prediction.
//!
//! Format: TCG PC Client Platform Firmware Profile, crypto-agile log with one SHA-384 digest per event; the register
//! index is RTMR + 1 (Intel TDX Guest-Hypervisor Communication Interface, "CCEL"). The log is the host's word until
//! its replay equals the quote's registers, and even then an event's *data* are only a claim: they count when they
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

/// The largest log accepted; OVMF reserves 64 KiB.
pub const MAX_LOG: usize = 1 << 20;
/// More events than any boot we know has, by a factor of twenty.
pub const MAX_EVENTS: usize = 1024;

const STRUCTURE: &str = "CC event log";
const SHA384: u16 = 0x000c;
const SHA1_LENGTH: usize = 20;
const SPEC_ID: [u8; 16] = *b"Spec ID Event03\0";

/// Why a log cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CcelError {
    /// The log is larger than any.
    #[error("CC event log has {length} bytes, more than {MAX_LOG}")]
    TooLarge {
        /// Bytes given.
        length: usize,
    },
    /// The log ends within an event.
    #[error(transparent)]
    Truncated(#[from] Truncated),
    /// The first record does not announce a log of SHA-384 digests alone.
    #[error(
        "CC event log: {field} at offset {offset:#x} is not that of a log with SHA-384 digests alone"
    )]
    Header {
        /// The field.
        field: &'static str,
        /// Offset in the log.
        offset: usize,
    },
    /// An event extends no runtime register.
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
    /// An event has other digests than one SHA-384.
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
        /// Algorithm of the first.
        algorithm: u16,
    },
    /// Something stands behind the end of the log.
    #[error("CC event log: the padding that begins at offset {offset:#x} is not uniform")]
    Padding {
        /// Offset in the log.
        offset: usize,
    },
    /// More events than any boot has.
    #[error("CC event log has more than {MAX_EVENTS} events")]
    TooManyEvents,
}

/// One event as the log tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogEvent<'a> {
    /// Offset in the log.
    pub offset: usize,
    /// The register that it claims to extend.
    pub rtmr: Rtmr,
    /// Its type: informative.
    pub event_type: u32,
    /// What it claims to extend.
    pub digest: [u8; 48],
    data: &'a [u8],
}

impl<'a> LogEvent<'a> {
    /// The event's data, if they are what was hashed; `None` says that they prove nothing.
    #[must_use]
    pub fn hashed_data(&self) -> Option<&'a [u8]> {
        (Sha384::digest(self.data)[..] == self.digest).then_some(self.data)
    }

    /// The event's data, whatever they are worth: the host can write here what it likes. For display only.
    #[must_use]
    pub const fn claimed_data(&self) -> &'a [u8] {
        self.data
    }
}

/// A log whose structure is sound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventLog<'a> {
    events: Vec<LogEvent<'a>>,
}

impl<'a> EventLog<'a> {
    /// Parses a log with or without padding. Records that extend nothing (`EV_NO_ACTION`) are left out.
    ///
    /// # Errors
    /// [`CcelError`] with the offset of what is wrong.
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

    /// All events, in the log's order.
    #[must_use]
    pub fn events(&self) -> &[LogEvent<'a>] {
        &self.events
    }

    /// RTMR0 to RTMR3 as these events leave them. The log is true only if a quote has the same values.
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

/// Whether the events end here, because the log does or because only padding follows.
fn at_padding(log: &[u8], reader: &Reader<'_>) -> Result<bool, CcelError> {
    let offset = reader.offset();
    let rest = log.get(offset..).unwrap_or_default();
    let filler = match rest {
        [] => return Ok(true),
        [0xff, 0xff, 0xff, 0xff, ..] => 0xff,
        // A register index of zero never extends a runtime register, so zeroes can only be filler.
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
