//! A GPU's attestation report: an SPDM 1.1 `GET_MEASUREMENTS` request followed by its `MEASUREMENTS` response (DMTF DSP0274,
//! sections 10.11.1 and 10.11.2), as NVIDIA's driver returns them.
//!
//! This module verifies nothing. [`Report::parse`] decodes the claims, and [`Report::transcript`] holds the bytes that the
//! signature covers.

use std::collections::BTreeMap;

use thiserror::Error;

/// Largest report that is read, in bytes.
pub use cocoon_protocol::gpu::MAX_REPORT;

use super::opaque::{Opaque, OpaqueError};
use crate::{Truncated, bytes::Reader};

/// Length of the request in bytes.
pub const REQUEST_LENGTH: usize = 37;
/// Length of a signature in bytes: two big-endian P-384 scalars.
pub const SIGNATURE_LENGTH: usize = 96;
/// Largest number of measurement blocks.
pub const MAX_BLOCKS: u8 = 64;
/// Largest number of bytes after the signature. A published report has one. They are neither signed nor read.
const MAX_TRAILING: usize = 3;

const SPDM_1_1: u8 = 0x11;
const GET_MEASUREMENTS: u8 = 0xe0;
const MEASUREMENTS: u8 = 0x60;
/// `Param1` of the request: a signature is requested.
const WITH_SIGNATURE: u8 = 1;
/// `Param2` of the request: all measurements are requested.
const ALL_MEASUREMENTS: u8 = 0xff;
/// `MeasurementSpecification`: DMTF.
const DMTF: u8 = 1;
/// Length in bytes of a DMTF measurement's header: type and size of the value.
const VALUE_HEADER: usize = 3;

const REPORT: &str = "GPU report";
const RECORD: &str = "measurement record of the GPU report";

/// A decoded report, not verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report<'a> {
    /// Nonce of the request, chosen by the requester.
    pub nonce: [u8; 32],
    /// Random nonce of the response, chosen by the GPU.
    pub response_nonce: [u8; 32],
    /// Values of the measurements by the index of their block, from 1.
    pub measurements: BTreeMap<u8, &'a [u8]>,
    /// Further claims of the GPU: versions, board and mode.
    pub opaque: Opaque,
    /// The signed bytes: request and response without the signature.
    pub transcript: &'a [u8],
    /// ECDSA signature on P-384 with SHA-384 over the transcript: r, then s.
    pub signature: [u8; SIGNATURE_LENGTH],
}

/// Why a report is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ReportError {
    /// The report is larger than the limit.
    #[error("GPU report has {length} bytes, more than {MAX_REPORT}")]
    TooLarge {
        /// Size in bytes.
        length: usize,
    },
    /// The report ends early.
    #[error(transparent)]
    Truncated(#[from] Truncated),
    /// A field has an invalid value.
    #[error("GPU report: {field} at offset {offset:#x} is {found:#x}, {expected} expected")]
    Field {
        /// Name of the field.
        field: &'static str,
        /// Offset of the field.
        offset: usize,
        /// Value of the field.
        found: u64,
        /// Description of the valid values.
        expected: &'static str,
    },
    /// Two measurement blocks have the same index.
    #[error(
        "GPU report: measurement {index} stands twice, again at offset {offset:#x} of its record"
    )]
    Repeated {
        /// Index of the block.
        index: u8,
        /// Offset of the second block.
        offset: usize,
    },
    /// Extra bytes follow a structure.
    #[error("{structure} has {count} bytes too many behind offset {offset:#x}")]
    Trailing {
        /// Name of the structure.
        structure: &'static str,
        /// Offset at which it should have ended.
        offset: usize,
        /// Number of extra bytes.
        count: usize,
    },
    /// The opaque data is refused.
    #[error(transparent)]
    Opaque(#[from] OpaqueError),
}

impl<'a> Report<'a> {
    /// Decodes a report.
    ///
    /// # Errors
    /// [`ReportError`] names the field that is refused, with its offset.
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
        // The reader's offset is never beyond the end, so that the default is not used.
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

/// Decodes the measurement blocks, each of which must have a different index.
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
        // The type (firmware, configuration, …) is ignored: reference values are compared by index.
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

/// Reads one byte, which must be `value`.
fn exact(
    reader: &mut Reader<'_>,
    name: &'static str,
    value: u8,
    expected: &'static str,
) -> Result<(), ReportError> {
    let [found] = reader.array()?;
    field(name, reader, found, found == value, expected)
}

/// Refuses the byte `found`, which was read last, unless it is `good`.
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
