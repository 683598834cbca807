//! Launcher of `cuda/sm90_blake3.cu`: computes standard BLAKE3 of device memory.

#![expect(unsafe_code, reason = "starts kernels, with arguments made here")]

pub mod tree;

use std::fmt;

use crate::device::{Argument, Device, DeviceError, Kernel, Memory as _};
use crate::ranges::{self, RangeError, Span};

/// The kernel that hashes tiles.
pub const LEAVES: Kernel = Kernel {
    name: "sm90_blake3_leaves",
    threads: 128,
    resident: 6,
    shares: true,
};
/// The kernel that joins chaining values.
pub const JOIN: Kernel = Kernel {
    name: "sm90_blake3_join",
    threads: 128,
    resident: 8,
    shares: false,
};

/// Bytes of a message that a block hashes at once: 128 chunks, a complete subtree of BLAKE3's tree.
pub const TILE: u64 = 128 * 1024;
/// Size in bytes of a chaining value or a root.
const VALUE: u64 = 32;

/// A BLAKE3 hash of 32 bytes; displayed as `b3sum` prints it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Root(pub [u8; 32]);

/// Why the roots could not be computed.
#[derive(Debug, thiserror::Error)]
pub enum Blake3Error {
    /// The ranges were refused. No kernel was started.
    #[error("these are no ranges to hash")]
    Range(#[from] RangeError),
    /// The device failed.
    #[error("cannot hash device memory")]
    Device(#[from] DeviceError),
    /// The kernels did not write a root.
    #[error(
        "range {index} was not hashed, though the device reports no error: hash it again, and reset the GPU if that lasts"
    )]
    Incomplete {
        /// Index of the range.
        index: usize,
    },
}

impl fmt::Display for Root {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&hex::encode(self.0))
    }
}

/// Returns the root of each message, in their order. Whatever the number of messages, there are two crossings: one
/// table goes to the device, and the roots come back. Scratch memory is about 32 bytes for each 128 KiB begun.
///
/// # Errors
/// [`Blake3Error`] if the ranges are refused, the device fails, or a root is missing.
pub fn roots<D: Device>(device: &D, messages: &[Span<'_>]) -> Result<Vec<Root>, Blake3Error> {
    let tiled = ranges::tiled(messages, tiles)?;
    if messages.is_empty() {
        return Ok(Vec::new());
    }
    let passes = tree::passes(&tiled.tiles);
    let mut table = tiled.table;
    let branches: Vec<u64> = passes
        .iter()
        .map(|pass| {
            let offset = table.len() as u64;
            table.extend(pass.table());
            offset
        })
        .collect();
    let table = device.upload(&table)?;
    let roots = device.allocate(VALUE * u64::from(tiled.count))?;
    let values = device.allocate(VALUE * tiled.total)?;
    let joined = device.allocate(VALUE * passes.first().map_or(0, |pass| pass.groups))?;

    let arguments = [
        Argument::Long(table.address()),
        Argument::Word(tiled.count),
        Argument::Long(tiled.total),
        Argument::Long(values.address()),
        Argument::Long(roots.address()),
    ];
    // SAFETY: these are the kernel's arguments. The table begins with `count` entries, whose ranges the caller allows
    // to be read. There is room for a value of each tile and a root of each message, and all of it is freed only after
    // the kernels.
    unsafe { device.launch(&LEAVES, blocks(device, &LEAVES, tiled.total), &arguments) }?;
    let (mut from, mut to) = (values.address(), joined.address());
    for (pass, branches) in passes.iter().zip(branches) {
        let arguments = [
            Argument::Long(table.address() + branches),
            Argument::Word(pass.count()),
            Argument::Long(pass.groups),
            Argument::Long(from),
            Argument::Long(to),
            Argument::Long(roots.address()),
        ];
        // SAFETY: these are the kernel's arguments. `passes` names values that the previous launch has written. Each
        // pass leaves fewer values than the one before, so they fit into the buffer that the previous launch has read.
        unsafe { device.launch(&JOIN, blocks(device, &JOIN, pass.groups), &arguments) }?;
        (from, to) = (to, from);
    }
    complete(&device.download(&roots)?, messages.len())
}

/// Number of tiles of a message; an empty message still has one chunk.
fn tiles(_address: u64, length: u64) -> u64 {
    length.div_ceil(TILE).max(1)
}

fn blocks(device: &impl Device, kernel: &Kernel, work: u64) -> u32 {
    let resident = device.resident(kernel);
    u32::try_from(work).map_or(resident, |work| work.min(resident))
}

/// Returns the roots. A root that is all zero was not written, as memory is zero before; no message is known to have
/// it.
fn complete(bytes: &[u8], count: usize) -> Result<Vec<Root>, Blake3Error> {
    let roots: Vec<Root> = bytes
        .chunks_exact(32)
        .filter_map(|root| Some(Root(root.try_into().ok()?)))
        .collect();
    let missing = roots.iter().position(|root| root.0 == [0; 32]);
    match missing.or((roots.len() < count).then_some(roots.len())) {
        Some(index) => Err(Blake3Error::Incomplete { index }),
        None => Ok(roots),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_that_was_not_written_is_none() {
        let mut bytes = [1; 64];
        assert_eq!(complete(&bytes, 2).unwrap().len(), 2);
        assert!(matches!(
            complete(&bytes, 3),
            Err(Blake3Error::Incomplete { index: 2 })
        ));
        bytes[32..].fill(0);
        assert_eq!(
            complete(&bytes, 2).unwrap_err().to_string(),
            "range 1 was not hashed, though the device reports no error: hash it again, and reset the GPU if that lasts"
        );
    }

    #[test]
    fn roots_are_printed_as_b3sum_does() {
        let root = Root(*blake3::hash(b"").as_bytes());
        assert_eq!(
            root.to_string(),
            "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
        );
    }
}
