//! Parses TDVF metadata: where the parts of a TDX firmware image go in memory, and which of them are measured.
//!
//! Format: Intel TDX Virtual Firmware Design Guide 344991, section 11. The loader (QEMU) trusts this table, so a prediction
//! is only as good as our reading of it. Anything that a loader could read in two ways is refused.

use thiserror::Error;

use crate::{
    bytes::{Reader, Truncated},
    guid::Guid,
    guid_table::{GuidTable, GuidTableError},
};

/// Entry of the firmware's GUID table that holds the descriptor's distance from the end of the image.
pub const METADATA_OFFSET: Guid = Guid::parse("e47a6535-984a-4798-865e-4685a7bf8ec2");

/// Section attribute: the pages' content is extended into MRTD.
pub const ATTRIBUTE_EXTEND: u32 = 1;
/// Section attribute: the pages are added later, by `TDH.MEM.PAGE.AUG`, and are not measured at all.
pub const ATTRIBUTE_AUG: u32 = 2;
/// Size in bytes of a page, the unit in which memory is added.
pub const PAGE: u64 = 4096;

const STRUCTURE: &str = "TDVF descriptor";
const SIGNATURE: [u8; 4] = *b"TDVF";
const VERSION: u32 = 1;
const HEADER: usize = 16;
const SECTION: usize = 32;
const MAX_SECTIONS: usize = 32;
/// Largest memory in bytes that all sections add before the start, which bounds the work of MRTD. Real firmware has 4 to 5
/// MiB.
const MAX_ADDED: u64 = 64 << 20;

/// Purpose of a section.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SectionKind {
    /// Boot firmware volume: the code.
    Bfv,
    /// Configuration firmware volume: the variable store. OVMF leaves it out of MRTD and measures it into RTMR0.
    Cfv,
    /// Memory for the hand-off blocks, in which the loader describes memory.
    TdHob,
    /// Zeroed memory for the firmware's early work.
    TempMem,
    /// Permanent memory.
    PermMem,
    /// A payload loaded with the firmware.
    Payload,
    /// The payload's parameters.
    PayloadParam,
}

/// One section of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Section {
    /// Offset of the section's bytes in the image.
    pub data_offset: usize,
    /// Number of bytes in the image; the rest of the memory is zero.
    pub raw_size: usize,
    /// Guest-physical address, a multiple of [`PAGE`].
    pub address: u64,
    /// Size of the memory in bytes, a multiple of [`PAGE`].
    pub memory_size: u64,
    /// Purpose of the section.
    pub kind: SectionKind,
    /// Any of [`ATTRIBUTE_EXTEND`] and [`ATTRIBUTE_AUG`].
    pub attributes: u32,
}

/// Why a firmware's TDX metadata are refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TdvfError {
    /// The table that locates the metadata is malformed.
    #[error("cannot find TDX metadata")]
    Table(#[from] GuidTableError),
    /// The image was not built for TDX.
    #[error(
        "firmware has no TDX metadata (GUID {METADATA_OFFSET}); use an image built from edk2's IntelTdx platform"
    )]
    NotTdx,
    /// The descriptor or a section descriptor ends early.
    #[error(transparent)]
    Truncated(#[from] Truncated),
    /// A field has an unsupported value.
    #[error("TDVF descriptor at offset {offset:#x}: {field} is {found:#x}, expected {expected:#x}")]
    Field {
        /// Name of the field.
        field: &'static str,
        /// Offset of the descriptor in the image.
        offset: usize,
        /// Value found.
        found: u32,
        /// Value supported.
        expected: u32,
    },
    /// The table has no section, or more than any firmware has.
    #[error(
        "TDVF descriptor at offset {offset:#x} has {count} sections, 1 to {MAX_SECTIONS} expected"
    )]
    SectionCount {
        /// Offset of the descriptor in the image.
        offset: usize,
        /// Number of sections claimed.
        count: u32,
    },
    /// A section contradicts itself or the image.
    #[error("TDVF section {index} at offset {offset:#x}: {reason}")]
    Section {
        /// Position in the table.
        index: usize,
        /// Offset of the section descriptor in the image.
        offset: usize,
        /// What is wrong.
        reason: &'static str,
    },
    /// Two sections claim the same memory.
    #[error("TDVF sections {first} and {second} overlap in memory")]
    Overlap {
        /// Position of the first section in the table.
        first: usize,
        /// Position of the second section in the table.
        second: usize,
    },
    /// The loader needs exactly one `TdHob`, at least one `Bfv`, and at most one `Cfv`.
    #[error("TDVF descriptor has {count} {kind:?} sections")]
    KindCount {
        /// Kind of the sections.
        kind: SectionKind,
        /// Number of sections of this kind.
        count: usize,
    },
}

