//! Launchers of `cuda/sm90_scrub.cu`: fill device memory, and count the bytes in it that are not zero.

#![expect(unsafe_code, reason = "starts kernels, with arguments made here")]

use crate::device::{Argument, Device, DeviceError, Kernel, Memory as _};
use crate::ranges::{self, RangeError, Span, SpanMut, Tiled};

/// The kernel that writes one value to every byte.
pub const FILL: Kernel = Kernel {
    name: "sm90_scrub_fill",
    threads: 256,
    resident: 8,
    shares: false,
};
/// The kernel that counts the bytes that are not zero.
pub const COUNT: Kernel = Kernel {
    name: "sm90_scrub_count",
    threads: 256,
    resident: 4,
    shares: false,
};

/// Bytes that a block processes at once.
const TILE: u64 = 64 * 1024;
/// Tiles begin at multiples of this many bytes.
const TILE_ALIGNMENT: u64 = 128;

/// The result of [`scrub`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// Number of bytes that were overwritten with zeros and read again.
    pub bytes: u64,
    /// Number of these bytes that were not zero when they were read. It is 0 unless the memory is faulty or was written
    /// meanwhile.
    pub residue: u64,
}

/// Why memory could not be scrubbed or counted.
#[derive(Debug, thiserror::Error)]
pub enum ScrubError {
    /// The ranges were refused. No kernel was started.
    #[error("these are no ranges to scrub")]
    Range(#[from] RangeError),
    /// The device failed.
    #[error("cannot scrub device memory")]
    Device(#[from] DeviceError),
    /// The kernel did not examine all bytes, so its count is meaningless.
    #[error(
        "the kernel examined {examined} of {bytes} bytes, and what the others hold is unknown: give these ranges to nobody, and \
         reset the GPU"
    )]
    Incomplete {
        /// Number of bytes that the kernel reports as examined.
        examined: u64,
        /// Number of bytes of the ranges.
        bytes: u64,
    },
}

/// Writes `byte` to every byte of `ranges`; returns their number. Does not wait, but work started later on the device
/// runs after the filling. Ranges may overlap.
///
/// # Errors
/// [`ScrubError`] if the ranges are refused or the device fails.
pub fn fill<D: Device>(
    device: &D,
    ranges: &mut [SpanMut<'_>],
    byte: u8,
) -> Result<u64, ScrubError> {
    let tiled = tiled_mut(ranges)?;
    if tiled.total > 0 {
        let table = device.upload(&tiled.table)?;
        start_fill(device, ranges, &tiled, &table, byte)?;
    }
    Ok(tiled.bytes)
}

fn tiled_mut(ranges: &[SpanMut<'_>]) -> Result<Tiled, RangeError> {
    let spans: Vec<Span<'_>> = ranges.iter().map(SpanMut::as_span).collect();
    ranges::tiled(&spans, tiles)
}

/// Starts the kernel over the tiles of `ranges`, whose `table` is on the device.
fn start_fill<D: Device>(
    device: &D,
    _ranges: &mut [SpanMut<'_>],
    tiled: &Tiled,
    table: &D::Memory,
    byte: u8,
) -> Result<(), DeviceError> {
    let arguments = [
        Argument::Long(table.address()),
        Argument::Word(tiled.count),
        Argument::Long(tiled.total),
        Argument::Word(u32::from_ne_bytes([byte; 4])),
    ];
    // SAFETY: these are the kernel's arguments. The table has `count` entries, whose ranges the caller holds
    // exclusively, and is freed after the kernel.
    unsafe { device.launch(&FILL, blocks(device, &FILL, tiled), &arguments) }
}

/// Counts the bytes of each range that are not zero. Ranges may overlap.
///
/// # Errors
/// [`ScrubError`] if the ranges are refused, the device fails, or the kernel did not examine all bytes.
pub fn count<D: Device>(device: &D, ranges: &[Span<'_>]) -> Result<Vec<u64>, ScrubError> {
    let tiled = ranges::tiled(ranges, tiles)?;
    if tiled.total == 0 {
        return Ok(vec![0; ranges.len()]);
    }
    let table = device.upload(&tiled.table)?;
    counted(device, ranges.len(), &tiled, &table)
}

/// Counts over the tiles of `ranges` ranges, whose `table` is on the device.
fn counted<D: Device>(
    device: &D,
    ranges: usize,
    tiled: &Tiled,
    table: &D::Memory,
) -> Result<Vec<u64>, ScrubError> {
    // One number for each range and then the number of bytes examined, so that one copy brings all back.
    let numbers = device.allocate(8 * (u64::from(tiled.count) + 1))?;
    let arguments = [
        Argument::Long(table.address()),
        Argument::Word(tiled.count),
        Argument::Long(tiled.total),
        Argument::Long(numbers.address()),
        Argument::Long(numbers.address() + 8 * u64::from(tiled.count)),
    ];
    // SAFETY: these are the kernel's arguments. The table has `count` entries, whose ranges the caller allows to be
    // read. The kernel adds to one number for each of them and to the one after these.
    unsafe { device.launch(&COUNT, blocks(device, &COUNT, tiled), &arguments) }?;
    let mut found: Vec<u64> = device
        .download(&numbers)?
        .chunks_exact(8)
        .filter_map(|word| Some(u64::from_le_bytes(word.try_into().ok()?)))
        .collect();
    let examined = found.pop().unwrap_or_default();
    if examined != tiled.bytes || found.len() != ranges {
        return Err(ScrubError::Incomplete {
            examined,
            bytes: tiled.bytes,
        });
    }
    Ok(found)
}

/// Fills `ranges` with zeros, then counts the bytes that are not zero.
///
/// # Errors
/// [`ScrubError`] if the ranges are refused, the device fails, or the kernel did not examine all bytes.
pub fn scrub<D: Device>(device: &D, ranges: &mut [SpanMut<'_>]) -> Result<Scrubbed, ScrubError> {
    let tiled = tiled_mut(ranges)?;
    if tiled.total == 0 {
        return Ok(Scrubbed::default());
    }
    // Both kernels use one table.
    let table = device.upload(&tiled.table)?;
    start_fill(device, ranges, &tiled, &table, 0)?;
    let residue = counted(device, ranges.len(), &tiled, &table)?;
    Ok(Scrubbed {
        bytes: tiled.bytes,
        residue: residue.into_iter().sum(),
    })
}

/// Number of tiles that a range touches; `piece` in the kernel divides it in the same way.
fn tiles(address: u64, length: u64) -> u64 {
    if length == 0 {
        0
    } else {
        (address % TILE_ALIGNMENT + length).div_ceil(TILE)
    }
}

fn blocks(device: &impl Device, kernel: &Kernel, tiled: &Tiled) -> u32 {
    let resident = device.resident(kernel);
    u32::try_from(tiled.total).map_or(resident, |tiles| tiles.min(resident))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_has_the_tiles_that_it_touches() {
        assert_eq!(tiles(0x1000, 0), 0);
        assert_eq!(tiles(0x1000, 1), 1);
        assert_eq!(tiles(0x1000, TILE), 1);
        assert_eq!(tiles(0x1001, TILE), 2);
        assert_eq!(tiles(0x107f, TILE - 0x7f), 1);
        assert_eq!(tiles(0x107f, TILE - 0x7e), 2);
        assert_eq!(tiles(0x1000, 80 << 30), 80 << 14);
    }
}
