//! A GPU's attestation report: an SPDM 1.1 `GET_MEASUREMENTS` request and the `MEASUREMENTS` response to it (DMTF
//! DSP0274, sections 10.11.1 and 10.11.2), as NVIDIA's driver hands them out one behind the other.
//!
//! Nothing here verifies anything: [`Report::parse`] says what the bytes claim, and [`Report::transcript`] which of them
//! the signature covers.

use std::collections::BTreeMap;

use thiserror::Error;

/// The largest report read.
pub use cocoon_protocol::gpu::MAX_REPORT;

use super::opaque::{Opaque, OpaqueError};
use crate::{Truncated, bytes::Reader};

/// Bytes of the request.
pub const REQUEST_LENGTH: usize = 37;
/// Bytes of a signature: two numbers of P-384, big-endian.
pub const SIGNATURE_LENGTH: usize = 96;
/// Most measurement blocks.
pub const MAX_BLOCKS: u8 = 64;
/// Most bytes behind the signature: a published report has one. Nothing covers them, and nothing reads them.
const MAX_TRAILING: usize = 3;

const SPDM_1_1: u8 = 0x11;
const GET_MEASUREMENTS: u8 = 0xe0;
const MEASUREMENTS: u8 = 0x60;
/// `Param1` of the request: a signature is asked for.
const WITH_SIGNATURE: u8 = 1;
/// `Param2` of the request: of all measurements.
const ALL_MEASUREMENTS: u8 = 0xff;
/// `MeasurementSpecification`: DMTF's.
const DMTF: u8 = 1;
/// Bytes in front of a DMTF measurement's value: its type and length.
const VALUE_HEADER: usize = 3;

const REPORT: &str = "GPU report";
const RECORD: &str = "measurement record of the GPU report";

/// What a report claims.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report<'a> {
    /// The nonce of the request: whoever asked chose it.
    pub nonce: [u8; 32],
    /// The GPU's own random bytes in the response.
    pub response_nonce: [u8; 32],
    /// Measurements by the index of their block, from 1.
    pub measurements: BTreeMap<u8, &'a [u8]>,
    /// What else the GPU says of itself.
    pub opaque: Opaque,
    /// The bytes that the signature covers: request and response without the signature.
    pub transcript: &'a [u8],
    /// ECDSA on P-384 with SHA-384 over the transcript: r, then s.
    pub signature: [u8; SIGNATURE_LENGTH],
}

/// Why bytes are no report.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ReportError {
    /// Larger than any.
    #[error("GPU report has {length} bytes, more than {MAX_REPORT}")]
    TooLarge {
        /// Bytes given.
        length: usize,
    },
    /// It ends too early.
    #[error(transparent)]
    Truncated(#[from] Truncated),
    /// A field has a value that no report of this kind has.
    #[error("GPU report: {field} at offset {offset:#x} is {found:#x}, {expected} expected")]
    Field {
        /// Which field.
        field: &'static str,
        /// Where it stands.
        offset: usize,
        /// Its value.
        found: u64,
        /// What it must be.
        expected: &'static str,
    },
    /// Two blocks with one index.
    #[error(
        "GPU report: measurement {index} stands twice, again at offset {offset:#x} of its record"
    )]
    Repeated {
        /// The block's index.
        index: u8,
        /// Where the second one begins.
        offset: usize,
    },
    /// Bytes that belong to nothing.
    #[error("{structure} has {count} bytes too many behind offset {offset:#x}")]
    Trailing {
        /// Which structure.
        structure: &'static str,
        /// Where it should have ended.
        offset: usize,
        /// How many there are.
        count: usize,
    },
    /// The GPU's other statements.
    #[error(transparent)]
    Opaque(#[from] OpaqueError),
}

