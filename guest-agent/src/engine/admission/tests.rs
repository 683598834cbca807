//! Tests that everything that was taken comes back, whoever leaves and whenever.

use super::*;
use tokio::task::{JoinHandle, yield_now};

const PATIENT: Patience = Patience {
    time: Duration::from_secs(60),
    bounds: Bounds {
        requests: 100,
        bytes: 1000,
    },
};
const IMPATIENT: Patience = Patience {
    time: Duration::ZERO,
    ..PATIENT
};

fn asking(source: u64, count: usize) -> Asking {
    Asking {
        source: Source(source),
        count,
        bytes: 1,
        memory: 1,
        pooled: false,
        unread: 0,
    }
}

fn enter(admission: &Admission, asking: Asking) -> JoinHandle<Result<Room, Unavailable>> {
    let admission = admission.clone();
    tokio::spawn(async move { admission.enter(asking, &PATIENT).await })
}

async fn until_waiting(admission: &Admission, count: usize) {
    while admission.waiting() != count {
        yield_now().await;
    }
}

#[tokio::test]
async fn a_room_is_all_of_it_and_comes_back() {
    let admission = Admission::new(3);
    let room = admission.enter(asking(1, 2), &PATIENT).await.unwrap();
    assert_eq!((room.slots.len(), room.places.len()), (2, 2));
    let refused = admission.enter(asking(2, 2), &IMPATIENT).await.unwrap_err();
    assert_eq!(refused, Unavailable::Busy { retry_after: 1 });
    let waiting = enter(&admission, asking(2, 3));
    until_waiting(&admission, 1).await;
    drop(room.slots);
    let next = waiting.await.unwrap().unwrap();
    assert_eq!(next.slots.len(), 3);
    // The places of the first request are still taken: seven of twelve are free.
    drop(next.slots);
    let third = admission.enter(asking(3, 3), &IMPATIENT).await.unwrap();
    drop(third.slots);
    let fourth = admission.enter(asking(3, 3), &IMPATIENT).await.unwrap();
    drop(fourth.slots);
    let refused = admission.enter(asking(4, 2), &IMPATIENT).await.unwrap_err();
    assert_eq!(refused, Unavailable::Unread { retry_after: 1 });
    drop(room.places);
    admission.enter(asking(4, 2), &IMPATIENT).await.unwrap();
}

#[tokio::test]
async fn memory_comes_back_with_its_slot_and_is_named_where_it_is_lacking() {
    let admission = Admission::new(4);
    admission.limit_memory(10);
    assert_eq!(admission.memory(), 10);
    let large = |source| Asking {
        memory: 4,
        ..asking(source, 2)
    };
    let mut room = admission.enter(large(1), &PATIENT).await.unwrap();
    let refused = admission.enter(large(2), &IMPATIENT).await.unwrap_err();
    assert_eq!(refused, Unavailable::Memory { retry_after: 1 });
    admission.enter(asking(2, 2), &IMPATIENT).await.unwrap();
    let waiting = enter(&admission, large(2));
    until_waiting(&admission, 1).await;
    room.slots.pop();
    assert_eq!(admission.waiting(), 1, "half of it");
    room.slots[0].keep(3);
    room.slots[0].keep(5);
    assert_eq!(admission.waiting(), 1, "seven bytes are free");
    room.slots.pop();
    waiting.await.unwrap().unwrap();
    // A request that can never fit does not wait.
    let huge = Asking {
        memory: 6,
        ..asking(3, 2)
    };
    let refused = timeout(Duration::ZERO, admission.enter(huge, &PATIENT)).await;
    assert!(refused.expect("at once").is_err());
}

