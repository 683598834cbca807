//! Parses the GUIDed table near the end of an OVMF image, which locates the TDX and SEV metadata.
//!
//! The table ends 32 bytes before the image does and is read backwards. Each entry is its data, a `u16` length (of data,
//! length and GUID together) and a GUID (edk2, `OvmfPkg/ResetVector/Ia16/ResetVectorVtf0.asm`).

use thiserror::Error;

use crate::{
    bytes::{Reader, Truncated},
    guid::Guid,
};

/// GUID of the entry that closes the table.
pub const FOOTER: Guid = Guid::parse("96b582de-1fb2-45f7-baea-a366c55a082d");

/// Largest firmware image accepted, in bytes. OVMF has 2 to 4 MiB; QEMU maps at most 8 MiB below 4 GiB by default.
pub const MAX_FIRMWARE: usize = 16 << 20;

const BEHIND_TABLE: usize = 32;
const ENTRY_HEADER: usize = 18;
/// Most entries accepted, which bounds the work on a hostile image. OVMF has about ten.
const MAX_ENTRIES: usize = 64;
const STRUCTURE: &str = "firmware GUID table";

/// Why the table of a firmware image cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum GuidTableError {
    /// The image is larger than [`MAX_FIRMWARE`].
    #[error("firmware has {length} bytes, more than {MAX_FIRMWARE}: this is not an OVMF image")]
    TooLarge {
        /// Length of the image in bytes.
        length: usize,
    },
    /// The footer GUID is not where it must be.
    #[error(
        "firmware has no GUID table: {FOOTER} expected at offset {offset:#x}; use an OVMF image built for TDX or SEV"
    )]
    NoFooter {
        /// Offset at which the footer GUID must be.
        offset: usize,
    },
    /// An entry's length is smaller than its own header, or reaches out of the table.
    #[error(
        "firmware GUID table: the entry whose length is at offset {offset:#x} has an impossible length {length}"
    )]
    EntryLength {
        /// Offset of the length field in the image.
        offset: usize,
        /// The length found.
        length: u16,
    },
    /// A GUID appears twice: which entry a loader would use is undefined.
    #[error("firmware GUID table: {guid} appears again at offset {offset:#x}")]
    Duplicate {
        /// The GUID.
        guid: Guid,
        /// Offset of the second entry's GUID.
        offset: usize,
    },
    /// The table has more entries than any real firmware.
    #[error("firmware GUID table has more than {MAX_ENTRIES} entries")]
    TooManyEntries,
    /// The image is shorter than the table claims.
    #[error(transparent)]
    Truncated(#[from] Truncated),
}

/// The entries of a firmware image's table.
#[derive(Debug, Clone)]
pub struct GuidTable<'a> {
    entries: Vec<(Guid, &'a [u8])>,
}

impl<'a> GuidTable<'a> {
    /// Parses the table of `firmware`: at most 64 entries, none of which may reach out of the table.
    ///
    /// # Errors
    /// [`GuidTableError`] when the image is too large or its table is malformed.
    pub fn parse(firmware: &'a [u8]) -> Result<Self, GuidTableError> {
        if firmware.len() > MAX_FIRMWARE {
            return Err(GuidTableError::TooLarge {
                length: firmware.len(),
            });
        }
        let end = firmware.len().saturating_sub(BEHIND_TABLE);
        let footer = end.saturating_sub(ENTRY_HEADER);
        let (table_length, guid) = entry_header(firmware, footer)?;
        if guid != FOOTER {
            return Err(GuidTableError::NoFooter { offset: footer + 2 });
        }
        let start = end
            .checked_sub(table_length.into())
            .filter(|start| *start <= footer)
            .ok_or(GuidTableError::EntryLength {
                offset: footer,
                length: table_length,
            })?;
        Ok(Self {
            entries: entries(firmware, start, footer)?,
        })
    }

    /// Returns the data of the entry `guid`, if there is one.
    #[must_use]
    pub fn get(&self, guid: Guid) -> Option<&'a [u8]> {
        self.entries
            .iter()
            .find(|(name, _)| *name == guid)
            .map(|(_, data)| *data)
    }

    /// Returns all entries, the last one of the table first.
    #[must_use]
    pub fn entries(&self) -> &[(Guid, &'a [u8])] {
        &self.entries
    }
}

