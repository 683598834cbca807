//! The interface between launchers and a device: memory, and kernels that run in order. [`crate::gpu::Gpu`] implements
//! it for a GPU; tests implement it with the kernels' source, compiled for the processor.

#![expect(
    unsafe_code,
    reason = "starting a kernel cannot be safe: only the launcher knows what its arguments must be"
)]

use std::error::Error;
use std::ops::Range;

use crate::ranges::{RangeError, Span, SpanMut};

/// A kernel and its launch parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kernel {
    /// Name of the kernel in the cubin.
    pub name: &'static str,
    /// Threads per block, as in the source.
    pub threads: u32,
    /// Blocks that a multiprocessor holds at once, as in the source's launch bounds. More blocks would only wait.
    pub resident: u32,
    /// Whether the resident blocks need so much shared memory that a multiprocessor must provide as much of it as it
    /// can.
    pub shares: bool,
}

/// One argument of a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Argument {
    /// A device address or a 64-bit number.
    Long(u64),
    /// A 32-bit number.
    Word(u32),
}

/// An operation failed on the device. Kernels started before it may have run in part.
#[derive(Debug, thiserror::Error)]
#[error("the device cannot {operation}")]
pub struct DeviceError {
    /// Operation that failed.
    pub operation: &'static str,
    /// The device's error.
    #[source]
    pub source: Box<dyn Error + Send + Sync>,
}

/// A device that executes operations in order.
pub trait Device {
    /// Memory of the device. When dropped, it is freed after the operations started before.
    type Memory: Memory;

    /// Allocates `bytes` bytes, all zero.
    ///
    /// # Errors
    /// [`DeviceError`], for example if there is not enough memory.
    fn allocate(&self, bytes: u64) -> Result<Self::Memory, DeviceError>;

    /// Allocates memory with a copy of `bytes`.
    ///
    /// # Errors
    /// [`DeviceError`] if the memory cannot be allocated or written.
    fn upload(&self, bytes: &[u8]) -> Result<Self::Memory, DeviceError>;

    /// Waits for everything that was started, and returns the bytes of `memory`.
    ///
    /// # Errors
    /// [`DeviceError`], also for errors of operations started before.
    fn download(&self, memory: &Self::Memory) -> Result<Vec<u8>, DeviceError>;

    /// How many blocks of `kernel` run at once on the whole device.
    fn resident(&self, kernel: &Kernel) -> u32;

    /// Starts `kernel` with this number of blocks.
    ///
    /// # Errors
    /// [`DeviceError`] if the kernel is not known or cannot be started.
    ///
    /// # Safety
    /// `arguments` must have the number, order and types that the kernel expects. Every address that the kernel follows
    /// must point to memory of this device that is large enough, stays allocated until the kernel is done, and is not
    /// used by anyone else meanwhile; memory that is only read may also be read by others.
    unsafe fn launch(
        &self,
        kernel: &Kernel,
        blocks: u32,
        arguments: &[Argument],
    ) -> Result<(), DeviceError>;
}

/// Memory of a device.
pub trait Memory {
    /// Address of the first byte.
    fn address(&self) -> u64;

    /// Size in bytes.
    fn bytes(&self) -> u64;

    /// Borrows a part of the memory for reading.
    ///
    /// # Errors
    /// [`RangeError::Outside`] if the part is not within the memory.
    fn span(&self, part: Range<u64>) -> Result<Span<'_>, RangeError> {
        let (address, length) = within(self.address(), self.bytes(), part)?;
        // SAFETY: the range lies in memory that the result borrows.
        unsafe { Span::from_raw(address, length) }
    }

    /// Borrows a part of the memory for writing.
    ///
    /// # Errors
    /// [`RangeError::Outside`] if the part is not within the memory.
    fn span_mut(&mut self, part: Range<u64>) -> Result<SpanMut<'_>, RangeError> {
        let (address, length) = within(self.address(), self.bytes(), part)?;
        // SAFETY: the range lies in memory that the result borrows exclusively.
        unsafe { SpanMut::from_raw(address, length) }
    }
}

fn within(address: u64, bytes: u64, part: Range<u64>) -> Result<(u64, u64), RangeError> {
    if part.start > part.end || part.end > bytes {
        return Err(RangeError::Outside { part, bytes });
    }
    Ok((address + part.start, part.end - part.start))
}
