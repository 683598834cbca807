//! What the kernels must compute, written as plainly as their definitions are: slow, obvious, and used by tests and by
//! whoever wants to see what a kernel claims.

pub mod blake3;

/// How many of `bytes` are not zero.
#[must_use]
pub fn count(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|byte| **byte != 0).count() as u64
}
