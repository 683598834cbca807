//! Tests that, whatever the order of events, nothing is lost, nobody is overtaken for ever, and turns are fair.

use std::collections::HashMap;

use super::*;
use proptest::prelude::*;

mod lacking;

const BOUNDS: Bounds = Bounds {
    requests: 8,
    bytes: 1000,
};

fn wanted(ticket: Ticket, count: usize) -> Wanted {
    Wanted {
        ticket,
        count,
        bytes: 1,
        memory: 0,
        pool: 0,
    }
}

fn waits(gave_way: &[Ticket]) -> Arrival {
    Arrival::Waits {
        gave_way: gave_way.to_vec(),
    }
}

/// Starts all requests that can begin now.
fn begin(scheduler: &mut Scheduler) -> Vec<Ticket> {
    std::iter::from_fn(|| scheduler.next()).collect()
}

/// Ends `count` answers of a source, all of them read.
fn free(scheduler: &mut Scheduler, source: u64, count: usize) {
    for _ in 0..count {
        scheduler.free_slot();
        scheduler.free_place(Source(source));
    }
}

#[test]
fn lines_take_turns() {
    let mut scheduler = Scheduler::new(1, 4);
    assert_eq!(
        scheduler.arrive(Source(1), wanted(10, 1), BOUNDS),
        Arrival::Begins
    );
    // The first connection asks three times before each of the others asks once.
    for (source, ticket) in [(1, 11), (1, 12), (1, 13), (2, 21), (3, 31)] {
        assert_eq!(
            scheduler.arrive(Source(source), wanted(ticket, 1), BOUNDS),
            waits(&[])
        );
    }
    assert!(begin(&mut scheduler).is_empty());
    let mut order = vec![10];
    for _ in 0..5 {
        // Tickets begin with the number of their source.
        free(&mut scheduler, order[order.len() - 1] / 10, 1);
        order.extend(begin(&mut scheduler));
    }
    assert_eq!(order[1..], [11, 21, 31, 12, 13]);
}

/// The request after one that leaves is next, and those after it do not pass it.
#[test]
fn who_leaves_takes_nobodys_turn_away() {
    let mut scheduler = Scheduler::new(1, 4);
    assert_eq!(
        scheduler.arrive(Source(0), wanted(0, 1), BOUNDS),
        Arrival::Begins
    );
    for (source, ticket) in [(1, 11), (2, 21), (3, 31)] {
        assert_eq!(
            scheduler.arrive(Source(source), wanted(ticket, 1), BOUNDS),
            waits(&[])
        );
    }
    assert!(scheduler.leave(11));
    assert!(begin(&mut scheduler).is_empty());
    free(&mut scheduler, 0, 1);
    assert_eq!(begin(&mut scheduler), [21]);
    free(&mut scheduler, 2, 1);
    assert_eq!(begin(&mut scheduler), [31]);
}

#[test]
fn a_large_one_begins_and_is_paid_for() {
    let mut scheduler = Scheduler::new(4, 16);
    assert_eq!(
        scheduler.arrive(Source(9), wanted(0, 4), BOUNDS),
        Arrival::Begins
    );
    let _ = scheduler.arrive(Source(1), wanted(10, 4), BOUNDS);
    for ticket in 20..26 {
        let _ = scheduler.arrive(Source(2), wanted(ticket, 1), BOUNDS);
    }
    // The small requests of the other line go first, for as many slots as the large one needs beyond its first turn.
    free(&mut scheduler, 9, 3);
    assert_eq!(begin(&mut scheduler), [20, 21, 22]);
    free(&mut scheduler, 2, 3);
    assert!(begin(&mut scheduler).is_empty(), "three slots are free");
    free(&mut scheduler, 9, 1);
    assert_eq!(begin(&mut scheduler), [10]);
    free(&mut scheduler, 1, 4);
    assert_eq!(begin(&mut scheduler), [23, 24, 25]);
}

