//! Measures copying to the host and hashing there: the cost of hashing without a kernel.

#![expect(unsafe_code, reason = "the driver's copy takes a plain address")]

use std::error::Error;
use std::time::Instant;

use cocoon_kernels::device::Memory as _;
use cocoon_kernels::gpu::{Gpu, GpuMemory};
use cudarc::driver::result;

use crate::measure::Report;

/// Name of the row for copying followed by hashing.
pub const BOTH: &str = "copy to the host, hash on one core";

const RUNS: usize = 3;

/// Adds the medians of copying the first `bytes` of `memory` to a buffer on the host, of hashing them there, and of
/// both. Returns the root.
pub fn time(
    report: &mut Report,
    gpu: &Gpu,
    memory: &GpuMemory,
    bytes: u64,
) -> Result<blake3::Hash, Box<dyn Error>> {
    // The copy runs on another stream, so the work on this one must be done first.
    gpu.stream().synchronize()?;
    // The buffer is filled with ones, so that all its pages are mapped before the first copy.
    let mut buffer = vec![1_u8; usize::try_from(bytes)?];
    let (mut copies, mut hashes, mut both) = (Vec::new(), Vec::new(), Vec::new());
    let mut root = blake3::hash(b"");
    // The first run is not counted.
    for run in 0..=RUNS {
        let begin = Instant::now();
        let source = memory.span(0..bytes)?.address();
        // SAFETY: these bytes lie in memory that is borrowed here, and nothing writes them.
        unsafe { result::memcpy_dtoh_sync(&mut buffer, source) }?;
        let copied = begin.elapsed();
        root = blake3::hash(&buffer);
        let done = begin.elapsed();
        if run > 0 {
            copies.push(copied.as_secs_f64());
            hashes.push((done - copied).as_secs_f64());
            both.push(done.as_secs_f64());
        }
    }
    report.host("copy to the host", bytes, copies);
    report.host("hash on one core of the host", bytes, hashes);
    report.host(BOTH, bytes, both);
    Ok(root)
}