/// A firmware image with validated TDX metadata.
#[derive(Debug, Clone)]
pub struct Tdvf<'a> {
    firmware: &'a [u8],
    sections: Vec<Section>,
}

impl<'a> Tdvf<'a> {
    /// Parses and validates the metadata of `firmware`: bounds, alignment, overlap, number of sections of each kind.
    ///
    /// # Errors
    /// [`TdvfError`] with the offending sections or the offset.
    pub fn parse(firmware: &'a [u8]) -> Result<Self, TdvfError> {
        let table = GuidTable::parse(firmware)?;
        let entry = table.get(METADATA_OFFSET).ok_or(TdvfError::NotTdx)?;
        let distance = Reader::new("TDX metadata offset", entry).size()?;
        // A distance larger than the image is reported as a descriptor at the image's end.
        let offset = firmware
            .len()
            .checked_sub(distance)
            .unwrap_or(firmware.len());
        let mut reader = Reader::at(STRUCTURE, firmware, offset);
        let sections = sections(firmware, &mut reader, offset)?;
        check_overlap(&sections)?;
        check_kinds(&sections)?;
        Ok(Self { firmware, sections })
    }

    /// Returns the sections in the order of the table, which is the order of measurement.
    #[must_use]
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// Returns the bytes that the image holds for `section` (of this image), without the zeroes after them.
    #[must_use]
    pub fn data(&self, section: &Section) -> &'a [u8] {
        let end = section.data_offset.saturating_add(section.raw_size);
        self.firmware
            .get(section.data_offset..end)
            .unwrap_or_default()
    }

    /// Returns the section with the variable store, if the firmware has one.
    #[must_use]
    pub fn configuration_volume(&self) -> Option<&Section> {
        self.sections
            .iter()
            .find(|section| section.kind == SectionKind::Cfv)
    }

    /// Returns the section for the hand-off blocks. Every accepted firmware has exactly one.
    #[must_use]
    pub fn hob_section(&self) -> Option<&Section> {
        self.sections
            .iter()
            .find(|section| section.kind == SectionKind::TdHob)
    }
}

fn sections(
    firmware: &[u8],
    reader: &mut Reader<'_>,
    offset: usize,
) -> Result<Vec<Section>, TdvfError> {
    let field = |field, found, expected| match found == expected {
        true => Ok(()),
        false => Err(TdvfError::Field {
            field,
            offset,
            found,
            expected,
        }),
    };
    field(
        "signature",
        u32::from_le_bytes(reader.array()?),
        u32::from_le_bytes(SIGNATURE),
    )?;
    let length = reader.u32()?;
    field("version", reader.u32()?, VERSION)?;
    let count = reader.u32()?;
    if count == 0 || count as usize > MAX_SECTIONS {
        return Err(TdvfError::SectionCount { offset, count });
    }
    // Fits: at most 16 + 32 * 32.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "bounded by MAX_SECTIONS just above"
    )]
    field("length", length, (HEADER + SECTION * count as usize) as u32)?;
    let mut added = 0_u64;
    (0..count as usize)
        .map(|index| {
            let at = reader.offset();
            let section = section(firmware, reader).map_err(|reason| reason.at(index, at))?;
            if section.attributes & ATTRIBUTE_AUG == 0 {
                added = added.saturating_add(section.memory_size);
            }
            match added > MAX_ADDED {
                true => Err(Flaw::Is("the sections together claim more than 64 MiB").at(index, at)),
                false => Ok(section),
            }
        })
        .collect()
}

