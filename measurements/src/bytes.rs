//! A bounds-checked reader of untrusted little-endian bytes that never panics: errors name the structure and the offset.

use thiserror::Error;

/// A structure ends before the field that is being read does.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{structure} is truncated: {needed} bytes needed at offset {offset:#x}, {available} there")]
pub struct Truncated {
    /// The structure that was being read.
    pub structure: &'static str,
    /// Offset of the missing field, in bytes from the start of the reader's input.
    pub offset: usize,
    /// Length of the field in bytes.
    pub needed: usize,
    /// Number of bytes left at that offset.
    pub available: usize,
}

/// Cursor over `bytes`; all reads are bounds-checked.
#[derive(Debug, Clone)]
pub(crate) struct Reader<'a> {
    structure: &'static str,
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(structure: &'static str, bytes: &'a [u8]) -> Self {
        Self {
            structure,
            bytes,
            offset: 0,
        }
    }

    /// Returns a reader that starts at `offset`. If that lies beyond the end of `bytes`, the first read fails.
    pub(crate) const fn at(structure: &'static str, bytes: &'a [u8], offset: usize) -> Self {
        Self {
            structure,
            bytes,
            offset,
        }
    }

    pub(crate) const fn offset(&self) -> usize {
        self.offset
    }

    pub(crate) fn remaining(&self) -> usize {
        self.bytes.len().saturating_sub(self.offset)
    }

    pub(crate) fn take(&mut self, needed: usize) -> Result<&'a [u8], Truncated> {
        let field = self
            .offset
            .checked_add(needed)
            .and_then(|end| self.bytes.get(self.offset..end))
            .ok_or(Truncated {
                structure: self.structure,
                offset: self.offset,
                needed,
                available: self.remaining(),
            })?;
        self.offset += needed;
        Ok(field)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Truncated> {
        let mut field = [0; N];
        field.copy_from_slice(self.take(N)?);
        Ok(field)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Truncated> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Truncated> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Truncated> {
        self.array().map(u64::from_le_bytes)
    }

    /// Reads a `u32` that is a size or an offset.
    pub(crate) fn size(&mut self) -> Result<usize, Truncated> {
        // Lossless: the crate is built for 64-bit targets only (asserted below).
        self.u32().map(|value| value as usize)
    }
}

const _: () = assert!(
    usize::BITS >= 64,
    "sizes of foreign structures are kept in usize"
);

#[cfg(test)]
mod tests {
    use super::{Reader, Truncated};

    #[test]
    fn reads_and_names_what_is_missing() {
        let mut reader = Reader::new("sample", &[1, 2, 3, 4, 5]);
        assert_eq!(reader.u32(), Ok(0x0403_0201));
        assert_eq!(
            reader.u16(),
            Err(Truncated {
                structure: "sample",
                offset: 4,
                needed: 2,
                available: 1
            })
        );
        assert_eq!(reader.remaining(), 1);
    }

    #[test]
    fn an_offset_behind_the_end_is_an_error() {
        let mut reader = Reader::at("sample", &[0; 4], usize::MAX);
        assert_eq!(
            reader.take(2),
            Err(Truncated {
                structure: "sample",
                offset: usize::MAX,
                needed: 2,
                available: 0
            })
        );
    }
}
