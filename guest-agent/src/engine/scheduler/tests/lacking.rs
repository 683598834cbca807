//! Tests which lacking resource a waiting request is told.

use super::*;

#[test]
fn what_is_lacking_is_named() {
    let mut scheduler = Scheduler::new(2, 3);
    let _ = scheduler.arrive(Source(1), wanted(0, 2), BOUNDS);
    assert_eq!(scheduler.lacking(Source(2), &wanted(9, 1)), Lacking::Slots);
    scheduler.free_slot();
    scheduler.free_slot();
    assert_eq!(scheduler.lacking(Source(2), &wanted(9, 2)), Lacking::Places);
    assert_eq!(scheduler.lacking(Source(1), &wanted(9, 1)), Lacking::Share);
    scheduler.limit_memory(3);
    let large = Wanted {
        memory: 2,
        ..wanted(9, 2)
    };
    assert_eq!(scheduler.lacking(Source(2), &large), Lacking::Memory);
    assert_eq!(
        scheduler.arrive(Source(1), wanted(1, 3), BOUNDS),
        Arrival::Refused
    );
    let huge = Wanted {
        memory: 4,
        ..wanted(2, 1)
    };
    assert_eq!(
        scheduler.arrive(Source(2), huge, BOUNDS),
        Arrival::Refused,
        "it can never begin"
    );
}