#[test]
fn a_full_queue_gives_way_to_who_has_less_in_it() {
    let bounds = Bounds {
        requests: 3,
        ..BOUNDS
    };
    let mut scheduler = Scheduler::new(1, 4);
    let _ = scheduler.arrive(Source(1), wanted(0, 1), bounds);
    for ticket in 10..13 {
        assert_eq!(
            scheduler.arrive(Source(1), wanted(ticket, 1), bounds),
            waits(&[])
        );
    }
    assert_eq!(
        scheduler.arrive(Source(1), wanted(13, 1), bounds),
        Arrival::Refused,
        "its own line is the longest"
    );
    assert_eq!(
        scheduler.arrive(Source(2), wanted(20, 1), bounds),
        waits(&[12])
    );
    assert_eq!(
        scheduler.arrive(Source(2), wanted(21, 1), bounds),
        Arrival::Refused,
        "two and two would be no better"
    );
    assert_eq!(
        scheduler.arrive(Source(3), wanted(30, 1), bounds),
        waits(&[11])
    );
    assert_eq!(
        scheduler.arrive(Source(4), wanted(40, 1), bounds),
        Arrival::Refused
    );
}

#[test]
fn bytes_are_bounded_too() {
    let bytes = |ticket, bytes| Wanted {
        ticket,
        count: 1,
        bytes,
        memory: 0,
        pool: 0,
    };
    let mut scheduler = Scheduler::new(1, 4);
    let _ = scheduler.arrive(Source(1), bytes(0, 5000), BOUNDS);
    assert_eq!(
        scheduler.arrive(Source(1), bytes(9, 1001), BOUNDS),
        Arrival::Refused
    );
    for ticket in [10, 11] {
        assert_eq!(
            scheduler.arrive(Source(1), bytes(ticket, 400), BOUNDS),
            waits(&[])
        );
    }
    assert_eq!(
        scheduler.arrive(Source(1), bytes(12, 400), BOUNDS),
        Arrival::Refused
    );
    // Two lines of 700 and 400 bytes would be no better than one of 800.
    assert_eq!(
        scheduler.arrive(Source(2), bytes(20, 700), BOUNDS),
        Arrival::Refused
    );
    assert_eq!(
        scheduler.arrive(Source(2), bytes(20, 500), BOUNDS),
        waits(&[11])
    );
    assert_eq!(scheduler.waiting(), 2);
}

/// Of eight places, one source may hold four; once it does, it waits without delaying others.
#[test]
fn who_holds_its_share_waits_alone() {
    let mut scheduler = Scheduler::new(2, 8);
    let begins = |scheduler: &mut Scheduler, source, ticket, count| {
        scheduler.arrive(Source(source), wanted(ticket, count), BOUNDS) == Arrival::Begins
    };
    for ticket in 0..2 {
        assert!(begins(&mut scheduler, 1, ticket, 2));
        // The answers have ended, and are not read.
        (0..2).for_each(|_| scheduler.free_slot());
    }
    // Both slots are free.
    assert!(!begins(&mut scheduler, 1, 10, 1));
    assert!(begin(&mut scheduler).is_empty());
    assert_eq!(scheduler.lacking(Source(1), &wanted(99, 1)), Lacking::Share);
    assert_eq!(scheduler.demand(Source(2)), 0, "it goes before nobody");
    // Other sources come and go, and none of them overtakes another.
    assert!(begins(&mut scheduler, 2, 20, 2));
    for (source, ticket) in [(2, 21), (3, 30), (1, 11)] {
        assert!(!begins(&mut scheduler, source, ticket, 1));
    }
    free(&mut scheduler, 2, 1);
    assert_eq!(begin(&mut scheduler), [21]);
    free(&mut scheduler, 2, 1);
    assert_eq!(begin(&mut scheduler), [30]);
    free(&mut scheduler, 3, 1);
    assert!(begin(&mut scheduler).is_empty(), "a slot is free");
    // One of its answers is read, so its turn comes once.
    scheduler.free_place(Source(1));
    assert_eq!(begin(&mut scheduler), [10]);
    scheduler.free_place(Source(1));
    assert!(begin(&mut scheduler).is_empty(), "no slot is free");
    free(&mut scheduler, 2, 1);
    assert_eq!(begin(&mut scheduler), [11]);
    assert_eq!(scheduler.waiting(), 0);
}

