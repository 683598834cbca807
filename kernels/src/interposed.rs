//! Defines, in this program, the calls of the driver and the runtime library that allocate, free and copy memory.
//!
//! In a program that is linked to libcuda, as every program with candle is, a function that the program defines takes
//! precedence over the library's. So every call that Rust code makes through cudarc, and every call of CUDA sources
//! compiled into the program, arrives here first. It is entered into the [`Ledger`] and handed on to the next library
//! in lookup order (`RTLD_NEXT`). This needs no fork of the engine, but is invisible in the engine's code. Therefore
//! the program must not serve unless [`self_test`] passes, and the image's build refuses a program that imports any
//! other function for memory from those libraries.
//!
//! Calls within the libraries are not affected: those of CUDA 12.4 and of driver R550 are linked so that they call
//! their own functions (`DT_SYMBOLIC`, and no relocation names one).
//!
//! | call | what happens |
//! |---|---|
//! | `cuMemAllocAsync` | hands out kept memory of that size and stream if there is some, else new memory |
//! | `cuMemFreeAsync` | keeps the memory, dirty, until [`scrub`]; overwrites and frees what exceeds the bound, or belongs to a stream that may end |
//! | `cuMemAllocFromPoolAsync`, `cuMemAlloc`, `cudaMallocAsync`, `cudaMalloc` | enters the memory into the table |
//! | `cuMemFree`, `cudaFreeAsync`, `cudaFree` | overwrites the memory, then frees it |
//! | `cuMemcpyHtoD*`, `cuMemcpyDtoH*`, `cudaMemcpy*` | counts the copy by direction |
//! | `cuMemAllocManaged`, `cuMemHostAlloc` | refuses: what crosses through such memory cannot be counted, and under confidential computing kernels read garbage in it |
//!
//! If memory is short, all kept memory goes back to the driver, and the allocating call is repeated once.
//!
//! Not seen, because this program does not make the calls: what NVIDIA's own libraries allocate for themselves
//! (cuBLAS's workspace, tens of MiB), loading of machine code, and arguments of kernels.

#![expect(
    unsafe_code,
    reason = "defines C functions that stand before those of the driver"
)]

mod give_back;
mod runtime;
mod self_test;
#[cfg(test)]
mod tests;

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use cudarc::driver::sys;

use crate::gpu::Gpu;
use crate::ledger::{Contents, Counts, Ledger, Unknown};
use crate::ranges::SpanMut;
use crate::sm90_scrub::{self, ScrubError, Scrubbed};

use give_back::{free, leave, or_give_back};
pub use self_test::{SelfTestError, self_test};

/// Largest amount of freed memory that is kept, in bytes.
const KEPT: u64 = 2 << 30;

const SUCCESS: c_int = 0;
const OUT_OF_MEMORY: c_int = 2;
/// `CUDA_ERROR_NOT_FOUND`: no library after this program defines the function.
const NOT_FOUND: c_int = 500;
/// `CUDA_ERROR_NOT_SUPPORTED`.
const NOT_SUPPORTED: c_int = 801;

static LEDGER: LazyLock<Mutex<Ledger>> = LazyLock::new(|| Mutex::new(Ledger::new(KEPT)));

/// What has been counted since the process began.
#[must_use]
pub fn counts() -> Counts {
    ledger().counts()
}

/// Returns every byte of memory in use except `aside` (see [`Ledger::contents`]). After a model is loaded, these are
/// its tensors and the data derived from them.
///
/// # Errors
/// [`Unknown`] if a part of `aside` is not an allocation in use.
pub fn contents(aside: &[(u64, u64)]) -> Result<Contents, Unknown> {
    ledger().contents(aside)
}

/// Runs `work`, and returns the address and size of the memory that it allocated, still uses and the host never wrote:
/// the scratch memory of a library. No other thread may allocate meanwhile.
pub fn scratch_of<T>(work: impl FnOnce() -> T) -> (T, Vec<(u64, u64)>) {
    let before = ledger().moment();
    let done = work();
    let left = ledger().scratch_since(before);
    (done, left)
}

/// The current moment, for [`live_bytes`].
#[must_use]
pub fn moment() -> u64 {
    ledger().moment()
}

