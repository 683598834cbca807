//! Filters an SMBIOS table as firmware does before it measures it: fields that identify a single machine are blanked.
//!
//! edk2 decides what is blanked (`MdeModulePkg/Universal/SmbiosMeasurementDxe`); DMTF's DSP0134 defines the structures.
//! Before stable202505 edk2 measures nothing of the table.

use thiserror::Error;

use crate::bytes::{Reader, Truncated};

/// Largest table accepted, in bytes. QEMU's has a few hundred bytes, and some more for each 16 GiB of memory.
pub const MAX_TABLE: usize = 1 << 20;

const STRUCTURE: &str = "SMBIOS table";
const HEADER: usize = 4;
const PROCESSOR: u8 = 4;
const PROCESSOR_ID: usize = 8;
const END_OF_TABLE: u8 = 127;
const FIRST_OEM: u8 = 128;

/// `CPUID.1` of the guest: EAX (family, model, stepping), then EDX (features), as the processor structures hold it.
///
/// With `-cpu host` it is the host's, so it is pinned per processor model and never read from an emulated machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProcessorId {
    /// EAX: family, model, stepping.
    pub signature: u32,
    /// EDX: features.
    pub features: u32,
}

/// Why a table cannot be measured.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SmbiosError {
    /// The table is larger than [`MAX_TABLE`].
    #[error("SMBIOS table has {length} bytes, more than {MAX_TABLE}")]
    TooLarge {
        /// Length of the table in bytes.
        length: usize,
    },
    /// The table ends within a structure, or without its end structure.
    #[error(transparent)]
    Truncated(#[from] Truncated),
    /// A structure contradicts itself.
    #[error("SMBIOS table: the structure of type {kind} at offset {offset:#x} {flaw}")]
    Structure {
        /// Type of the structure.
        kind: u8,
        /// Offset of the structure in the table.
        offset: usize,
        /// What is wrong.
        flaw: &'static str,
    },
    /// Bytes follow the end structure.
    #[error("SMBIOS table: {length} bytes follow its end at offset {offset:#x}")]
    Trailing {
        /// Offset at which the table ends.
        offset: usize,
        /// Number of bytes that follow.
        length: usize,
    },
}

/// Returns the bytes that are hashed for `table`, with `processor` in every processor structure.
///
/// # Errors
/// [`SmbiosError`] with the offset of what is wrong.
pub fn measured(table: &[u8], processor: ProcessorId) -> Result<Vec<u8>, SmbiosError> {
    if table.len() > MAX_TABLE {
        return Err(SmbiosError::TooLarge {
            length: table.len(),
        });
    }
    let mut measured = table.to_vec();
    let mut offset = 0;
    loop {
        let found = Structure::parse(table, offset)?;
        let rest = measured.get_mut(offset..).unwrap_or_default();
        if let Some(bytes) = rest.get_mut(..found.size) {
            if found.kind == PROCESSOR {
                set_processor(bytes, processor, &found)?;
            }
            filter(bytes, &found)?;
        }
        offset += found.size;
        if found.kind == END_OF_TABLE {
            break;
        }
    }
    match table.len() - offset {
        0 => Ok(measured),
        length => Err(SmbiosError::Trailing { offset, length }),
    }
}

/// One structure: its formatted part, its strings, and the two zeroes after them.
struct Structure {
    kind: u8,
    offset: usize,
    /// Length of the formatted part in bytes.
    length: usize,
    /// Length of the whole structure in bytes.
    size: usize,
}

impl Structure {
    fn parse(table: &[u8], offset: usize) -> Result<Self, SmbiosError> {
        let mut reader = Reader::at(STRUCTURE, table, offset);
        let [kind, length] = reader.array()?;
        let length = usize::from(length);
        if length < HEADER {
            return Err(SmbiosError::Structure {
                kind,
                offset,
                flaw: "is shorter than its header",
            });
        }
        let mut strings = Reader::at(STRUCTURE, table, offset + length);
        let rest = strings.remaining();
        let behind = table.get(offset + length..).unwrap_or_default();
        let end = behind.windows(2).position(|pair| pair == [0, 0]);
        // Without the two zeroes this asks for one byte more than is left: the error then says where the table ends.
        strings.take(end.map_or(rest + 1, |end| end + 2))?;
        Ok(Self {
            kind,
            offset,
            length,
            size: strings.offset() - offset,
        })
    }

    fn flaw(&self, flaw: &'static str) -> SmbiosError {
        SmbiosError::Structure {
            kind: self.kind,
            offset: self.offset,
            flaw,
        }
    }
}

fn set_processor(
    bytes: &mut [u8],
    processor: ProcessorId,
    found: &Structure,
) -> Result<(), SmbiosError> {
    if found.length < PROCESSOR_ID + 8 {
        return Err(found.flaw("has no processor id"));
    }
    let id = [processor.signature, processor.features].map(u32::to_le_bytes);
    for (to, from) in bytes.iter_mut().skip(PROCESSOR_ID).zip(id.concat()) {
        *to = from;
    }
    Ok(())
}

/// A blanked field: its offset, its size, and whether it is the number of a string that is blanked too.
type Field = (usize, usize, bool);

/// Returns the fields that are blanked in structures of `kind`; `None` stands for everything after the header.
fn blanked(kind: u8) -> Option<&'static [Field]> {
    Some(match kind {
        1 => &[(0x07, 1, true), (0x08, 16, false), (0x18, 1, false)],
        2 => &[(0x07, 1, true), (0x0a, 1, true)],
        3 => &[(0x07, 1, true), (0x08, 1, true)],
        4 => &[
            // Current speed: blanked by edk2 2026.08; it is not known which release began with it.
            (0x16, 2, false),
            (0x20, 1, true),
            (0x21, 1, true),
            (0x22, 1, true),
            (0x23, 1, false),
            (0x24, 1, false),
            (0x25, 1, false),
            (0x2a, 2, false),
            (0x2c, 2, false),
            (0x2e, 2, false),
            (0x11, 1, false),
        ],
        17 => &[(0x18, 1, true), (0x19, 1, true), (0x1a, 1, true)],
        22 => &[(0x07, 1, true), (0x10, 2, false), (0x12, 2, false)],
        23 => &[(0x05, 2, false)],
        27 => &[(0x0c, 2, false)],
        39 => &[(0x08, 1, true), (0x09, 1, true), (0x0a, 1, true)],
        11 | 15 | 18 | 31 | 33 | FIRST_OEM.. => return None,
        _ => &[],
    })
}

fn filter(bytes: &mut [u8], found: &Structure) -> Result<(), SmbiosError> {
    let Some(fields) = blanked(found.kind) else {
        bytes.iter_mut().skip(HEADER).for_each(|byte| *byte = 0);
        return Ok(());
    };
    for &(at, size, is_string) in fields {
        if at + size > found.length {
            continue;
        }
        let (formatted, strings) = bytes.split_at_mut(found.length);
        let Some(field) = formatted.get_mut(at..at + size) else {
            continue;
        };
        let number = field.first().map_or(0, |number| usize::from(*number));
        if is_string && number != 0 {
            // The firmware takes a number beyond the last string for the last one.
            let texts = strings.split_mut(|byte| *byte == 0);
            let text = texts.filter(|text| !text.is_empty()).take(number).last();
            text.ok_or_else(|| found.flaw("names a string and has none"))?
                .fill(b' ');
        }
        field.fill(0);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