/// An event of a scheduler.
#[derive(Clone, Debug)]
enum Event {
    Arrives(u64, usize, usize, u64),
    Leaves(prop::sample::Index),
    Finishes(prop::sample::Index),
    IsRead(prop::sample::Index),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0..4_u64, 1..=5_usize, 1..=300_usize, 0..=20_u64)
            .prop_map(|(s, c, b, m)| Event::Arrives(s, c, b, m)),
        1 => any::<prop::sample::Index>().prop_map(Event::Leaves),
        3 => any::<prop::sample::Index>().prop_map(Event::Finishes),
        3 => any::<prop::sample::Index>().prop_map(Event::IsRead),
    ]
}

/// The expected state of a scheduler.
#[derive(Default)]
struct Model {
    waiting: HashMap<Ticket, (Source, Wanted)>,
    running: Vec<Wanted>,
    unread: Vec<(Source, usize)>,
}

impl Model {
    fn begins(&mut self, source: Source, wanted: Wanted) {
        self.running.push(wanted);
        self.unread.push((source, wanted.count));
    }

    fn held(&self, source: Source) -> usize {
        let of = self.unread.iter().filter(|(owner, _)| *owner == source);
        of.map(|(_, count)| count).sum()
    }
}

proptest! {
    #[test]
    fn nothing_is_lost_and_nothing_begins_in_part(
        events in prop::collection::vec(event(), 1..200), slots in 1..=5_usize, each in 1..=4_usize,
        memory in 20..=100_u64
    ) {
        let places = slots * each;
        let share = slots.max(places / 2);
        let mut scheduler = Scheduler::new(slots, places);
        scheduler.limit_memory(memory);
        scheduler.limit_pool(2 * memory);
        let mut model = Model::default();
        for (ticket, event) in (1..).zip(events) {
            match event {
                Event::Arrives(source, count, bytes, memory) => {
                    let (source, wanted) = (Source(source), Wanted { ticket, count, bytes, memory, pool: 2 * memory });
                    match scheduler.arrive(source, wanted, BOUNDS) {
                        Arrival::Begins => model.begins(source, wanted),
                        Arrival::Waits { gave_way } => {
                            for ticket in gave_way {
                                prop_assert!(model.waiting.remove(&ticket).is_some());
                            }
                            model.waiting.insert(ticket, (source, wanted));
                        }
                        Arrival::Refused => prop_assert!(!model.waiting.is_empty() || count > slots || wanted.memory() > scheduler.all_memory || !model.running.is_empty() || !model.unread.is_empty()),
                    }
                }
                Event::Leaves(which) => {
                    let tickets: Vec<_> = model.waiting.keys().copied().collect();
                    let known = !tickets.is_empty();
                    let ticket = if known { *which.get(&tickets) } else { 0 };
                    prop_assert_eq!(scheduler.leave(ticket), known);
                    model.waiting.remove(&ticket);
                }
                Event::Finishes(which) if !model.running.is_empty() => {
                    let ended = model.running.swap_remove(which.index(model.running.len()));
                    for _ in 0..ended.count {
                        scheduler.free_slot();
                        scheduler.free_memory(ended.memory);
                        scheduler.free_pool(ended.pool);
                    }
                }
                Event::IsRead(which) if !model.unread.is_empty() => {
                    let (source, count) = model.unread.swap_remove(which.index(model.unread.len()));
                    (0..count).for_each(|_| scheduler.free_place(source));
                }
                Event::Finishes(_) | Event::IsRead(_) => {}
            }
            for ticket in begin(&mut scheduler) {
                let begun = model.waiting.remove(&ticket);
                prop_assert!(begun.is_some(), "{} begins without having waited", ticket);
                let (source, wanted) = begun.unwrap();
                model.begins(source, wanted);
            }
            let running: usize = model.running.iter().map(|one| one.count).sum();
            prop_assert_eq!(scheduler.slots + running, slots);
            let taken: u64 = model.running.iter().map(Wanted::memory).sum();
            prop_assert_eq!(scheduler.memory + taken, memory);
            prop_assert_eq!(scheduler.pool + 2 * taken, 2 * memory);
            let unread: usize = model.unread.iter().map(|(_, count)| count).sum();
            prop_assert_eq!(scheduler.places + unread, places);
            prop_assert_eq!(scheduler.waiting(), model.waiting.len());
            prop_assert!(scheduler.waiting() <= BOUNDS.requests && scheduler.bytes() <= BOUNDS.bytes);
            for source in (0..4).map(Source) {
                prop_assert!(model.held(source) <= share);
                prop_assert_eq!(scheduler.held.get(&source).copied().unwrap_or(0), model.held(source));
                // If all waiting lines wait only for what their own sources hold, a new source that fits begins at once.
                let alone = !model.waiting.values().any(|(other, _)| *other == source);
                let blocked = |(other, _): &(Source, Wanted)| {
                    let line = scheduler.lines.iter().find(|line| line.source == *other).unwrap();
                    model.held(*other) + line.waiting[0].count > share
                };
                let room = model.held(source) < share && scheduler.slots > 0 && scheduler.places > 0;
                if alone && room && model.waiting.values().all(blocked) {
                    let one = Wanted { ticket: 0, count: 1, bytes: 1, memory: 0, pool: 0 };
                    prop_assert_eq!(scheduler.clone().arrive(source, one, BOUNDS), Arrival::Begins);
                }
            }
            // Requests wait only for the one whose turn it is, or for what their own source holds.
            let turn = scheduler.lines.iter().find(|line| scheduler.may_have_turn(line));
            if let Some(line) = turn {
                let front = &scheduler.lines[0];
                prop_assert_eq!(front.source, line.source, "the front has no turn");
                let first = line.waiting[0];
                let lacks = first.count > scheduler.slots || first.count > scheduler.places;
                prop_assert!(lacks || first.memory() > scheduler.memory);
            }
        }
    }

    /// Lines that are never empty get equal shares, whatever their requests are like: shares differ by at most two of
    /// the largest requests. A line that waits for what its own source holds changes nothing, and none of its requests
    /// begins: its tickets have no owner here.
    #[test]
    fn who_always_waits_gets_an_equal_share(sizes in prop::collection::vec(prop::collection::vec(1..=8_usize, 1..6), 2..6), rounds in 50..300_usize) {
        let mut scheduler = Scheduler::new(8, 32);
        for _ in 0..2 {
            prop_assert_eq!(scheduler.arrive(Source(98), wanted(0, 8), BOUNDS), Arrival::Begins);
            (0..8).for_each(|_| scheduler.free_slot());
        }
        for count in [1, 8] {
            prop_assert_eq!(scheduler.arrive(Source(98), wanted(0, count), BOUNDS), waits(&[]));
        }
        prop_assert_eq!(scheduler.arrive(Source(99), wanted(0, 8), BOUNDS), Arrival::Begins);
        let mut owners: HashMap<Ticket, (u64, usize)> = HashMap::new();
        let mut shares = vec![0_usize; sizes.len()];
        let mut next = 1;
        let mut held = vec![(99, 8)];
        for _ in 0..rounds {
            for (source, counts) in (0..).zip(&sizes) {
                while owners.values().filter(|(owner, _)| *owner == source).count() < 2 {
                    let count = counts[usize::try_from(next).unwrap() % counts.len()];
                    let arrival = scheduler.arrive(Source(source), wanted(next, count), Bounds { requests: 64, bytes: 1 << 20 });
                    prop_assert_eq!(arrival, waits(&[]));
                    owners.insert(next, (source, count));
                    next += 1;
                }
            }
            let (source, count) = held.remove(0);
            free(&mut scheduler, source, count);
            // One at a time, so that no line runs dry.
            while let Some(ticket) = scheduler.next() {
                let (source, count) = owners.remove(&ticket).unwrap();
                let source_at = usize::try_from(source).unwrap();
                shares[source_at] += count;
                held.push((source, count));
                let count = sizes[source_at][usize::try_from(next).unwrap() % sizes[source_at].len()];
                let _ = scheduler.arrive(Source(source), wanted(next, count), Bounds { requests: 64, bytes: 1 << 20 });
                owners.insert(next, (source, count));
                next += 1;
            }
            let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
            prop_assert!(most - least <= 16, "{:?}", shares);
        }
        prop_assert!(shares.iter().all(|share| *share > 0), "{:?}", shares);
    }
}
