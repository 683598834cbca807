//! A real QEMU with a guest of sixty bytes.
//!
//! Uses the QEMU named by `COCOON_QEMU` or the system's; prints SKIPPED where neither is new enough.

mod choices;
mod guest;
mod machine;
mod tables;
