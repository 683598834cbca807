//! How many clients this VM takes on.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::api::Limits;
use crate::memory;

/// Descriptors of everything but clients: engine, collector, channels, files.
const OTHERS: u64 = 512;

/// Limits by the memory that is left now, with the model loaded, and descriptors for as many connections: the kernel gives
/// its first process 1024.
///
/// Where they cannot be had, the smallest VM's limits, for which those suffice.
pub fn limits() -> Limits {
    let limits = Limits::within(memory::available());
    let needed = u64::from(limits.connections) + OTHERS;
    match descriptors(needed) {
        Ok(()) => limits,
        Err(_) => Limits::default(),
    }
}

fn descriptors(needed: u64) -> nix::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft >= needed {
        return Ok(());
    }
    setrlimit(Resource::RLIMIT_NOFILE, needed, hard.max(needed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_there_for_every_connection() {
        let limits = limits();
        let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert!(soft >= u64::from(limits.connections));
        assert!(limits.connections >= Limits::default().connections);
        descriptors(1).unwrap();
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap().0, soft);
    }
}
