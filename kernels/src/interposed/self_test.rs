//! Tests, before any secret data is on the GPU, that the interposed calls really arrive in this program.

use cudarc::driver::{CudaSlice, DevicePtr as _, DriverError};

use super::{contents, counts, ledger, scrub};
use crate::device::DeviceError;
use crate::gpu::{Gpu, GpuError};
use crate::ledger::{Counts, Part, Unknown};
use crate::sm90_scrub::{self, ScrubError};

/// Number of bytes written; odd, so that the last word is incomplete.
const BYTES: usize = 200_003;

/// Why the program must not serve.
#[derive(Debug, thiserror::Error)]
pub enum SelfTestError {
    /// A call did not arrive in the table, or was not counted as it was made.
    #[error(
        "the GPU's memory is not watched: {what}; this program is linked so that calls of the driver pass by it"
    )]
    Unseen {
        /// What was not seen.
        what: &'static str,
    },
    /// The kernels do not find the bytes that are in memory.
    #[error(
        "{found} bytes of a pattern of {BYTES} were counted in memory that was given back: what a scrub reports would mean nothing"
    )]
    Blind {
        /// Number of bytes that were counted.
        found: u64,
    },
    /// A scrub has left bytes that are not zero.
    #[error("a scrub has left {bytes} bytes that are not zero")]
    Residue {
        /// Number of bytes that are not zero.
        bytes: u64,
    },
    /// A call of the driver failed.
    #[error("the driver fails the self-test of the GPU's memory")]
    Driver(#[from] DriverError),
    /// The GPU cannot be used.
    #[error("the GPU fails the self-test of its memory")]
    Gpu(#[from] GpuError),
    /// The table does not list the memory as expected.
    #[error("the table fails the self-test of the GPU's memory")]
    Unknown(#[from] Unknown),
    /// The kernels failed.
    #[error("the kernels fail the self-test of the GPU's memory")]
    Scrub(#[from] ScrubError),
}

impl From<DeviceError> for SelfTestError {
    fn from(error: DeviceError) -> Self {
        Self::Scrub(error.into())
    }
}

/// Allocates, writes, reads, frees, scrubs and allocates again on the GPU's stream, and compares each step with the
/// table.
///
/// # Errors
/// [`SelfTestError`] at the first step that does not agree. The program must not serve then.
pub fn self_test(gpu: &Gpu) -> Result<(), SelfTestError> {
    let stream = gpu.stream();
    // No byte is zero, so the kernel must count all of them.
    let pattern: Vec<u8> = (0..BYTES)
        .map(|i| u8::try_from(i % 255 + 1).unwrap_or(1))
        .collect();
    let before = counts();
    let memory = stream.clone_htod(&pattern)?;
    let address = address(&memory, gpu);
    let entered = counts();
    // All bytes that were asked for were written, so none of them may be listed as derived.
    let contents = contents(&[])?;
    let written = Part {
        address,
        bytes: BYTES as u64,
    };
    let uploaded = contents.uploads.contains(&written)
        && contents
            .derived
            .iter()
            .all(|part| part.address < address || part.address >= address + BYTES as u64);
    must(
        entered.allocations == before.allocations + 1 && uploaded,
        "an allocation is not in the table with what was written to it",
    )?;
    must(
        crossed(&before, &entered) == (BYTES as u64, 1, 0, 0),
        "a copy to the GPU is not counted",
    )?;
    let mut back = stream.clone_dtoh(&memory)?;
    stream.synchronize()?;
    must(back == pattern, "a copy from the GPU brings something else")?;
    must(
        crossed(&entered, &counts()) == (0, 0, BYTES as u64, 1),
        "a copy from the GPU is not counted",
    )?;

    drop(memory);
    must(
        counts().releases == before.releases + 1 && !ledger().is_live(address),
        "memory that is given back stays in the table",
    )?;
    // SAFETY: the table keeps the freed memory. Meanwhile only this thread allocates, and only other sizes.
    let left = unsafe { gpu.span(address, BYTES as u64) }?;
    let found = sm90_scrub::count(gpu, &[left])?.into_iter().sum();
    if found != BYTES as u64 {
        return Err(SelfTestError::Blind { found });
    }
    // SAFETY: there is no pool.
    let scrubbed = unsafe { scrub(gpu, &[]) }?;
    residue(scrubbed.residue)?;

    // SAFETY: the scrub has written this memory, and every value of a byte is valid.
    let again: CudaSlice<u8> = unsafe { stream.alloc(BYTES) }?;
    must(
        self::address(&again, gpu) == address,
        "memory that was kept is not handed out again",
    )?;
    back = stream.clone_dtoh(&again)?;
    stream.synchronize()?;
    residue(back.iter().filter(|byte| **byte != 0).count() as u64)?;
    must(
        counts().strays == before.strays,
        "memory came or went without passing the table",
    )
}

fn address(memory: &CudaSlice<u8>, gpu: &Gpu) -> u64 {
    memory.device_ptr(gpu.stream()).0
}

/// Returns bytes and number of copies to the device, then from it.
fn crossed(before: &Counts, after: &Counts) -> (u64, u64, u64, u64) {
    (
        after.to_device.bytes - before.to_device.bytes,
        after.to_device.calls - before.to_device.calls,
        after.to_host.bytes - before.to_host.bytes,
        after.to_host.calls - before.to_host.calls,
    )
}

fn must(holds: bool, what: &'static str) -> Result<(), SelfTestError> {
    match holds {
        true => Ok(()),
        false => Err(SelfTestError::Unseen { what }),
    }
}

fn residue(bytes: u64) -> Result<(), SelfTestError> {
    match bytes {
        0 => Ok(()),
        bytes => Err(SelfTestError::Residue { bytes }),
    }
}
