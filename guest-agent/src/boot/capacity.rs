//! Computes how many clients this VM accepts and how much memory their answers may use.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::api::Limits;

/// File descriptors for everything but client connections: engine, collector, channels and files.
const OTHERS: u64 = 512;

/// Bytes for other memory that answers need: connection buffers, grammars and memory that allocators retain.
const SPARE: u64 = 32 << 20;

/// Bytes that answers may use, in the engine and until their clients have read them.
///
/// From the memory that is available with the model loaded, this subtracts what clients can withhold, what waiting requests
/// may hold, and a reserve. An answer that begins within this budget cannot make the kernel kill the engine for lack of
/// memory.
pub fn for_answers(available: u64, limits: &Limits) -> u64 {
    available
        .saturating_sub(limits.withheld())
        .saturating_sub(limits.patience.bounds.bytes as u64)
        .saturating_sub(SPARE)
}

/// Returns the limits for the memory that is available with the model loaded, and raises the limit on file descriptors for
/// that many connections: the kernel gives its first process 1024.
///
/// If that limit cannot be raised, returns the limits of the smallest VM, for which 1024 descriptors suffice.
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
        // 64 connections, each with a body of 1 MiB and four unread stream windows.
        let withheld = 64 * ((1 << 20) + 4 * (64 << 10));
        assert_eq!(limits.withheld(), withheld);
        // 64 waiting requests may hold 512 KiB each.
        let waiting = 64 * (512 << 10);
        let taken = withheld + waiting + SPARE;
        assert_eq!(for_answers(1 << 30, &limits), (1 << 30) - taken);
        assert_eq!(for_answers(withheld, &limits), 0);
        // On the largest machine, waiting requests may hold 2 GiB, far more than the reserve.
        let (all, limits) = (64 << 30, Limits::within(64 << 30));
        assert_eq!(limits.connections, 4096);
        let taken = 4096 * ((1 << 20) + 4 * (64 << 10) + (512 << 10)) + SPARE;
        assert_eq!(for_answers(all, &limits), all - taken);
    }
}
