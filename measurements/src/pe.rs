//! Computes the Authenticode digest of a PE image as edk2 does when it loads and measures one.
//!
//! Follows Microsoft's "Windows Authenticode Portable Executable Signature Format" as edk2 implements it (`SecurityPkg`,
//! `MeasurePeImageAndExtend`): trailing data are not padded to eight bytes.

use sha2::{Digest, Sha256, Sha384};
use thiserror::Error;

use crate::bytes::{Reader, Truncated};

const STRUCTURE: &str = "PE image";
const SIGNATURE: u32 = 0x0000_4550;
const PE32: u16 = 0x10b;
const PE32_PLUS: u16 = 0x20b;
const CHECKSUM: usize = 64;
/// Index of the certificate table among the data directories.
const SECURITY: usize = 4;
const SECTION_HEADER: usize = 40;
/// Largest number of sections: the PE loader's own limit.
const MAX_SECTIONS: u16 = 96;
/// Number of data directories that the format defines (`EFI_IMAGE_NUMBER_OF_DIRECTORY_ENTRIES`).
const MAX_DIRECTORIES: usize = 16;

/// Why an image has no Authenticode digest.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PeError {
    /// The image ends within a header.
    #[error(transparent)]
    Truncated(#[from] Truncated),
    /// A field has a value that no EFI executable has.
    #[error("PE image: {field} at offset {offset:#x} is {found:#x}: this is not an EFI executable")]
    Field {
        /// Name of the field.
        field: &'static str,
        /// Offset of the field in the image.
        offset: usize,
        /// Value found.
        found: u32,
    },
    /// A part of the image lies outside it or overlaps another part.
    #[error(
        "PE image: the {part} at offset {offset:#x} with {length} bytes lies outside the image or over another part"
    )]
    Layout {
        /// Name of the part.
        part: &'static str,
        /// Offset of the part in the image.
        offset: usize,
        /// Length that the part claims, in bytes.
        length: usize,
    },
}

/// Returns the Authenticode SHA-384 of `image`, which TDX firmware extends into RTMR1 for a kernel.
///
/// # Errors
/// [`PeError`] when the image is not a sound PE file.
pub fn authenticode_sha384(image: &[u8]) -> Result<[u8; 48], PeError> {
    authenticode::<Sha384>(image).map(Into::into)
}

/// Returns the Authenticode SHA-256 of `image`, for comparison with `pesign` or `osslsigncode`.
///
/// # Errors
/// [`PeError`] when the image is not a sound PE file.
pub fn authenticode_sha256(image: &[u8]) -> Result<[u8; 32], PeError> {
    authenticode::<Sha256>(image).map(Into::into)
}

fn authenticode<D: Digest>(image: &[u8]) -> Result<sha2::digest::Output<D>, PeError> {
    let layout = Layout::parse(image)?;
    let mut hash = D::new();
    let mut update = |part, start: usize, end: usize| match image.get(start..end) {
        Some(bytes) => {
            hash.update(bytes);
            Ok(())
        }
        None => Err(PeError::Layout {
            part,
            offset: start,
            length: end.saturating_sub(start),
        }),
    };
    update("headers", 0, layout.checksum)?;
    match layout.security_entry {
        Some(entry) => {
            update("headers", layout.checksum + 4, entry)?;
            update("headers", entry + 8, layout.headers_end)?;
        }
        None => update("headers", layout.checksum + 4, layout.headers_end)?,
    }
    for (start, length) in &layout.sections {
        update("section", *start, start + length)?;
    }
    // Trailing data start at the offset that equals the number of bytes hashed so far, wherever the sections lie, and end
    // before the certificate table.
    let hashed = layout.headers_end
        + layout
            .sections
            .iter()
            .map(|(_, length)| length)
            .sum::<usize>();
    let end = image.len() - layout.certificates;
    if hashed > end {
        return Err(PeError::Layout {
            part: "certificate table",
            offset: end,
            length: layout.certificates,
        });
    }
    update("trailing data", hashed, end)?;
    Ok(hash.finalize())
}

struct Layout {
    checksum: usize,
    security_entry: Option<usize>,
    headers_end: usize,
    /// Start and length in the file of each section with data, ascending and without overlap.
    sections: Vec<(usize, usize)>,
    certificates: usize,
}

impl Layout {
    fn parse(image: &[u8]) -> Result<Self, PeError> {
        let at = |offset| Reader::at(STRUCTURE, image, offset);
        let pe = at(0x3c).size()?;
        let found = at(pe).u32()?;
        if found != SIGNATURE {
            return Err(PeError::Field {
                field: "signature",
                offset: pe,
                found,
            });
        }
        let count = at(pe + 6).u16()?;
        if count > MAX_SECTIONS {
            return Err(PeError::Field {
                field: "number of sections",
                offset: pe + 6,
                found: count.into(),
            });
        }
        let optional = pe + 24;
        let section_table = optional + usize::from(at(pe + 20).u16()?);
        let directories = optional
            + match at(optional).u16()? {
                PE32 => 92,
                PE32_PLUS => 108,
                found => {
                    return Err(PeError::Field {
                        field: "magic",
                        offset: optional,
                        found: found.into(),
                    });
                }
            };
        let entries = at(directories).size()?;
        // edk2's loader demands this too. With another header size, the sections could overlap header fields, so that the
        // checksum, which is not hashed, would control what is hashed.
        if entries > MAX_DIRECTORIES || section_table != directories + 4 + 8 * entries {
            return Err(PeError::Layout {
                part: "optional header",
                offset: optional,
                length: section_table - optional,
            });
        }
        let security_entry = (entries > SECURITY).then_some(directories + 4 + 8 * SECURITY);
        let certificates = match security_entry {
            Some(entry) => at(entry + 4).size()?,
            None => 0,
        };
        let headers_end = at(optional + 60).size()?;
        let headers_needed = section_table + SECTION_HEADER * usize::from(count);
        if headers_end < headers_needed || headers_end > image.len() {
            return Err(PeError::Layout {
                part: "headers",
                offset: 0,
                length: headers_end,
            });
        }
        if certificates > image.len() {
            return Err(PeError::Layout {
                part: "certificate table",
                offset: 0,
                length: certificates,
            });
        }
        let sections = sections(image, section_table, count, headers_end)?;
        Ok(Self {
            checksum: optional + CHECKSUM,
            security_entry,
            headers_end,
            sections,
            certificates,
        })
    }
}

