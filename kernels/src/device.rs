//! What a launcher needs of a device: memory, and kernels that run one after the other. A GPU is one
//! ([`crate::gpu::Gpu`]); tests have another, which runs the kernels' source on the processor.

#![expect(
    unsafe_code,
    reason = "starting a kernel cannot be safe: only the launcher knows what its arguments must be"
)]

use std::error::Error;
use std::ops::Range;

use crate::ranges::{RangeError, Span, SpanMut};

/// A kernel and how it is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kernel {
    /// Its name in the cubin.
    pub name: &'static str,
    /// Threads of a block; the source has the same number.
    pub threads: u32,
    /// Blocks that a multiprocessor holds at once, as the source asks of the compiler; more would only wait.
    pub resident: u32,
    /// Whether these share so much memory that the multiprocessor's cache must give all of it that it can.
    pub shares: bool,
}

/// One argument of a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Argument {
    /// A device address, or a number of 64 bits.
    Long(u64),
    /// A number of 32 bits.
    Word(u32),
}

/// Something went wrong on the device; kernels that had been started may have run in part.
#[derive(Debug, thiserror::Error)]
#[error("the device cannot {operation}")]
pub struct DeviceError {
    /// What was tried.
    pub operation: &'static str,
    /// What the device said.
    #[source]
    pub source: Box<dyn Error + Send + Sync>,
}

/// A device on which one thing happens after the other.
pub trait Device {
    /// Its memory; freed when dropped, after what was started before.
    type Memory: Memory;

    /// `bytes` of memory, all zero.
    ///
    /// # Errors
    /// [`DeviceError`], when there is no more for example.
    fn allocate(&self, bytes: u64) -> Result<Self::Memory, DeviceError>;

    /// Memory with a copy of `bytes`.
    ///
    /// # Errors
    /// [`DeviceError`].
    fn upload(&self, bytes: &[u8]) -> Result<Self::Memory, DeviceError>;

    /// The bytes of `memory`, once everything that was started is done.
    ///
    /// # Errors
    /// [`DeviceError`], also of what was started before.
    fn download(&self, memory: &Self::Memory) -> Result<Vec<u8>, DeviceError>;

    /// How many blocks of `kernel` run at once.
    fn resident(&self, kernel: &Kernel) -> u32;

    /// Starts `kernel` with that many blocks.
    ///
    /// # Errors
    /// [`DeviceError`].
    ///
    /// # Safety
    /// Number, order and kinds of `arguments` must be the kernel's, and every address that it follows must be of memory
    /// on this device that is large enough, lives until the kernel is done, and is used by nobody else meanwhile, except
    /// that what is only read may be read by others.
    unsafe fn launch(
        &self,
        kernel: &Kernel,
        blocks: u32,
        arguments: &[Argument],
    ) -> Result<(), DeviceError>;
}

/// Memory of a device.
pub trait Memory {
    /// Where it begins.
    fn address(&self) -> u64;

    /// How many bytes it has.
    fn bytes(&self) -> u64;

    /// A part of it, to be read.
    ///
    /// # Errors
    /// [`RangeError::Outside`].
    fn span(&self, part: Range<u64>) -> Result<Span<'_>, RangeError> {
        let (address, length) = within(self.address(), self.bytes(), part)?;
        // SAFETY: the range lies in memory that the result borrows.
        unsafe { Span::from_raw(address, length) }
    }

    /// A part of it, to be written.
    ///
    /// # Errors
    /// [`RangeError::Outside`].
    fn span_mut(&mut self, part: Range<u64>) -> Result<SpanMut<'_>, RangeError> {
        let (address, length) = within(self.address(), self.bytes(), part)?;
        // SAFETY: the range lies in memory that the result borrows for itself alone.
        unsafe { SpanMut::from_raw(address, length) }
    }
}

fn within(address: u64, bytes: u64, part: Range<u64>) -> Result<(u64, u64), RangeError> {
    if part.start > part.end || part.end > bytes {
        return Err(RangeError::Outside { part, bytes });
    }
    Ok((address + part.start, part.end - part.start))
}
