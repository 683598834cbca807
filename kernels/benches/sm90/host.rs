//! What hashing on the host costs, copying there included: what there would be without a kernel.

#![expect(unsafe_code, reason = "the driver's copy takes a plain address")]

use std::error::Error;
use std::time::Instant;

use cocoon_kernels::device::Memory as _;
use cocoon_kernels::gpu::{Gpu, GpuMemory};
use cudarc::driver::result;

use crate::measure::Report;

/// Both, one after the other.
pub const BOTH: &str = "copy to the host, hash on one core";

const RUNS: usize = 3;

/// Adds medians of copying the first `bytes` of `memory` to a buffer that is in memory already, of hashing them there, and
/// of both; and says the root.
pub fn time(
    report: &mut Report,
    gpu: &Gpu,
    memory: &GpuMemory,
    bytes: u64,
) -> Result<blake3::Hash, Box<dyn Error>> {
    // The copy is on another stream.
    gpu.stream().synchronize()?;
    // Not zero, so that every page is there before the first copy.
    let mut buffer = vec![1_u8; usize::try_from(bytes)?];
    let (mut copies, mut hashes, mut both) = (Vec::new(), Vec::new(), Vec::new());
    let mut root = blake3::hash(b"");
    // The first does not count.
    for run in 0..=RUNS {
        let begin = Instant::now();
        let source = memory.span(0..bytes)?.address();
        // SAFETY: these are bytes of memory that is borrowed here, and nothing writes it.
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