/// Bytes that were handed out since `moment` and are still in use. No scrub reaches them, because their users have not
/// given them back.
#[must_use]
pub fn live_bytes(moment: u64) -> u64 {
    ledger().live_bytes(moment)
}

/// Waits for all streams, overwrites all memory that was given back and `pool`, reads it again, and counts the bytes
/// that are not zero. Adds both numbers to the counts.
///
/// # Errors
/// [`ScrubError`] if the memory could not be overwritten or counted. Memory that was given back then stays dirty, as it
/// does if bytes of it were not zero.
///
/// # Safety
/// Each entry of `pool`, an address and a size, must lie in one allocation on this GPU, which nobody uses meanwhile.
pub unsafe fn scrub(gpu: &Gpu, pool: &[(u64, u64)]) -> Result<Scrubbed, ScrubError> {
    let blocks = ledger().take_dirty();
    let given_back = blocks.iter().map(|block| (block.address, block.bytes));
    let outcome = gpu.finish().map_err(ScrubError::from).and_then(|()| {
        let ranges: Result<Vec<SpanMut<'_>>, _> = given_back
            .chain(pool.iter().copied())
            // SAFETY: memory that was given back has no user until it is put back, and the GPU has finished all earlier
            // work on it. The caller vouches for `pool`.
            .map(|(address, bytes)| unsafe { SpanMut::from_raw(address, bytes) })
            .collect();
        sm90_scrub::scrub(gpu, &mut ranges?)
    });
    let mut ledger = ledger();
    let clean = outcome.as_ref().is_ok_and(|scrubbed| scrubbed.residue == 0);
    ledger.put_back(&blocks, !clean);
    if let Ok(scrubbed) = outcome {
        ledger.scrubbed(scrubbed.bytes, scrubbed.residue);
    }
    outcome
}

/// Locks the table, ignoring poisoning: nothing panics while it holds the lock, so the table is always consistent.
fn ledger() -> MutexGuard<'static, Ledger> {
    LEDGER.lock().unwrap_or_else(PoisonError::into_inner)
}

unsafe extern "C" {
    /// Defined by the C library, to which every such program is linked.
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
}

/// Returns the address of a function in the libraries after this program in lookup order; 0 if none defines it.
fn next_in_line(name: &CStr) -> usize {
    /// `RTLD_NEXT` of glibc.
    const NEXT: *mut c_void = std::ptr::without_provenance_mut(usize::MAX);
    // SAFETY: the handle is one that glibc defines, and the string ends with 0.
    unsafe { dlsym(NEXT, name.as_ptr()) }.expose_provenance()
}

/// Calls the library's own function, which must have these argument types and return an `int`.
macro_rules! hand_on {
    ($name:ident($($value:expr),* $(,)?) as ($($kind:ty),*)) => {{
        static ADDRESS: std::sync::LazyLock<usize> =
            std::sync::LazyLock::new(|| $crate::interposed::next_in_line(
                // A function's name contains no NUL byte.
                std::ffi::CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()).unwrap_or_default(),
            ));
        match *ADDRESS {
            0 => $crate::interposed::NOT_FOUND,
            address => {
                let address = std::ptr::with_exposed_provenance::<()>(address);
                // SAFETY: the library's function of this name has this signature (cuda.h, cuda_runtime_api.h of 12.4).
                let function = unsafe {
                    std::mem::transmute::<*const (), unsafe extern "C" fn($($kind),*) -> c_int>(address)
                };
                // SAFETY: these are the caller's own arguments, or others that its contract allows.
                unsafe { function($($value),*) }
            }
        }
    }};
}
use hand_on;

/// # Safety
/// As for the driver's function.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemAllocAsync(
    address: *mut u64,
    bytes: usize,
    stream: sys::CUstream,
) -> c_int {
    let asked = bytes as u64;
    let capacity = Ledger::capacity(asked);
    let known = ledger().reuse(asked, stream.addr() as u64);
    if let Some(known) = known.filter(|_| !address.is_null()) {
        // SAFETY: `address` is the caller's place for the result.
        unsafe { address.write(known) };
        return SUCCESS;
    }
    let size = usize::try_from(capacity).unwrap_or(bytes);
    type Kind = *mut u64;
    let outcome = or_give_back(|| {
        hand_on!(cuMemAllocAsync(address, size, stream) as (Kind, usize, sys::CUstream))
    });
    // SAFETY: `address` is the caller's place for the result.
    unsafe { enter(outcome, address, asked, capacity) }
}

