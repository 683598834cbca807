//! Code shared by the appliance's tests and the demo: an image of these sources, signed with a key of this process,
//! and VMs of it under simulated hardware.
//!
//! Nothing here is shipped; it only combines the other crates.

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

/// Returns the current Unix time of this machine, in seconds.
pub fn now() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