enum Flaw {
    Is(&'static str),
    Truncated(Truncated),
}

impl Flaw {
    fn at(self, index: usize, offset: usize) -> TdvfError {
        match self {
            Self::Is(reason) => TdvfError::Section {
                index,
                offset,
                reason,
            },
            Self::Truncated(truncated) => truncated.into(),
        }
    }
}

impl From<Truncated> for Flaw {
    fn from(truncated: Truncated) -> Self {
        Self::Truncated(truncated)
    }
}

fn section(firmware: &[u8], reader: &mut Reader<'_>) -> Result<Section, Flaw> {
    let (data_offset, raw_size) = (reader.size()?, reader.size()?);
    let (address, memory_size) = (reader.u64()?, reader.u64()?);
    let kind = match reader.u32()? {
        0 => SectionKind::Bfv,
        1 => SectionKind::Cfv,
        2 => SectionKind::TdHob,
        3 => SectionKind::TempMem,
        4 => SectionKind::PermMem,
        5 => SectionKind::Payload,
        6 => SectionKind::PayloadParam,
        _ => return Err(Flaw::Is("its type is unknown")),
    };
    let attributes = reader.u32()?;
    let ends = (
        data_offset.checked_add(raw_size),
        address.checked_add(memory_size),
    );
    let needs_data = matches!(kind, SectionKind::Bfv | SectionKind::Cfv);
    let no_data = matches!(kind, SectionKind::TdHob | SectionKind::TempMem);
    let extend = attributes & ATTRIBUTE_EXTEND != 0;
    let reason = match ends {
        (None, _) => "its data lie outside the image",
        (Some(end), _) if end > firmware.len() => "its data lie outside the image",
        (_, None) => "its memory wraps around",
        _ if !address.is_multiple_of(PAGE) || !memory_size.is_multiple_of(PAGE) => {
            "its memory is not made of whole pages"
        }
        _ if memory_size == 0 => "it has no memory",
        _ if raw_size as u64 > memory_size => "its data are larger than its memory",
        _ if needs_data && raw_size == 0 => "a firmware volume without data",
        _ if no_data && raw_size != 0 => "working memory with data",
        _ if attributes & !(ATTRIBUTE_EXTEND | ATTRIBUTE_AUG) != 0 => "it has unknown attributes",
        _ if extend && attributes & ATTRIBUTE_AUG != 0 => "memory added later cannot be measured",
        _ => {
            return Ok(Section {
                data_offset,
                raw_size,
                address,
                memory_size,
                kind,
                attributes,
            });
        }
    };
    Err(Flaw::Is(reason))
}

fn check_overlap(sections: &[Section]) -> Result<(), TdvfError> {
    for (second, b) in sections.iter().enumerate() {
        for (first, a) in sections.iter().enumerate().take(second) {
            // The ends do not wrap, as checked when the sections were read.
            if a.address < b.address + b.memory_size && b.address < a.address + a.memory_size {
                return Err(TdvfError::Overlap { first, second });
            }
        }
    }
    Ok(())
}

fn check_kinds(sections: &[Section]) -> Result<(), TdvfError> {
    let bounds = [
        (SectionKind::Bfv, 1..=MAX_SECTIONS),
        (SectionKind::TdHob, 1..=1),
        (SectionKind::Cfv, 0..=1),
    ];
    for (kind, allowed) in bounds {
        let count = sections
            .iter()
            .filter(|section| section.kind == kind)
            .count();
        if !allowed.contains(&count) {
            return Err(TdvfError::KindCount { kind, count });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
