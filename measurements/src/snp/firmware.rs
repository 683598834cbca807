//! OVMF's SEV metadata: the memory that is measured before the first instruction, and where processors start.

use sha2::{Digest, Sha384};
use thiserror::Error;

use super::launch::{Page, extend_page};
use crate::{
    bytes::{Reader, Truncated},
    guid::Guid,
    guid_table::{GuidTable, GuidTableError},
};

/// GUID table entry with the distance of the metadata from the end of the image.
pub const METADATA_OFFSET: Guid = Guid::parse("dc886566-984a-4798-a75e-5585a7bf67cc");
/// GUID table entry with address and size of the kernel hash table.
pub const HASH_TABLE: Guid = Guid::parse("7255371f-3a3b-4b04-927b-1da6efa8d454");
/// GUID table entry with the start address of all processors but the first.
pub const RESET_BLOCK: Guid = Guid::parse("00f771de-1a7e-4fcb-890e-68c77e2fb44e");

const PAGE: usize = 4096;
const FOUR_GIB: u64 = 1 << 32;
const STRUCTURE: &str = "SEV metadata";
const MAX_SECTIONS: u32 = 32;
/// Largest size of all sections together, in bytes. OVMF's have less than 1 MiB.
const MAX_MEMORY: u64 = 64 << 20;

/// Purpose of a section.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SectionKind {
    /// Zeroed memory for the early phases of the firmware.
    SecMem,
    /// The page in which the secure processor stores the guest's keys.
    Secrets,
    /// The page with CPUID values, which the secure processor checks.
    Cpuid,
    /// Zeroed calling area of the secure VM service module (SVSM).
    SvsmCallingArea,
    /// The page with the hashes of kernel, initrd and command line.
    KernelHashes,
}

/// A section of guest memory in the metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Section {
    /// Guest-physical address, page-aligned.
    pub address: u64,
    /// Length in bytes, a multiple of the page size.
    pub length: u64,
    /// Purpose of the section.
    pub kind: SectionKind,
}

/// The parts of a launch digest that depend on the firmware image only. They serve any kernel and any processors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnpFirmware {
    /// Launch digest after the pages of the image.
    pub digest: [u8; 48],
    /// Sections in the order in which they are measured.
    pub sections: Vec<Section>,
    /// Guest-physical address of the kernel hash table; `None` if the firmware does not check the hashes.
    pub hash_table: Option<u64>,
    /// Instruction pointer at which all processors but the first start.
    pub reset_eip: u32,
}

/// Why a firmware image is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SnpFirmwareError {
    /// The GUID table that leads to the metadata is malformed.
    #[error("cannot find SEV metadata")]
    Table(#[from] GuidTableError),
    /// The image was not built for SEV-SNP.
    #[error(
        "firmware has no {entry} (GUID {guid}); use an image built from edk2's AmdSev platform"
    )]
    NotSnp {
        /// Name of the missing entry.
        entry: &'static str,
        /// GUID of the missing entry.
        guid: Guid,
    },
    /// The size of the image is not a multiple of the page size.
    #[error("firmware has {length} bytes, which are not whole pages")]
    Size {
        /// Size in bytes.
        length: usize,
    },
    /// A structure ends early.
    #[error(transparent)]
    Truncated(#[from] Truncated),
    /// A field of the descriptor has an invalid value.
    #[error("SEV metadata at offset {offset:#x}: {field} is {found:#x}")]
    Field {
        /// Name of the field.
        field: &'static str,
        /// Offset of the descriptor in the image.
        offset: usize,
        /// Value found.
        found: u32,
    },
    /// A section is invalid, or conflicts with another.
    #[error("SEV metadata: section {index} at offset {offset:#x}: {reason}")]
    Section {
        /// Index of the section in the metadata.
        index: usize,
        /// Offset of the section in the image.
        offset: usize,
        /// Description of the fault.
        reason: &'static str,
    },
}

impl SnpFirmware {
    /// Decodes the metadata of `firmware` and measures its pages.
    ///
    /// # Errors
    /// [`SnpFirmwareError`] names structure and offset of the fault.
    pub fn parse(firmware: &[u8]) -> Result<Self, SnpFirmwareError> {
        let table = GuidTable::parse(firmware)?;
        if !firmware.len().is_multiple_of(PAGE) {
            return Err(SnpFirmwareError::Size {
                length: firmware.len(),
            });
        }
        let entry = |entry, guid| {
            table
                .get(guid)
                .ok_or(SnpFirmwareError::NotSnp { entry, guid })
        };
        let reset_eip =
            Reader::new("SEV-ES reset block", entry("reset block", RESET_BLOCK)?).u32()?;
        let hash_table = match table.get(HASH_TABLE) {
            // Address zero means that this build does not check hashes.
            Some(bytes) => Some(u64::from(
                Reader::new("kernel hash table entry", bytes).u32()?,
            ))
            .filter(|gpa| *gpa != 0),
            None => None,
        };
        let distance = Reader::new(
            "SEV metadata offset",
            entry("SEV metadata", METADATA_OFFSET)?,
        )
        .size()?;
        let offset = firmware
            .len()
            .checked_sub(distance)
            .unwrap_or(firmware.len());
        let sections = sections(firmware, offset)?;
        Ok(Self {
            digest: pages_digest(firmware),
            sections,
            hash_table,
            reset_eip,
        })
    }

