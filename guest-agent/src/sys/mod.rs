//! The only unsafe code of the agent: system calls that no safe library offers, and the allocator.
//!
//! Every other file here wraps one kernel interface in safe functions. Struct layouts are asserted at compile time to match
//! the kernel's headers, and only structs of plain integers are passed to the kernel.

pub mod cpuid;
pub mod device_mapper;
pub mod heap;
pub mod interface;
pub mod tdx_report;

use std::io;
use std::os::fd::RawFd;

use nix::libc;

/// Closes every file descriptor from `first` upwards.
///
/// The caller must not use a Rust value that owns one of them afterwards. The jail calls this in a fresh process that has
/// opened none.
pub fn close_from(first: u32) -> io::Result<()> {
    // SAFETY: close_range takes three integers and accesses no memory of this process.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0u32) };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Writes to a descriptor that may not be open, and returns the number of bytes written.
pub fn write(descriptor: RawFd, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: the kernel reads at most `bytes.len()` bytes and rejects a number that is no open descriptor.
    let written = unsafe { libc::write(descriptor, bytes.as_ptr().cast(), bytes.len()) };
    usize::try_from(written).map_err(|_| io::Error::last_os_error())
}
