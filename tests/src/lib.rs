//! What the appliance's own tests and its demo share: an image of these sources, signed by a key
//! that lives for one process, and VMs of it under simulated hardware.
//!
//! Nothing here is shipped. It only puts the other crates together.

pub mod alphabet;
pub mod bare;
pub mod executables;
pub mod image;
pub mod installed;
pub mod processes;
pub mod role;
pub mod seen;
pub mod sources;
pub mod trial;
pub mod vm;

/// Seconds since 1970, on this machine's clock.
pub fn now() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