/// The text of an answer takes memory until it is read, even after its slot is free again.
#[tokio::test]
async fn memory_of_an_answer_comes_back_with_its_place() {
    let admission = Admission::new(4);
    admission.limit_memory(10);
    let telling = |source| Asking {
        memory: 2,
        unread: 3,
        ..asking(source, 1)
    };
    let Room { slots, places } = admission.enter(telling(1), &PATIENT).await.unwrap();
    let other = admission.enter(telling(2), &PATIENT).await.unwrap();
    drop(slots);
    let refused = admission.enter(telling(3), &IMPATIENT).await.unwrap_err();
    assert_eq!(refused, Unavailable::Memory { retry_after: 1 });
    drop(places);
    let third = admission.enter(telling(3), &IMPATIENT).await.unwrap();
    drop((other, third));
    let all = Asking {
        memory: 10,
        ..asking(4, 1)
    };
    drop(admission.enter(all, &IMPATIENT).await.unwrap());
    // The GPU's pool is separate from the VM's memory.
    admission.limit_pool(20);
    let pooled = |memory| Asking {
        memory,
        pooled: true,
        unread: 5,
        ..asking(5, 1)
    };
    let mut room = admission.enter(pooled(20), &IMPATIENT).await.unwrap();
    assert!(admission.enter(pooled(1), &IMPATIENT).await.is_err());
    room.slots[0].keep(19);
    admission.enter(pooled(1), &IMPATIENT).await.unwrap();
    assert!(admission.enter(pooled(2), &IMPATIENT).await.is_err());
    room.slots.clear();
    admission.enter(pooled(20), &IMPATIENT).await.unwrap();
}

#[tokio::test]
async fn who_gives_up_leaves_the_queue() {
    let admission = Admission::new(1);
    let held = admission.enter(asking(1, 1), &PATIENT).await.unwrap();
    let gone = enter(&admission, asking(2, 1));
    let stays = enter(&admission, asking(3, 1));
    until_waiting(&admission, 2).await;
    gone.abort();
    assert!(gone.await.unwrap_err().is_cancelled());
    assert_eq!(admission.waiting(), 1);
    drop(held);
    stays.await.unwrap().unwrap();
}

/// The future is dropped after its room was sent and before it was polled again.
#[tokio::test]
async fn a_room_that_nobody_takes_comes_back() {
    let admission = Admission::new(1);
    let held = admission.enter(asking(1, 1), &PATIENT).await.unwrap();
    let mut waiting = Box::pin(admission.enter(asking(2, 1), &PATIENT));
    assert!(timeout(Duration::ZERO, &mut waiting).await.is_err());
    drop(held);
    assert_eq!(admission.waiting(), 0, "it has begun");
    drop(waiting);
    admission.enter(asking(3, 1), &IMPATIENT).await.unwrap();
}

#[tokio::test]
async fn closing_answers_who_waits_and_nobody_waits_after_it() {
    let admission = Admission::new(1);
    let held = admission.enter(asking(1, 1), &PATIENT).await.unwrap();
    let waiting = enter(&admission, asking(2, 1));
    until_waiting(&admission, 1).await;
    admission.close();
    assert_eq!(waiting.await.unwrap().unwrap_err(), Unavailable::Draining);
    let late = admission.enter(asking(3, 1), &PATIENT).await.unwrap_err();
    assert_eq!(late, Unavailable::Draining);
    drop(held);
    admission.enter(asking(3, 1), &PATIENT).await.unwrap();
}

#[tokio::test]
async fn nothing_is_lost_in_a_crowd() {
    let admission = Admission::new(4);
    let mut crowd = Vec::new();
    for number in 0..300_usize {
        let admission = admission.clone();
        crowd.push(tokio::spawn(async move {
            let asking = asking(number as u64 % 7, 1 + number % 4);
            let patience = if number % 5 == 0 { IMPATIENT } else { PATIENT };
            if let Ok(room) = admission.enter(asking, &patience).await {
                assert_eq!(room.slots.len(), asking.count);
                for _ in 0..number % 9 {
                    yield_now().await;
                }
            }
        }));
        if number % 3 == 0 {
            yield_now().await;
        }
        if number % 4 == 0 {
            crowd[number / 2].abort();
        }
    }
    for one in crowd {
        // A failed assertion in a task is not a cancellation.
        assert!(one.await.err().is_none_or(|end| end.is_cancelled()));
    }
    let room = admission.enter(asking(9, 4), &IMPATIENT).await.unwrap();
    assert_eq!((room.slots.len(), admission.waiting()), (4, 0));
    let state = admission.lock();
    assert!(state.waiters.is_empty());
}