    /// Returns the section for the kernel hashes.
    #[must_use]
    pub fn kernel_hashes(&self) -> Option<&Section> {
        self.sections
            .iter()
            .find(|section| section.kind == SectionKind::KernelHashes)
    }
}

fn pages_digest(firmware: &[u8]) -> [u8; 48] {
    let mut address = FOUR_GIB - firmware.len() as u64;
    let mut digest = [0; 48];
    for page in firmware.chunks_exact(PAGE) {
        digest = extend_page(&digest, Page::Normal(&Sha384::digest(page).into()), address);
        address += PAGE as u64;
    }
    digest
}

fn sections(firmware: &[u8], offset: usize) -> Result<Vec<Section>, SnpFirmwareError> {
    let mut reader = Reader::at(STRUCTURE, firmware, offset);
    let field = |field, found, good| {
        if good {
            Ok(())
        } else {
            Err(SnpFirmwareError::Field {
                field,
                offset,
                found,
            })
        }
    };
    let signature = reader.array()?;
    field(
        "signature",
        u32::from_le_bytes(signature),
        signature == *b"ASEV",
    )?;
    let length = reader.u32()?;
    let version = reader.u32()?;
    field("version", version, version == 1)?;
    let count = reader.u32()?;
    field(
        "number of sections",
        count,
        (1..=MAX_SECTIONS).contains(&count),
    )?;
    field("length", length, length == 16 + 12 * count)?;
    let mut sections: Vec<Section> = Vec::new();
    for index in 0..count as usize {
        let offset = reader.offset();
        let (address, length) = (reader.u32()?.into(), reader.u32()?.into());
        let kind = reader.u32()?;
        let checked = section(address, length, kind, &sections);
        sections.push(checked.map_err(|reason| SnpFirmwareError::Section {
            index,
            offset,
            reason,
        })?);
    }
    Ok(sections)
}

fn section(
    address: u64,
    length: u64,
    kind: u32,
    before: &[Section],
) -> Result<Section, &'static str> {
    let kind = match kind {
        1 => SectionKind::SecMem,
        2 => SectionKind::Secrets,
        3 => SectionKind::Cpuid,
        4 => SectionKind::SvsmCallingArea,
        0x10 => SectionKind::KernelHashes,
        _ => return Err("its type is unknown"),
    };
    let page = PAGE as u64;
    let zeroed = matches!(kind, SectionKind::SecMem | SectionKind::SvsmCallingArea);
    let total: u64 = before.iter().map(|section| section.length).sum();
    match () {
        () if !address.is_multiple_of(page) || !length.is_multiple_of(page) => {
            Err("it is not made of whole pages")
        }
        () if length == 0 => Err("it is empty"),
        () if !zeroed && length != page => Err("it is not one page"),
        () if !zeroed && before.iter().any(|other| other.kind == kind) => {
            Err("it is the second of its kind")
        }
        () if total + length > MAX_MEMORY => Err("the sections together claim more than 64 MiB"),
        () if before
            .iter()
            .any(|o| address < o.address + o.length && o.address < address + length) =>
        {
            Err("it overlaps another")
        }
        () => Ok(Section {
            address,
            length,
            kind,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::{METADATA_OFFSET, RESET_BLOCK, SnpFirmware, SnpFirmwareError};
    use crate::{snp::launch::tests::firmware, test_firmware::Firmware};

    fn refuse(change: impl FnOnce(&mut Firmware)) -> SnpFirmwareError {
        let mut firmware = firmware();
        change(&mut firmware);
        SnpFirmware::parse(&firmware.build()).unwrap_err()
    }

    #[test]
    fn sections_that_contradict_themselves_are_named() {
        type Change = fn(&mut Firmware);
        let cases: [(&str, Change); 6] = [
            ("its type is unknown", |f| f.sev[1].2 = 7),
            ("it is not made of whole pages", |f| f.sev[1].0 += 1),
            ("it is empty", |f| f.sev[1].1 = 0),
            ("it is not one page", |f| f.sev[1].1 = 8192),
            ("it overlaps another", |f| f.sev[1].0 = f.sev[0].0),
            ("it is the second of its kind", |f| {
                f.sev.insert(1, (0x70_0000, 4096, 2))
            }),
        ];
        for (expected, change) in cases {
            let error = refuse(change);
            assert!(
                matches!(error, SnpFirmwareError::Section { reason, .. } if reason == expected),
                "{error}"
            );
        }
    }

    #[test]
    fn missing_entries_are_named() {
        let reset = refuse(|f| f.entries.clear());
        assert_eq!(
            reset,
            SnpFirmwareError::NotSnp {
                entry: "reset block",
                guid: RESET_BLOCK
            }
        );
        let metadata = refuse(|f| f.sev.clear());
        assert_eq!(
            metadata,
            SnpFirmwareError::NotSnp {
                entry: "SEV metadata",
                guid: METADATA_OFFSET
            }
        );
        assert_eq!(
            refuse(|f| f.size += 1),
            SnpFirmwareError::Size { length: 16385 }
        );
    }
}