fn entries(
    firmware: &[u8],
    start: usize,
    mut end: usize,
) -> Result<Vec<(Guid, &[u8])>, GuidTableError> {
    let mut entries: Vec<(Guid, &[u8])> = Vec::new();
    while end > start {
        if entries.len() == MAX_ENTRIES {
            return Err(GuidTableError::TooManyEntries);
        }
        let header = end.saturating_sub(ENTRY_HEADER);
        let (length, guid) = entry_header(firmware, header)?;
        let first = end
            .checked_sub(length.into())
            .filter(|first| *first >= start && *first <= header)
            .ok_or(GuidTableError::EntryLength {
                offset: header,
                length,
            })?;
        if entries.iter().any(|(name, _)| *name == guid) {
            return Err(GuidTableError::Duplicate {
                guid,
                offset: header + 2,
            });
        }
        entries.push((guid, firmware.get(first..header).unwrap_or_default()));
        end = first;
    }
    Ok(entries)
}

fn entry_header(firmware: &[u8], offset: usize) -> Result<(u16, Guid), Truncated> {
    let mut reader = Reader::at(STRUCTURE, firmware, offset);
    Ok((reader.u16()?, Guid(reader.array()?)))
}

#[cfg(test)]
mod tests {
    use super::{BEHIND_TABLE, FOOTER, GuidTable, GuidTableError, MAX_FIRMWARE};
    use crate::{guid::Guid, test_firmware::guid_table};

    const A: Guid = Guid::parse("e47a6535-984a-4798-865e-4685a7bf8ec2");
    const B: Guid = Guid::parse("dc886566-984a-4798-a75e-5585a7bf67cc");

    fn image(entries: &[(Guid, &[u8])]) -> Vec<u8> {
        let mut image = vec![0xff; 256];
        image.extend(guid_table(entries));
        image.extend([0; BEHIND_TABLE]);
        image
    }

    #[test]
    fn finds_entries_whatever_their_order() {
        let image = image(&[(A, &[1, 2, 3, 4]), (B, &[])]);
        let table = GuidTable::parse(&image).unwrap();
        assert_eq!(table.get(A), Some(&[1, 2, 3, 4][..]));
        assert_eq!(table.get(B), Some(&[][..]));
        assert_eq!(table.get(FOOTER), None);
        assert_eq!(table.entries().len(), 2);
    }

    #[test]
    fn each_flaw_has_its_error() {
        let empty = GuidTable::parse(&[]).unwrap_err();
        assert!(
            matches!(empty, GuidTableError::Truncated(ref t) if t.offset == 0),
            "{empty}"
        );
        assert_eq!(
            GuidTable::parse(&[0; 64]).unwrap_err(),
            GuidTableError::NoFooter { offset: 16 }
        );
        assert_eq!(
            GuidTable::parse(&vec![0; MAX_FIRMWARE + 1]).unwrap_err(),
            GuidTableError::TooLarge {
                length: MAX_FIRMWARE + 1
            }
        );
        let twice = GuidTable::parse(&image(&[(A, &[]), (A, &[])])).unwrap_err();
        assert!(
            matches!(twice, GuidTableError::Duplicate { guid: A, .. }),
            "{twice}"
        );
    }

    #[test]
    fn lengths_must_stay_inside() {
        let good = image(&[(A, &[1, 2, 3, 4])]);
        let footer = good.len() - BEHIND_TABLE - 18;
        let entry = footer - 18;
        for (offset, length) in [
            (footer, 17_u16),
            (footer, 0xffff),
            (entry, 0),
            (entry, 17),
            (entry, 23),
        ] {
            let mut bad = good.clone();
            bad[offset..offset + 2].copy_from_slice(&length.to_le_bytes());
            assert_eq!(
                GuidTable::parse(&bad).unwrap_err(),
                GuidTableError::EntryLength { offset, length }
            );
        }
    }
}
