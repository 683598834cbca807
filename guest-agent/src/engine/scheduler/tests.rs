//! Whatever happens in whatever order: nothing is lost, nobody is overtaken for ever, turns are fair.

use std::collections::HashMap;

use super::*;
use proptest::prelude::*;

const BOUNDS: Bounds = Bounds {
    requests: 8,
    bytes: 1000,
};

fn wanted(ticket: Ticket, count: usize) -> Wanted {
    Wanted {
        ticket,
        count,
        bytes: 1,
    }
}

fn waits(gave_way: &[Ticket]) -> Arrival {
    Arrival::Waits {
        gave_way: gave_way.to_vec(),
    }
}

/// Everything that begins now.
fn begin(scheduler: &mut Scheduler) -> Vec<Ticket> {
    std::iter::from_fn(|| scheduler.next()).collect()
}

fn free(scheduler: &mut Scheduler, count: usize) {
    for _ in 0..count {
        scheduler.free_slot();
        scheduler.free_place();
    }
}

#[test]
fn lines_take_turns() {
    let mut scheduler = Scheduler::new(1, 4);
    assert_eq!(
        scheduler.arrive(Source(1), wanted(0, 1), BOUNDS),
        Arrival::Begins
    );
    // The first connection asks thrice before the others ask once.
    for (source, ticket) in [(1, 11), (1, 12), (1, 13), (2, 21), (3, 31)] {
        assert_eq!(
            scheduler.arrive(Source(source), wanted(ticket, 1), BOUNDS),
            waits(&[])
        );
    }
    assert!(begin(&mut scheduler).is_empty());
    let mut order = Vec::new();
    for _ in 0..5 {
        free(&mut scheduler, 1);
        order.extend(begin(&mut scheduler));
    }
    assert_eq!(order, [11, 21, 31, 12, 13]);
}

/// Who stood behind one that leaves is next, and is not passed by those behind.
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
    let mut order = Vec::new();
    for _ in 0..2 {
        free(&mut scheduler, 1);
        order.extend(begin(&mut scheduler));
    }
    assert_eq!(order, [21, 31]);
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
    // The small ones of the other line go first for as many slots as the large one needs, but for its first turn.
    free(&mut scheduler, 3);
    assert_eq!(begin(&mut scheduler), [20, 21, 22]);
    free(&mut scheduler, 3);
    assert!(begin(&mut scheduler).is_empty(), "three slots are free");
    free(&mut scheduler, 1);
    assert_eq!(begin(&mut scheduler), [10]);
    free(&mut scheduler, 4);
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
    // Two lines of 700 and 400 would be no better than one of 800.
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

#[test]
fn what_is_lacking_is_named() {
    let mut scheduler = Scheduler::new(2, 3);
    let _ = scheduler.arrive(Source(1), wanted(0, 2), BOUNDS);
    assert_eq!(scheduler.lacking(1), Lacking::Slots);
    scheduler.free_slot();
    scheduler.free_slot();
    assert_eq!(scheduler.lacking(2), Lacking::Places);
    assert_eq!(
        scheduler.arrive(Source(1), wanted(1, 3), BOUNDS),
        Arrival::Refused
    );
}

/// What happens to a scheduler.
#[derive(Clone, Debug)]
enum Event {
    Arrives(u64, usize, usize),
    Leaves(prop::sample::Index),
    Finishes(prop::sample::Index),
    IsRead(prop::sample::Index),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0..4_u64, 1..=5_usize, 1..=300_usize).prop_map(|(s, c, b)| Event::Arrives(s, c, b)),
        1 => any::<prop::sample::Index>().prop_map(Event::Leaves),
        3 => any::<prop::sample::Index>().prop_map(Event::Finishes),
        3 => any::<prop::sample::Index>().prop_map(Event::IsRead),
    ]
}

/// What a scheduler should have.
#[derive(Default)]
struct Model {
    waiting: HashMap<Ticket, Wanted>,
    running: Vec<usize>,
    unread: Vec<usize>,
}

impl Model {
    fn begins(&mut self, wanted: Wanted) {
        self.running.push(wanted.count);
        self.unread.push(wanted.count);
    }
}

proptest! {
    #[test]
    fn nothing_is_lost_and_nothing_begins_in_part(events in prop::collection::vec(event(), 1..200), slots in 1..=5_usize) {
        let places = slots * 2;
        let mut scheduler = Scheduler::new(slots, places);
        let mut model = Model::default();
        for (ticket, event) in (1..).zip(events) {
            match event {
                Event::Arrives(source, count, bytes) => {
                    let wanted = Wanted { ticket, count, bytes };
                    match scheduler.arrive(Source(source), wanted, BOUNDS) {
                        Arrival::Begins => model.begins(wanted),
                        Arrival::Waits { gave_way } => {
                            for ticket in gave_way {
                                prop_assert!(model.waiting.remove(&ticket).is_some());
                            }
                            model.waiting.insert(ticket, wanted);
                        }
                        Arrival::Refused => prop_assert!(!model.waiting.is_empty() || count > slots || !model.running.is_empty() || !model.unread.is_empty()),
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
                    let count = model.running.swap_remove(which.index(model.running.len()));
                    (0..count).for_each(|_| scheduler.free_slot());
                }
                Event::IsRead(which) if !model.unread.is_empty() => {
                    let count = model.unread.swap_remove(which.index(model.unread.len()));
                    (0..count).for_each(|_| scheduler.free_place());
                }
                Event::Finishes(_) | Event::IsRead(_) => {}
            }
            for ticket in begin(&mut scheduler) {
                let begun = model.waiting.remove(&ticket);
                prop_assert!(begun.is_some(), "{} begins without having waited", ticket);
                model.begins(begun.unwrap());
            }
            prop_assert_eq!(scheduler.slots + model.running.iter().sum::<usize>(), slots);
            prop_assert_eq!(scheduler.places + model.unread.iter().sum::<usize>(), places);
            prop_assert_eq!(scheduler.waiting(), model.waiting.len());
            prop_assert_eq!(scheduler.demand(), model.waiting.values().map(|one| one.count).sum::<usize>());
            prop_assert!(scheduler.waiting() <= BOUNDS.requests && scheduler.bytes() <= BOUNDS.bytes);
            // Nobody waits but for the one whose turn it is.
            if let Some(line) = scheduler.lines.front() {
                let count = line.waiting[0].count;
                prop_assert!(count > scheduler.slots || count > scheduler.places);
            }
        }
    }

    /// Lines that are never empty get equal shares, whatever their requests are like: they differ by no
    /// more than two of the largest.
    #[test]
    fn who_always_waits_gets_an_equal_share(sizes in prop::collection::vec(prop::collection::vec(1..=8_usize, 1..6), 2..6), rounds in 50..300_usize) {
        let mut scheduler = Scheduler::new(8, 8);
        let _ = scheduler.arrive(Source(99), wanted(0, 8), Bounds { requests: 64, bytes: 1 << 20 });
        let mut owners: HashMap<Ticket, (u64, usize)> = HashMap::new();
        let mut shares = vec![0_usize; sizes.len()];
        let mut next = 1;
        let mut held = vec![8];
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
            let count = held.remove(0);
            free(&mut scheduler, count);
            // One at a time, so that no line runs dry.
            while let Some(ticket) = scheduler.next() {
                let (source, count) = owners.remove(&ticket).unwrap();
                let source_at = usize::try_from(source).unwrap();
                shares[source_at] += count;
                held.push(count);
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
