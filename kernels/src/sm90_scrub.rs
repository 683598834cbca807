//! Launchers of `cuda/sm90_scrub.cu`: device memory is filled, and what is left in it is counted.

#![expect(unsafe_code, reason = "starts kernels, with arguments made here")]

use crate::device::{Argument, Device, DeviceError, Kernel, Memory as _};
use crate::ranges::{self, RangeError, Span, SpanMut, Tiled};

/// Writes one byte everywhere.
pub const FILL: Kernel = Kernel {
    name: "sm90_scrub_fill",
    threads: 256,
    resident: 8,
    shares: false,
};
/// Counts bytes that are not zero.
pub const COUNT: Kernel = Kernel {
    name: "sm90_scrub_count",
    threads: 256,
    resident: 4,
    shares: false,
};

/// Bytes that a block takes at once.
const TILE: u64 = 64 * 1024;
/// Tiles begin at multiples of this.
const TILE_ALIGNMENT: u64 = 128;

/// What [`scrub`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// Bytes that were overwritten with zeros, and then read again.
    pub bytes: u64,
    /// How many of them were not zero when they were read: 0, unless the memory or somebody else did something.
    pub residue: u64,
}

/// Why memory could not be scrubbed or counted.
#[derive(Debug, thiserror::Error)]
pub enum ScrubError {
    /// The ranges; nothing was started.
    #[error("these are no ranges to scrub")]
    Range(#[from] RangeError),
    /// The device.
    #[error("cannot scrub device memory")]
    Device(#[from] DeviceError),
    /// The kernel did not see everything, so that its count means nothing.
    #[error(
        "the kernel examined {examined} of {bytes} bytes, and what the others hold is unknown: give these ranges to nobody, and \
         reset the GPU"
    )]
    Incomplete {
        /// Bytes that the kernel says it has seen.
        examined: u64,
        /// Bytes of the ranges.
        bytes: u64,
    },
}

/// Writes `byte` to every byte of `ranges`; returns how many these are. It is done when whatever is started on the
/// device afterwards begins. Ranges may overlap.
///
/// # Errors
/// [`ScrubError`].
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

/// Starts the kernel over `tiled`, which are the tiles of `ranges` and lie in `table` on the device.
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
    // SAFETY: these are the kernel's arguments; the table has `count` entries, whose ranges the caller has for himself
    // alone, and is freed behind the kernel.
    unsafe { device.launch(&FILL, blocks(device, &FILL, tiled), &arguments) }
}

/// How many bytes of each range are not zero. Ranges may overlap.
///
/// # Errors
/// [`ScrubError`].
pub fn count<D: Device>(device: &D, ranges: &[Span<'_>]) -> Result<Vec<u64>, ScrubError> {
    let tiled = ranges::tiled(ranges, tiles)?;
    if tiled.total == 0 {
        return Ok(vec![0; ranges.len()]);
    }
    let table = device.upload(&tiled.table)?;
    counted(device, ranges.len(), &tiled, &table)
}

/// What the kernel counts over `tiled`, the tiles of so many ranges, which lie in `table` on the device.
fn counted<D: Device>(
    device: &D,
    ranges: usize,
    tiled: &Tiled,
    table: &D::Memory,
) -> Result<Vec<u64>, ScrubError> {
    // One number for each range, then that of the bytes examined: one copy back.
    let numbers = device.allocate(8 * (u64::from(tiled.count) + 1))?;
    let arguments = [
        Argument::Long(table.address()),
        Argument::Word(tiled.count),
        Argument::Long(tiled.total),
        Argument::Long(numbers.address()),
        Argument::Long(numbers.address() + 8 * u64::from(tiled.count)),
    ];
    // SAFETY: these are the kernel's arguments; the table has `count` entries, whose ranges the caller lets be read, and
    // it adds to one number of each and to the one behind them.
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

/// Fills `ranges` with zeros, and then counts what in them is not zero.
///
/// # Errors
/// [`ScrubError`].
pub fn scrub<D: Device>(device: &D, ranges: &mut [SpanMut<'_>]) -> Result<Scrubbed, ScrubError> {
    let tiled = tiled_mut(ranges)?;
    if tiled.total == 0 {
        return Ok(Scrubbed::default());
    }
    // One table for both kernels.
    let table = device.upload(&tiled.table)?;
    start_fill(device, ranges, &tiled, &table, 0)?;
    let residue = counted(device, ranges.len(), &tiled, &table)?;
    Ok(Scrubbed {
        bytes: tiled.bytes,
        residue: residue.into_iter().sum(),
    })
}

/// Tiles that a range touches; `piece` in the kernel cuts it into the same.
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
