//! The driver's and the runtime library's calls that allocate, free and copy, defined by this program itself.
//!
//! A program that is linked to libcuda, as whatever uses candle is, takes a function that it defines itself instead of the
//! library's. So every call that Rust code makes through cudarc, and every call of CUDA sources that are compiled into the
//! program, comes here first: it is entered into the [`Ledger`] and handed on to the library that is next in line
//! (`RTLD_NEXT`). Nobody forks the engine for that, and nobody who reads the engine sees it: hence [`self_test`], without
//! which nothing may be served, and hence the image's build, which refuses a program that takes any other function for
//! memory from those libraries.
//!
//! The libraries themselves are not affected: those of CUDA 12.4 and of driver R550 are linked so that they call their own
//! functions and never ours (`DT_SYMBOLIC`, and no relocation names one).
//!
//! | call | what happens |
//! |---|---|
//! | `cuMemAllocAsync` | kept memory of that size and stream if there is some, else the driver's |
//! | `cuMemFreeAsync` | kept, dirty, until [`scrub`]; what is too much, or of a stream that may end, is overwritten and freed |
//! | `cuMemAllocFromPoolAsync`, `cuMemAlloc`, `cudaMallocAsync`, `cudaMalloc` | entered |
//! | `cuMemFree`, `cudaFreeAsync`, `cudaFree` | overwritten, then freed |
//! | `cuMemcpyHtoD*`, `cuMemcpyDtoH*`, `cudaMemcpy*` | counted by direction |
//! | `cuMemAllocManaged`, `cuMemHostAlloc` | refused: what crosses through such memory cannot be counted, and in confidential computing kernels read garbage in it |
//!
//! Where memory is short, what is kept goes back to the driver, and whoever asks for memory by any of these is asked for once
//! more.
//!
//! Not seen, as no call of this program makes them: what NVIDIA's own libraries allocate for themselves (cuBLAS's
//! workspace, tens of MiB), machine code that is loaded, and arguments of kernels.

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

/// Most bytes that are kept: two thousandths of an H100's memory for each of its tensors would be as much.
const KEPT: u64 = 2 << 30;

const SUCCESS: c_int = 0;
const OUT_OF_MEMORY: c_int = 2;
/// `CUDA_ERROR_NOT_FOUND`: the library that should be next in line has no such function.
const NOT_FOUND: c_int = 500;
/// `CUDA_ERROR_NOT_SUPPORTED`.
const NOT_SUPPORTED: c_int = 801;

static LEDGER: LazyLock<Mutex<Ledger>> = LazyLock::new(|| Mutex::new(Ledger::new(KEPT)));

/// What has been counted since the process began.
#[must_use]
pub fn counts() -> Counts {
    ledger().counts()
}

/// Every byte of memory that is in use, without `aside` (see [`Ledger::contents`]): once a model is loaded, its tensors, and
/// what was made of them.
///
/// # Errors
/// [`Unknown`].
pub fn contents(aside: &[(u64, u64)]) -> Result<Contents, Unknown> {
    ledger().contents(aside)
}

/// What `work` has allocated and left in use, and the host never wrote: scratch memory of a library, by address and bytes.
/// Nobody else may allocate meanwhile.
pub fn scratch_of<T>(work: impl FnOnce() -> T) -> (T, Vec<(u64, u64)>) {
    let before = ledger().moment();
    let done = work();
    let left = ledger().scratch_since(before);
    (done, left)
}

/// A moment, for [`live_bytes`].
#[must_use]
pub fn moment() -> u64 {
    ledger().moment()
}

/// Bytes that were handed out since `moment` and are in use: whoever has them has not given them back, and no scrub reaches
/// them.
#[must_use]
pub fn live_bytes(moment: u64) -> u64 {
    ledger().live_bytes(moment)
}

