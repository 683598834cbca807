//! Reference implementations of what the kernels compute, as plain as their definitions. They are slow, and serve the
//! tests and readers who want to see what a kernel promises.

pub mod blake3;

/// Counts the bytes that are not zero.
#[must_use]
pub fn count(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|byte| **byte != 0).count() as u64
}