impl<'a> Report<'a> {
    /// Reads a report.
    ///
    /// # Errors
    /// [`ReportError`] says which field is wrong and where.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ReportError> {
        if bytes.len() > MAX_REPORT {
            return Err(ReportError::TooLarge {
                length: bytes.len(),
            });
        }
        let mut reader = Reader::new(REPORT, bytes);
        exact(&mut reader, "SPDM version of the request", SPDM_1_1, "0x11")?;
        exact(&mut reader, "request code", GET_MEASUREMENTS, "0xe0")?;
        exact(&mut reader, "request attributes", WITH_SIGNATURE, "1")?;
        exact(&mut reader, "request operation", ALL_MEASUREMENTS, "0xff")?;
        let nonce = reader.array()?;
        let [slot] = reader.array()?;
        field("slot", &reader, slot, slot < 8, "0 to 7")?;
        exact(
            &mut reader,
            "SPDM version of the response",
            SPDM_1_1,
            "0x11",
        )?;
        exact(&mut reader, "response code", MEASUREMENTS, "0x60")?;
        exact(&mut reader, "response Param1", 0, "0")?;
        exact(&mut reader, "response slot", slot, "the request's")?;
        let [blocks] = reader.array()?;
        let counted = (1..=MAX_BLOCKS).contains(&blocks);
        field(
            "number of measurements",
            &reader,
            blocks,
            counted,
            "1 to 64",
        )?;
        let [low, middle, high] = reader.array()?;
        let length = u32::from_le_bytes([low, middle, high, 0]) as usize;
        let measurements = record(reader.take(length)?, blocks)?;
        let response_nonce = reader.array()?;
        let length = usize::from(reader.u16()?);
        let opaque = Opaque::parse(reader.take(length)?)?;
        // Lossless: the reader never moves behind the end.
        let transcript = bytes.get(..reader.offset()).unwrap_or_default();
        let signature = reader.array()?;
        if reader.remaining() > MAX_TRAILING {
            return Err(ReportError::Trailing {
                structure: REPORT,
                offset: reader.offset(),
                count: reader.remaining(),
            });
        }
        Ok(Self {
            nonce,
            response_nonce,
            measurements,
            opaque,
            transcript,
            signature,
        })
    }
}

/// The measurement blocks, each with an index of its own.
fn record(bytes: &[u8], blocks: u8) -> Result<BTreeMap<u8, &[u8]>, ReportError> {
    let mut reader = Reader::new(RECORD, bytes);
    let mut measurements = BTreeMap::new();
    for _ in 0..blocks {
        let offset = reader.offset();
        let [index] = reader.array()?;
        let counted = (1..=MAX_BLOCKS).contains(&index);
        field("measurement index", &reader, index, counted, "1 to 64")?;
        exact(&mut reader, "measurement specification", DMTF, "1 (DMTF)")?;
        let size = usize::from(reader.u16()?);
        let mut block = Reader::new("measurement block of the GPU report", reader.take(size)?);
        // The type (firmware, configuration, …) decides nothing: reference values are compared by index.
        let [_kind] = block.array()?;
        let length = block.u16()?;
        if usize::from(length).checked_add(VALUE_HEADER) != Some(size) {
            return Err(ReportError::Field {
                field: "length of a measurement's value",
                offset: offset + 5,
                found: length.into(),
                expected: "three less than its block's size",
            });
        }
        let value = block.take(length.into())?;
        if measurements.insert(index, value).is_some() {
            return Err(ReportError::Repeated { index, offset });
        }
    }
    if reader.remaining() > 0 {
        return Err(ReportError::Trailing {
            structure: RECORD,
            offset: reader.offset(),
            count: reader.remaining(),
        });
    }
    Ok(measurements)
}

/// The next byte, which can have one value only.
fn exact(
    reader: &mut Reader<'_>,
    name: &'static str,
    value: u8,
    expected: &'static str,
) -> Result<(), ReportError> {
    let [found] = reader.array()?;
    field(name, reader, found, found == value, expected)
}

/// Refuses the byte `found` that was just read unless it is `good`.
fn field(
    name: &'static str,
    reader: &Reader<'_>,
    found: u8,
    good: bool,
    expected: &'static str,
) -> Result<(), ReportError> {
    if good {
        return Ok(());
    }
    Err(ReportError::Field {
        field: name,
        offset: reader.offset() - 1,
        found: found.into(),
        expected,
    })
}
