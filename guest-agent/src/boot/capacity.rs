//! How many clients this VM takes on, and how much memory their answers may take.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::api::Limits;

/// Descriptors of everything but clients: engine, collector, channels, files.
const OTHERS: u64 = 512;

/// For everything else that needs memory while answers are written: buffers of connections, grammars, and what allocators
/// keep.
const SPARE: u64 = 32 << 20;

/// Bytes that are there for answers, in the engine and until their clients have them, of those that are left with the model loaded and everything that
/// clients can withhold or make wait taken off: no answer may begin that would have the kernel end the engine.
pub fn for_answers(available: u64, limits: &Limits) -> u64 {
    available
        .saturating_sub(limits.withheld())
        .saturating_sub(limits.patience.bounds.bytes as u64)
        .saturating_sub(SPARE)
}

/// Limits by the memory that is left now, with the model loaded, and descriptors for as many connections: the kernel gives
/// its first process 1024.
///
/// Where they cannot be had, the smallest VM's limits, for which those suffice.
pub fn limits(available: u64) -> Limits {
    let limits = Limits::within(available);
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
        let limits = limits(crate::memory::available());
        let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert!(soft >= u64::from(limits.connections));
        assert!(limits.connections >= Limits::default().connections);
        descriptors(1).unwrap();
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap().0, soft);
    }

    #[test]
    fn answers_get_what_clients_cannot_withhold() {
        let limits = Limits::default();
        // 64 connections, on each a MiB and four windows.
        let withheld = 64 * ((1 << 20) + 4 * (64 << 10));
        assert_eq!(limits.withheld(), withheld);
        // Of the choices of 64 requests that wait, 512 KiB for each.
        let waiting = 64 * (512 << 10);
        let taken = withheld + waiting + SPARE;
        assert_eq!(for_answers(1 << 30, &limits), (1 << 30) - taken);
        assert_eq!(for_answers(withheld, &limits), 0);
        // On the largest machine what may wait, 2 GiB, is far more than is spare.
        let (all, limits) = (64 << 30, Limits::within(64 << 30));
        assert_eq!(limits.connections, 4096);
        let taken = 4096 * ((1 << 20) + 4 * (64 << 10) + (512 << 10)) + SPARE;
        assert_eq!(for_answers(all, &limits), all - taken);
    }
}