fn sections(
    image: &[u8],
    table: usize,
    count: u16,
    headers_end: usize,
) -> Result<Vec<(usize, usize)>, PeError> {
    let mut sections = Vec::new();
    for index in 0..usize::from(count) {
        let mut reader = Reader::at(STRUCTURE, image, table + SECTION_HEADER * index + 16);
        let (length, start) = (reader.size()?, reader.size()?);
        if length > 0 {
            sections.push((start, length));
        }
    }
    sections.sort_unstable();
    let mut free = headers_end;
    for (start, length) in &sections {
        let end = start + length;
        if *start < free || end > image.len() {
            return Err(PeError::Layout {
                part: "section",
                offset: *start,
                length: *length,
            });
        }
        free = end;
    }
    Ok(sections)
}

#[cfg(test)]
pub(crate) mod tests {
    use sha2::{Digest, Sha384};

    use super::{PeError, authenticode_sha384};

    const PE: usize = 0x80;
    const OPTIONAL: usize = PE + 24;

    /// A PE image of 0x600 bytes: headers to 0x400, one section to 0x500, 0xc0 trailing bytes, 0x40 of certificates.
    pub(crate) fn sample() -> Vec<u8> {
        let mut image = vec![0x5a; 0x600];
        let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
        put(0x3c, &0x80_u32.to_le_bytes());
        put(PE, b"PE\0\0");
        put(PE + 6, &1_u16.to_le_bytes());
        put(PE + 20, &0xf0_u16.to_le_bytes());
        put(OPTIONAL, &0x20b_u16.to_le_bytes());
        put(OPTIONAL + 60, &0x400_u32.to_le_bytes());
        put(OPTIONAL + 108, &16_u32.to_le_bytes());
        put(
            OPTIONAL + 112 + 32,
            &[0x5c0_u32.to_le_bytes(), 0x40_u32.to_le_bytes()].concat(),
        );
        put(
            OPTIONAL + 0xf0 + 16,
            &[0x100_u32.to_le_bytes(), 0x400_u32.to_le_bytes()].concat(),
        );
        image
    }

    #[test]
    fn skips_checksum_certificate_entry_and_certificates_only() {
        let image = sample();
        let security = OPTIONAL + 144;
        let kept = [
            &image[..OPTIONAL + 64],
            &image[OPTIONAL + 68..security],
            &image[security + 8..0x5c0],
        ]
        .concat();
        assert_eq!(authenticode_sha384(&image), Ok(Sha384::digest(kept).into()));
    }

    #[test]
    fn every_flaw_has_its_error() {
        let with = |at: usize, value: u32| {
            let mut image = sample();
            image[at..at + 4].copy_from_slice(&value.to_le_bytes());
            authenticode_sha384(&image).unwrap_err()
        };
        let layout = |part, offset, length| PeError::Layout {
            part,
            offset,
            length,
        };
        assert!(
            matches!(with(0x3c, u32::MAX), PeError::Truncated(t) if t.offset == u32::MAX as usize)
        );
        assert_eq!(
            with(PE, 7),
            PeError::Field {
                field: "signature",
                offset: PE,
                found: 7
            }
        );
        assert_eq!(
            with(OPTIONAL, 0x107),
            PeError::Field {
                field: "magic",
                offset: OPTIONAL,
                found: 0x107
            }
        );
        for (at, value, length) in [
            (OPTIONAL + 108, 15, 0xf0),
            (OPTIONAL + 108, 17, 0xf0),
            (OPTIONAL + 108, u32::MAX, 0xf0),
            (PE + 20, 0, 0),
            (PE + 20, 0xf8, 0xf8),
        ] {
            assert_eq!(
                with(at, value),
                layout("optional header", OPTIONAL, length),
                "{at:#x}"
            );
        }
        assert_eq!(with(OPTIONAL + 60, 0x10), layout("headers", 0, 0x10));
        assert_eq!(
            with(OPTIONAL + 60, 0x10_0000),
            layout("headers", 0, 0x10_0000)
        );
        let section = OPTIONAL + 0xf0;
        assert_eq!(with(section + 16, 0x1000), layout("section", 0x400, 0x1000));
        assert_eq!(with(section + 20, 0x3ff), layout("section", 0x3ff, 0x100));
        assert_eq!(
            with(OPTIONAL + 148, 0x601),
            layout("certificate table", 0, 0x601)
        );
        assert_eq!(
            with(OPTIONAL + 148, 0x101),
            layout("certificate table", 0x4ff, 0x101)
        );
    }
}
