//! The runtime library's calls that mistral.rs's own CUDA sources make: they are compiled into the engine, with one default
//! stream for each thread, which the names' endings say (`_ptsz`, `_ptds`).

use std::ffi::{c_int, c_void};

use cudarc::driver::sys;

use super::{enter, hand_on, leave, ledger, or_give_back};

/// `CU_STREAM_PER_THREAD`: what no stream means in these calls.
const PER_THREAD: usize = 2;

/// `cudaMemcpyKind`.
mod kind {
    use super::c_int;

    pub const HOST_TO_DEVICE: c_int = 1;
    pub const DEVICE_TO_HOST: c_int = 2;
    /// The library finds the direction out.
    pub const DEFAULT: c_int = 4;
}

fn of_thread(stream: sys::CUstream) -> sys::CUstream {
    match stream.is_null() {
        true => std::ptr::without_provenance_mut(PER_THREAD),
        false => stream,
    }
}

/// As [`or_give_back`]. The library remembers an error until somebody asks, as kernels' launches do: one that is made good is
/// forgotten.
fn allocate(call: impl Fn() -> c_int) -> c_int {
    let mut again = false;
    or_give_back(|| {
        if std::mem::replace(&mut again, true) {
            hand_on!(cudaGetLastError() as ());
        }
        call()
    })
}

fn count(to: *const c_void, bytes: usize, kind: c_int) {
    let (bytes, to) = (bytes as u64, to.addr() as u64);
    // Rather twice than not at all.
    if matches!(kind, kind::HOST_TO_DEVICE | kind::DEFAULT) {
        ledger().wrote(to, bytes);
    }
    if matches!(kind, kind::DEVICE_TO_HOST | kind::DEFAULT) {
        ledger().read(bytes);
    }
}

/// # Safety
/// As for the library's function.
#[unsafe(no_mangle)]
unsafe extern "C" fn cudaMallocAsync_ptsz(
    address: *mut u64,
    bytes: usize,
    stream: sys::CUstream,
) -> c_int {
    type Stream = sys::CUstream;
    let outcome = allocate(|| {
        hand_on!(cudaMallocAsync_ptsz(address, bytes, stream) as (*mut u64, usize, Stream))
    });
    // SAFETY: the caller's place for the result.
    unsafe { enter(outcome, address, bytes as u64, bytes as u64) }
}

/// # Safety
/// As for the library's function.
#[unsafe(no_mangle)]
unsafe extern "C" fn cudaMalloc(address: *mut u64, bytes: usize) -> c_int {
    let outcome = allocate(|| hand_on!(cudaMalloc(address, bytes) as (*mut u64, usize)));
    // SAFETY: the caller's place for the result.
    unsafe { enter(outcome, address, bytes as u64, bytes as u64) }
}

/// # Safety
/// As for the library's function.
#[unsafe(no_mangle)]
unsafe extern "C" fn cudaFreeAsync_ptsz(address: u64, stream: sys::CUstream) -> c_int {
    leave(address, Some(of_thread(stream)), || {
        hand_on!(cudaFreeAsync_ptsz(address, stream) as (u64, sys::CUstream))
    })
}

/// # Safety
/// As for the library's function.
#[unsafe(no_mangle)]
unsafe extern "C" fn cudaFree(address: u64) -> c_int {
    leave(address, None, || hand_on!(cudaFree(address) as (u64)))
}

/// # Safety
/// As for the library's function.
#[unsafe(no_mangle)]
unsafe extern "C" fn cudaMemcpyAsync_ptsz(
    to: *mut c_void,
    from: *const c_void,
    bytes: usize,
    kind: c_int,
    stream: sys::CUstream,
) -> c_int {
    count(to, bytes, kind);
    type Stream = sys::CUstream;
    hand_on!(cudaMemcpyAsync_ptsz(to, from, bytes, kind, stream)
        as (*mut c_void, *const c_void, usize, c_int, Stream))
}

/// # Safety
/// As for the library's function.
#[unsafe(no_mangle)]
unsafe extern "C" fn cudaMemcpy_ptds(
    to: *mut c_void,
    from: *const c_void,
    bytes: usize,
    kind: c_int,
) -> c_int {
    count(to, bytes, kind);
    hand_on!(cudaMemcpy_ptds(to, from, bytes, kind) as (*mut c_void, *const c_void, usize, c_int))
}
