//! The only unsafe code of the agent: system calls that no safe library offers, and the allocator.
//!
//! Every other file here is one kernel interface behind safe functions; struct layouts are asserted at
//! compile time against the kernel's headers, and nothing but plain integers crosses the boundary.

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
/// The caller must own none of them in a Rust value that is used again: the jail calls this in a
/// fresh process that has opened nothing.
pub fn close_from(first: u32) -> io::Result<()> {
    // SAFETY: close_range takes three integers and touches no memory of ours.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0u32) };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Writes to a descriptor that may be open or not, which is what the caller finds out. How much was written.
pub fn write(descriptor: RawFd, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: the kernel reads as many bytes as there are, and refuses a number that is no descriptor.
    let written = unsafe { libc::write(descriptor, bytes.as_ptr().cast(), bytes.len()) };
    usize::try_from(written).map_err(|_| io::Error::last_os_error())
}