/// # Safety
/// As for the driver's function.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemFreeAsync(address: u64, stream: sys::CUstream) -> c_int {
    let retired = match address {
        0 => None,
        _ => ledger().released(address, Some(stream.addr() as u64)),
    };
    match retired {
        Some(retired) => free(&retired),
        None => hand_on!(cuMemFreeAsync(address, stream) as (u64, sys::CUstream)),
    }
}

/// # Safety
/// As for the driver's function.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemAllocFromPoolAsync(
    address: *mut u64,
    bytes: usize,
    pool: *mut c_void,
    stream: sys::CUstream,
) -> c_int {
    type Stream = sys::CUstream;
    let outcome = or_give_back(|| {
        hand_on!(cuMemAllocFromPoolAsync(address, bytes, pool, stream)
            as (*mut u64, usize, *mut c_void, Stream))
    });
    // SAFETY: `address` is the caller's place for the result.
    unsafe { enter(outcome, address, bytes as u64, bytes as u64) }
}

/// # Safety
/// As for the driver's function.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemAlloc_v2(address: *mut u64, bytes: usize) -> c_int {
    let outcome = or_give_back(|| hand_on!(cuMemAlloc_v2(address, bytes) as (*mut u64, usize)));
    // SAFETY: `address` is the caller's place for the result.
    unsafe { enter(outcome, address, bytes as u64, bytes as u64) }
}

/// # Safety
/// As for the driver's function.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemFree_v2(address: u64) -> c_int {
    leave(address, None, || hand_on!(cuMemFree_v2(address) as (u64)))
}

/// # Safety
/// As for the driver's function.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyHtoDAsync_v2(
    to: u64,
    from: *const c_void,
    bytes: usize,
    stream: sys::CUstream,
) -> c_int {
    ledger().wrote(to, bytes as u64);
    hand_on!(
        cuMemcpyHtoDAsync_v2(to, from, bytes, stream) as (u64, *const c_void, usize, sys::CUstream)
    )
}

/// # Safety
/// As for the driver's function.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyHtoD_v2(to: u64, from: *const c_void, bytes: usize) -> c_int {
    ledger().wrote(to, bytes as u64);
    hand_on!(cuMemcpyHtoD_v2(to, from, bytes) as (u64, *const c_void, usize))
}

/// # Safety
/// As for the driver's function.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyDtoHAsync_v2(
    to: *mut c_void,
    from: u64,
    bytes: usize,
    stream: sys::CUstream,
) -> c_int {
    ledger().read(bytes as u64);
    hand_on!(
        cuMemcpyDtoHAsync_v2(to, from, bytes, stream) as (*mut c_void, u64, usize, sys::CUstream)
    )
}

/// # Safety
/// As for the driver's function.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyDtoH_v2(to: *mut c_void, from: u64, bytes: usize) -> c_int {
    ledger().read(bytes as u64);
    hand_on!(cuMemcpyDtoH_v2(to, from, bytes) as (*mut c_void, u64, usize))
}

/// # Safety
/// No requirement: the function does nothing.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemAllocManaged(_address: *mut u64, _bytes: usize, _flags: u32) -> c_int {
    NOT_SUPPORTED
}

/// # Safety
/// No requirement: the function does nothing.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemHostAlloc(
    _address: *mut *mut c_void,
    _bytes: usize,
    _flags: u32,
) -> c_int {
    NOT_SUPPORTED
}

/// Enters an allocation into the table if it succeeded.
///
/// # Safety
/// If `outcome` is success, `address` must be where the library has written the result.
unsafe fn enter(outcome: c_int, address: *const u64, asked: u64, bytes: u64) -> c_int {
    if outcome == SUCCESS && !address.is_null() {
        // SAFETY: the library has just written it.
        ledger().allocated(unsafe { address.read() }, asked, bytes);
    }
    outcome
}
