//! Defines the runtime library's calls that mistral.rs's CUDA sources make. These are compiled into the engine with one
//! default stream per thread, as the suffixes `_ptsz` and `_ptds` say.

use std::ffi::{c_int, c_void};

use cudarc::driver::sys;

use super::{enter, hand_on, leave, ledger, or_give_back};

/// `CU_STREAM_PER_THREAD`, which a null stream stands for in these calls.
const PER_THREAD: usize = 2;

/// Values of `cudaMemcpyKind`.
mod kind {
    use super::c_int;

    pub const HOST_TO_DEVICE: c_int = 1;
    pub const DEVICE_TO_HOST: c_int = 2;
    /// The library derives the direction from the addresses.
    pub const DEFAULT: c_int = 4;
}

fn of_thread(stream: sys::CUstream) -> sys::CUstream {
    match stream.is_null() {
        true => std::ptr::without_provenance_mut(PER_THREAD),
        false => stream,
    }
}

/// Runs [`or_give_back`], and clears the library's last error before the repeated call. Otherwise a later check, such
/// as that after a kernel launch, would report an error that no longer matters.
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
    // A copy of unknown direction is counted twice rather than not at all.
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
    // SAFETY: `address` is the caller's place for the result.
    unsafe { enter(outcome, address, bytes as u64, bytes as u64) }
}

/// # Safety
/// As for the library's function.
#[unsafe(no_mangle)]
unsafe extern "C" fn cudaMalloc(address: *mut u64, bytes: usize) -> c_int {
    let outcome = allocate(|| hand_on!(cudaMalloc(address, bytes) as (*mut u64, usize)));
    // SAFETY: `address` is the caller's place for the result.
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
