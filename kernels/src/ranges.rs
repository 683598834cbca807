//! Ranges of device memory, and their division into tiles for the blocks of a kernel (`cuda/ranges.h`).

#![expect(
    unsafe_code,
    reason = "whoever has an address from elsewhere, of a tensor for example, must vouch for it"
)]

use std::marker::PhantomData;
use std::ops::Range;

/// Largest number of ranges in one call; each takes 24 bytes of the table.
pub const MAX_RANGES: usize = 1 << 20;
/// Upper bound for addresses, so that no sum in a kernel overflows.
const MAX_ADDRESS: u64 = 1 << 56;

/// A range of device memory that may be read during `'m`.
#[derive(Debug, Clone, Copy)]
pub struct Span<'m> {
    address: u64,
    length: u64,
    memory: PhantomData<&'m [u8]>,
}

/// A range of device memory that may be written during `'m`, by its holder only.
#[derive(Debug)]
pub struct SpanMut<'m> {
    address: u64,
    length: u64,
    memory: PhantomData<&'m mut [u8]>,
}

/// Why ranges were refused. No kernel was started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// The range has bytes, but starts at the null address.
    #[error("{length} bytes at the null address are no range")]
    Null {
        /// Length of the range in bytes.
        length: u64,
    },
    /// The range ends beyond all possible addresses.
    #[error("{length} bytes at {address:#x} reach beyond any device's memory")]
    Beyond {
        /// Address of the range.
        address: u64,
        /// Length of the range in bytes.
        length: u64,
    },
    /// The range is not a part of the memory.
    #[error("bytes {} to {} are not a part of memory of {bytes} bytes", part.start, part.end)]
    Outside {
        /// Part that was asked for.
        part: Range<u64>,
        /// Size of the memory in bytes.
        bytes: u64,
    },
    /// There are more than [`MAX_RANGES`] ranges.
    #[error("{count} ranges are more than the {MAX_RANGES} of one call: make several")]
    TooMany {
        /// Number of ranges.
        count: usize,
    },
}

impl<'m> Span<'m> {
    /// The range of `length` bytes at `address`. An empty range may have any address.
    ///
    /// # Errors
    /// [`RangeError`] if the address and the length cannot be a range.
    ///
    /// # Safety
    /// The bytes must be memory of the device with which the range is used. They must not be freed or written during
    /// `'m`.
    pub unsafe fn from_raw(address: u64, length: u64) -> Result<Self, RangeError> {
        check(address, length)?;
        Ok(Self {
            address,
            length,
            memory: PhantomData,
        })
    }

    /// Address of the first byte.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Length in bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }
}

impl<'m> SpanMut<'m> {
    /// The range of `length` bytes at `address`. An empty range may have any address.
    ///
    /// # Errors
    /// [`RangeError`] if the address and the length cannot be a range.
    ///
    /// # Safety
    /// The bytes must be memory of the device with which the range is used. Nobody else may use or free them during
    /// `'m`.
    pub unsafe fn from_raw(address: u64, length: u64) -> Result<Self, RangeError> {
        check(address, length)?;
        Ok(Self {
            address,
            length,
            memory: PhantomData,
        })
    }

    /// Returns the same range for reading.
    #[must_use]
    pub fn as_span(&self) -> Span<'_> {
        Span {
            address: self.address,
            length: self.length,
            memory: PhantomData,
        }
    }
}

fn check(address: u64, length: u64) -> Result<(), RangeError> {
    if address == 0 && length > 0 {
        return Err(RangeError::Null { length });
    }
    match address.checked_add(length) {
        Some(end) if end <= MAX_ADDRESS => Ok(()),
        _ => Err(RangeError::Beyond { address, length }),
    }
}

/// Ranges whose tiles are numbered consecutively.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tiled {
    /// Number of ranges.
    pub count: u32,
    /// For each range, the number of its first tile and how many tiles it has.
    pub tiles: Vec<(u64, u64)>,
    /// Number of tiles of all ranges.
    pub total: u64,
    /// Bytes of all ranges.
    pub bytes: u64,
    /// The table that the kernels read: address, length and first tile of each range.
    pub table: Vec<u8>,
}

/// Numbers the tiles of `spans`; `tiles_of(address, length)` is the number of tiles of a range.
pub(crate) fn tiled(
    spans: &[Span<'_>],
    tiles_of: impl Fn(u64, u64) -> u64,
) -> Result<Tiled, RangeError> {
    let too_many = RangeError::TooMany { count: spans.len() };
    let count = u32::try_from(spans.len()).map_err(|_| too_many.clone())?;
    if spans.len() > MAX_RANGES {
        return Err(too_many);
    }
    let mut tiled = Tiled {
        count,
        tiles: Vec::with_capacity(spans.len()),
        total: 0,
        bytes: 0,
        table: Vec::with_capacity(spans.len() * 24),
    };
    for span in spans {
        for word in [span.address, span.length, tiled.total] {
            tiled.table.extend(word.to_le_bytes());
        }
        // A range has at most 2^56 bytes, a tile at least 2^16, and there are at most 2^20 ranges: the sum cannot
        // overflow.
        let tiles = tiles_of(span.address, span.length);
        tiled.tiles.push((tiled.total, tiles));
        tiled.total += tiles;
        tiled.bytes = tiled.bytes.saturating_add(span.length);
    }
    Ok(tiled)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(address: u64, length: u64) -> Result<Span<'static>, RangeError> {
        // SAFETY: no test uses the address.
        unsafe { Span::from_raw(address, length) }
    }

    #[test]
    fn what_can_be_no_range_is_refused() {
        assert_eq!(
            span(0, 1).unwrap_err().to_string(),
            "1 bytes at the null address are no range"
        );
        assert_eq!(
            span(u64::MAX, 2).unwrap_err().to_string(),
            "2 bytes at 0xffffffffffffffff reach beyond any device's memory"
        );
        assert_eq!(
            span(MAX_ADDRESS - 1, 2).unwrap_err(),
            RangeError::Beyond {
                address: MAX_ADDRESS - 1,
                length: 2
            }
        );
        assert!(span(0, 0).is_ok() && span(MAX_ADDRESS - 2, 2).is_ok());
    }

    #[test]
    fn tiles_are_numbered_through() {
        let spans = [
            span(16, 100).unwrap(),
            span(0, 0).unwrap(),
            span(7, 1).unwrap(),
        ];
        let tiled = tiled(&spans, |_, length| length.div_ceil(64)).unwrap();
        assert_eq!(tiled.tiles, [(0, 2), (2, 0), (2, 1)]);
        assert_eq!((tiled.count, tiled.total, tiled.bytes), (3, 3, 101));
        let words: Vec<u64> = tiled
            .table
            .chunks_exact(8)
            .map(|word| u64::from_le_bytes(word.try_into().unwrap()))
            .collect();
        assert_eq!(words, [16, 100, 0, 0, 0, 2, 7, 1, 2]);
    }

    #[test]
    fn too_many_ranges_are_refused() {
        let spans = vec![span(1, 1).unwrap(); MAX_RANGES + 1];
        assert_eq!(
            tiled(&spans, |_, _| 1).unwrap_err().to_string(),
            "1048577 ranges are more than the 1048576 of one call: make several"
        );
        assert!(tiled(&spans[1..], |_, _| 1).is_ok());
    }
}
