//! Memory of the machine that the daemon's VMs use or may still come to use. An update needs memory beyond that to start a
//! second VM, and two simultaneous updates must not count on the same memory.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::doctor::source::Files;
use crate::watch::ProcessUse;

/// Memory of a VM that runs or is about to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) memory_mib: u32,
    /// Process id of its QEMU, once that runs.
    pub(super) pid: Option<u32>,
}

/// The VMs of all appliances, by name.
#[derive(Debug, Default)]
pub(super) struct Rooms(Mutex<HashMap<String, Vec<Room>>>);

impl Rooms {
    /// Replaces the VMs of `name`.
    pub(super) fn set(&self, name: &str, rooms: Vec<Room>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(name.to_owned(), rooms);
    }

    /// Calls `decide` with the memory in MiB that all VMs may still come to use. If it returns true, reserves `room` for
    /// `name` in the same step.
    pub(super) fn decide<T>(
        &self,
        name: &str,
        room: Room,
        files: &dyn Files,
        decide: impl FnOnce(u64) -> (T, bool),
    ) -> T {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let promised = all.values().flatten().map(|room| untouched(*room, files));
        let (decided, takes) = decide(promised.sum());
        if takes {
            all.entry(name.to_owned()).or_default().push(room);
        }
        decided
    }
}

/// Memory in MiB that a guest has not touched yet. Pages of guest_memfd are in no process's page table, so those of a
/// confidential guest count as untouched, and its updates more often run in place.
fn untouched(room: Room, files: &dyn Files) -> u64 {
    let used = room.pid.and_then(|pid| ProcessUse::read(files, pid));
    let used = used.map_or(0, |used| used.resident_bytes >> 20);
    u64::from(room.memory_mib).saturating_sub(used)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::real::Real;

    #[test]
    fn what_one_update_counts_on_another_does_not() {
        let rooms = Rooms::default();
        let room = |memory_mib, pid| Room { memory_mib, pid };
        // This process stands for a QEMU that has touched some of its memory.
        let own = Some(std::process::id());
        rooms.set("first", vec![room(4096, own), room(512, None)]);
        let promised = rooms.decide("first", room(256, None), &Real, |mib| (mib, true));
        assert!((513..4608).contains(&promised), "{promised}");
        let later = rooms.decide("second", room(256, None), &Real, |mib| (mib, false));
        assert!(later > 512 + 256, "{later}");
        rooms.set("first", vec![]);
        let none = rooms.decide("second", room(256, None), &Real, |mib| (mib, false));
        assert_eq!(none, 0);
    }
}
