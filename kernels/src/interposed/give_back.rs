//! Returns memory to the driver. It is overwritten first, on any thread, and stays in the table if the driver refuses
//! it.

use std::ffi::c_int;
use std::sync::LazyLock;

use cudarc::driver::{DriverError, result, sys};

use super::{OUT_OF_MEMORY, SUCCESS, hand_on, ledger};
use crate::ledger::Retired;

/// Runs `allocate`. If memory is short, returns all kept memory to the driver and runs `allocate` once more.
pub(super) fn or_give_back(mut allocate: impl FnMut() -> c_int) -> c_int {
    let outcome = allocate();
    if outcome != OUT_OF_MEMORY {
        return outcome;
    }
    let kept = ledger().retire_all();
    match free(&kept) == SUCCESS && settle().is_ok() {
        true => allocate(),
        false => outcome,
    }
}

/// Makes freed memory available to every allocating call. The driver's pool releases memory only after a
/// synchronisation, and only as much as it is told to.
fn settle() -> Result<(), DriverError> {
    result::ctx::synchronize()?;
    let device = result::device::get(0)?;
    // SAFETY: the driver has returned this device.
    let pool = unsafe { result::device::get_default_mem_pool(device) }?;
    // SAFETY: this is the driver's own pool, which lives as long as the device.
    unsafe { result::mem_pool::trim_to(pool, 0) }
}

/// Overwrites dirty blocks and frees all. A block that cannot be overwritten is not freed, and a block that is not
/// freed is kept for the next scrub. Returns the first error.
pub(super) fn free(retired: &[Retired]) -> c_int {
    let mut first = SUCCESS;
    for Retired { block, dirty } in retired {
        let stream = block.stream.map(handle);
        let mut outcome = match *dirty {
            true => overwrite(block.address, block.bytes, stream),
            false => bound(),
        };
        if outcome == SUCCESS {
            outcome = match stream {
                Some(stream) => {
                    hand_on!(cuMemFreeAsync(block.address, stream) as (u64, sys::CUstream))
                }
                // `cuMemFree` frees memory of any kind.
                None => hand_on!(cuMemFree_v2(block.address) as (u64)),
            };
        }
        if outcome != SUCCESS {
            ledger().refused(*block);
        }
        if first == SUCCESS {
            first = outcome;
        }
    }
    first
}

/// Overwrites memory with zeros, after everything queued on `stream`. Without a stream, waits until that is done,
/// because the calls that free memory without a stream do not wait if the memory belongs to a pool.
fn overwrite(address: u64, bytes: u64, stream: Option<sys::CUstream>) -> c_int {
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    let on = stream.unwrap_or(std::ptr::null_mut());
    let mut outcome = bound();
    if outcome == SUCCESS {
        // SAFETY: the table lists these bytes as one allocation, which is being freed.
        outcome = unsafe { sys::cuMemsetD8Async(address, 0, bytes, on) as c_int };
    }
    if outcome == SUCCESS && stream.is_none() {
        // SAFETY: this is the default stream, which lives as long as the context.
        outcome = unsafe { sys::cuStreamSynchronize(on) as c_int };
    }
    outcome
}

/// Makes the GPU's primary context current on a thread that has none, such as a thread that has only dropped a tensor.
/// Neither cudarc nor the runtime library does so before a free.
fn bound() -> c_int {
    /// Address of the primary context, which is never released: the engine has one GPU, and all its parts use this
    /// context.
    static PRIMARY: LazyLock<Result<usize, c_int>> = LazyLock::new(|| {
        let (mut device, mut context) = (0, std::ptr::null_mut());
        // SAFETY: the result is written to a variable of the right type.
        let mut outcome = unsafe { sys::cuDeviceGet(&raw mut device, 0) as c_int };
        if outcome == SUCCESS {
            // SAFETY: as above, and the driver has named the device.
            outcome = unsafe { sys::cuDevicePrimaryCtxRetain(&raw mut context, device) as c_int };
        }
        match outcome {
            SUCCESS => Ok(context.expose_provenance()),
            error => Err(error),
        }
    });
    let mut current = std::ptr::null_mut();
    // SAFETY: the result is written to a variable of the right type.
    match unsafe { sys::cuCtxGetCurrent(&raw mut current) as c_int } {
        SUCCESS if current.is_null() => match *PRIMARY {
            // SAFETY: the context was retained above and is never released.
            Ok(context) => unsafe {
                sys::cuCtxSetCurrent(std::ptr::with_exposed_provenance_mut(context)) as c_int
            },
            Err(error) => error,
        },
        outcome => outcome,
    }
}

fn handle(stream: u64) -> sys::CUstream {
    std::ptr::without_provenance_mut(usize::try_from(stream).unwrap_or_default())
}

/// Frees memory that is not kept: removes it from the table, overwrites it after everything queued on `stream`, and
/// calls `give`. If the library refuses it, it is kept for the next scrub.
pub(super) fn leave(
    address: u64,
    stream: Option<sys::CUstream>,
    give: impl FnOnce() -> c_int,
) -> c_int {
    let retired = match address {
        0 => None,
        _ => ledger().released(address, None),
    };
    let known = retired.is_some();
    let (own, others): (Vec<Retired>, Vec<Retired>) = retired
        .unwrap_or_default()
        .into_iter()
        .partition(|retired| retired.block.address == address);
    let before = free(&others);
    let own = own.first().map(|retired| retired.block);
    if known && own.is_none() {
        // The memory was given back before and is kept, so there is nothing to free.
        return before;
    }
    let mut outcome = own.map_or(SUCCESS, |own| overwrite(own.address, own.bytes, stream));
    if outcome == SUCCESS {
        outcome = give();
    }
    if let Some(own) = own.filter(|_| outcome != SUCCESS) {
        ledger().refused(own);
    }
    match outcome {
        SUCCESS => before,
        error => error,
    }
}
