//! How memory goes back to the driver: overwritten first, on whatever thread, and not forgotten where the driver refuses.

use std::ffi::c_int;
use std::sync::LazyLock;

use cudarc::driver::{DriverError, result, sys};

use super::{OUT_OF_MEMORY, SUCCESS, hand_on, ledger};
use crate::ledger::Retired;

/// What `allocate` comes to. Where memory is short, everything that is kept goes back to the driver, and it is called once
/// more.
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

/// What was freed is there for everybody. The driver's pool gives it up only when somebody waits for the GPU, and then no more
/// than it is told to.
fn settle() -> Result<(), DriverError> {
    result::ctx::synchronize()?;
    let device = result::device::get(0)?;
    // SAFETY: the driver has named the device.
    let pool = unsafe { result::device::get_default_mem_pool(device) }?;
    // SAFETY: the driver's own pool, which lives as long as the device.
    unsafe { result::mem_pool::trim_to(pool, 0) }
}

/// Overwrites what is dirty and frees it. What cannot be overwritten is not freed, and what is not freed is kept for the
/// next scrub. The first error counts.
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
                // Of any kind.
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

/// Behind everything that `stream` was given to do. Without one it is done when this returns, for what frees memory without
/// a stream waits for nothing where the memory is a pool's.
fn overwrite(address: u64, bytes: u64, stream: Option<sys::CUstream>) -> c_int {
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    let on = stream.unwrap_or(std::ptr::null_mut());
    let mut outcome = bound();
    if outcome == SUCCESS {
        // SAFETY: the table has these bytes as one allocation's, which is being freed.
        outcome = unsafe { sys::cuMemsetD8Async(address, 0, bytes, on) as c_int };
    }
    if outcome == SUCCESS && stream.is_none() {
        // SAFETY: the default stream, which lives as long as the context.
        outcome = unsafe { sys::cuStreamSynchronize(on) as c_int };
    }
    outcome
}

/// Makes the GPU's primary context current where none is, as on a thread that has done nothing but drop a tensor: neither
/// cudarc nor the runtime library does it before a free.
fn bound() -> c_int {
    /// Address of the context, which stays: the engine has one GPU, and every part of it uses its primary context.
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
            // SAFETY: retained above, and never released.
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

/// Takes memory of no stream from the table, overwrites it behind what `stream` was given to do, and hands it on to `give`.
/// What the library does not take is kept for the next scrub.
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
        // Given back before, and kept.
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