/// Overwrites everything that was given back and `pool`, reads it again, and counts what is not zero. Both numbers go into
/// the counts, too. Whatever any stream was given to do is done first.
///
/// # Errors
/// [`ScrubError`]. What was given back then stays dirty.
///
/// # Safety
/// Each of `pool`, an address and bytes, is one allocation's on this GPU, and nobody uses it meanwhile.
pub unsafe fn scrub(gpu: &Gpu, pool: &[(u64, u64)]) -> Result<Scrubbed, ScrubError> {
    let blocks = ledger().take_dirty();
    let given_back = blocks.iter().map(|block| (block.address, block.bytes));
    let outcome = gpu.finish().map_err(ScrubError::from).and_then(|()| {
        let ranges: Result<Vec<SpanMut<'_>>, _> = given_back
            .chain(pool.iter().copied())
            // SAFETY: blocks that were given back are the driver's until they are put back, and nobody else's; everybody
            // who used them is done. The caller vouches for `pool`.
            .map(|(address, bytes)| unsafe { SpanMut::from_raw(address, bytes) })
            .collect();
        sm90_scrub::scrub(gpu, &mut ranges?)
    });
    let mut ledger = ledger();
    ledger.put_back(&blocks, outcome.is_err());
    if let Ok(scrubbed) = outcome {
        ledger.scrubbed(scrubbed.bytes, scrubbed.residue);
    }
    outcome
}

/// Nothing panics while it holds the lock, so that a poisoned one is still whole.
fn ledger() -> MutexGuard<'static, Ledger> {
    LEDGER.lock().unwrap_or_else(PoisonError::into_inner)
}

unsafe extern "C" {
    /// Of the C library, to which every such program is linked.
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
}

/// The address of a function in the libraries behind this program; 0 where none has it.
fn next_in_line(name: &CStr) -> usize {
    /// glibc's `RTLD_NEXT`.
    const NEXT: *mut c_void = std::ptr::without_provenance_mut(usize::MAX);
    // SAFETY: a handle that glibc defines, and a string that ends with 0.
    unsafe { dlsym(NEXT, name.as_ptr()) }.expose_provenance()
}

/// Hands a call on. The named function must have these arguments and return an `int`.
macro_rules! hand_on {
    ($name:ident($($value:expr),* $(,)?) as ($($kind:ty),*)) => {{
        static ADDRESS: std::sync::LazyLock<usize> =
            std::sync::LazyLock::new(|| $crate::interposed::next_in_line(
                // Names of functions have no zero within.
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
                // SAFETY: the caller's own arguments, or those that its contract allows.
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
        // SAFETY: the caller's place for the result.
        unsafe { address.write(known) };
        return SUCCESS;
    }
    let size = usize::try_from(capacity).unwrap_or(bytes);
    type Kind = *mut u64;
    let outcome = or_give_back(|| {
        hand_on!(cuMemAllocAsync(address, size, stream) as (Kind, usize, sys::CUstream))
    });
    // SAFETY: the caller's place for the result.
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
    // SAFETY: the caller's place for the result.
    unsafe { enter(outcome, address, bytes as u64, bytes as u64) }
}

/// # Safety
/// As for the driver's function.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemAlloc_v2(address: *mut u64, bytes: usize) -> c_int {
    let outcome = or_give_back(|| hand_on!(cuMemAlloc_v2(address, bytes) as (*mut u64, usize)));
    // SAFETY: the caller's place for the result.
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
/// None: it does nothing.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemAllocManaged(_address: *mut u64, _bytes: usize, _flags: u32) -> c_int {
    NOT_SUPPORTED
}

/// # Safety
/// None: it does nothing.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemHostAlloc(
    _address: *mut *mut c_void,
    _bytes: usize,
    _flags: u32,
) -> c_int {
    NOT_SUPPORTED
}

/// Enters what was allocated, if it was.
///
/// # Safety
/// `address` is where the library has put the result, if `outcome` is success.
unsafe fn enter(outcome: c_int, address: *const u64, asked: u64, bytes: u64) -> c_int {
    if outcome == SUCCESS && !address.is_null() {
        // SAFETY: just written.
        ledger().allocated(unsafe { address.read() }, asked, bytes);
    }
    outcome
}
