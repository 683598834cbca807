//! Prepares the memory that is measured: its size, the driver's pool, and its content.

#![expect(
    unsafe_code,
    reason = "the driver's pool and copy take plain handles and addresses"
)]

use std::error::Error;
use std::time::{Duration, Instant};

use cocoon_kernels::device::{Device as _, Memory as _};
use cocoon_kernels::gpu::{Gpu, GpuMemory};
use cocoon_kernels::reference;
use cudarc::driver::result;
use cudarc::driver::sys::{CUmemPool_attribute as Attribute, CUstream};

const MIB: u64 = 1 << 20;
/// Random bytes that are made on the host and repeated on the device.
const PATTERN: u64 = 256 * MIB;
/// How long to warm up: the clocks of an idle GPU are low.
const WARM: Duration = Duration::from_millis(500);

/// Returns `asked`, or seven eighths of the free memory if that is less.
pub fn room(gpu: &Gpu, asked: u64) -> Result<u64, Box<dyn Error>> {
    let (free, _) = gpu.stream().context().mem_get_info()?;
    let most = (free as u64 / 8 * 7 / MIB).max(1) * MIB;
    if most < asked {
        eprintln!(
            "{} MiB are free: {} are measured instead of {}",
            free as u64 / MIB,
            most / MIB,
            asked / MIB
        );
    }
    Ok(asked.min(most))
}

/// Makes the driver's pool keep freed memory, as the engine does. Otherwise every synchronisation unmaps it, and the
/// next call maps it again.
pub fn keep_what_is_freed(gpu: &Gpu) -> Result<(), Box<dyn Error>> {
    let context = gpu.stream().context();
    context.bind_to_thread()?;
    let mut most = u64::MAX;
    // SAFETY: this is the context's own device.
    let pool = unsafe { result::device::get_default_mem_pool(context.cu_device()) }?;
    let attribute = Attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: this attribute of the pool is a number of 64 bits.
    unsafe { result::mem_pool::set_attribute(pool, attribute, (&raw mut most).cast()) }?;
    Ok(())
}

/// Repeats the call for half a second.
pub fn warm(
    gpu: &Gpu,
    call: impl Fn(CUstream) -> Result<(), Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    let begin = Instant::now();
    while begin.elapsed() < WARM {
        call(gpu.stream().cu_stream())?;
        gpu.stream().synchronize()?;
    }
    Ok(())
}

/// Fills memory with pseudo-random bytes, repeated every 256 MiB; returns how many of all are not zero.
pub fn randomize(gpu: &Gpu, memory: &mut GpuMemory) -> Result<u64, Box<dyn Error>> {
    let bytes = memory.bytes();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    // The pattern has whole words, so its last word may extend beyond what is copied.
    let words = bytes.min(PATTERN).div_ceil(8);
    let pattern: Vec<u8> = (0..words).flat_map(|_| next()).collect();
    let source = gpu.upload(&pattern)?;
    let mut dirty = 0;
    let mut done = 0;
    let whole = reference::count(&pattern);
    while done < bytes {
        let part = usize::try_from((bytes - done).min(pattern.len() as u64))?;
        let (to, from) = (memory.address() + done, source.address());
        // SAFETY: within memory that this function borrows exclusively, and within its source, which is freed after the
        // copy.
        unsafe { result::memcpy_dtod_async(to, from, part, gpu.stream().cu_stream()) }?;
        dirty += match part == pattern.len() {
            true => whole,
            false => reference::count(&pattern[..part]),
        };
        done += part as u64;
    }
    gpu.stream().synchronize()?;
    Ok(dirty)
}
