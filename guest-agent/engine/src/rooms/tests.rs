//! Tests with memory that counts how often it is scrubbed.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::Semaphore;

use super::*;

/// Longest wait for an event that must happen.
const DEADLINE: Duration = Duration::from_secs(60);
/// Wait for an event that must not happen, long enough that it would.
const A_WHILE: Duration = Duration::from_millis(100);

struct Counted {
    begun: AtomicU64,
    scrubs: AtomicU64,
    /// Each scrub consumes one permit.
    allowed: Semaphore,
    fails: AtomicBool,
}

impl Scrub for Counted {
    async fn scrub(self: &Arc<Self>) -> anyhow::Result<()> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        self.allowed.acquire().await?.forget();
        self.scrubs.fetch_add(1, Ordering::SeqCst);
        anyhow::ensure!(!self.fails.load(Ordering::SeqCst), "something was left");
        Ok(())
    }

    fn counts(&self) -> GpuCounts {
        GpuCounts {
            scrubbed_bytes: self.scrubs.load(Ordering::SeqCst),
            ..GpuCounts::default()
        }
    }
}

struct House {
    memory: Arc<Counted>,
    rooms: Arc<Rooms<Counted, ()>>,
    counts: watch::Receiver<GpuCounts>,
}

/// Returns rooms in which `allowed` scrubs can complete.
fn house(allowed: usize, linger: Duration) -> House {
    let memory = Arc::new(Counted {
        begun: AtomicU64::new(0),
        scrubs: AtomicU64::new(0),
        allowed: Semaphore::new(allowed),
        fails: AtomicBool::new(false),
    });
    let (told, counts) = watch::channel(GpuCounts::default());
    let rooms = Arc::new(Rooms::new(Arc::clone(&memory), told, linger));
    House {
        memory,
        rooms,
        counts,
    }
}

impl House {
    async fn scrubs(&mut self, expected: u64) {
        let told = self
            .counts
            .wait_for(|counts| counts.scrubbed_bytes == expected);
        timeout(DEADLINE, told).await.unwrap().unwrap();
        assert_eq!(self.memory.scrubs.load(Ordering::SeqCst), expected);
    }

    async fn begun(&self, expected: u64) {
        let begun = async {
            while self.memory.begun.load(Ordering::SeqCst) < expected {
                sleep(LOOK).await;
            }
        };
        timeout(DEADLINE, begun).await.unwrap();
    }
}

/// Returns a generation and the library's end of it.
async fn generation(house: &House) -> (Entered<()>, mpsc::Sender<()>) {
    let (library, responses) = mpsc::channel(1);
    let entered = timeout(DEADLINE, house.rooms.enter(responses)).await;
    (entered.unwrap(), library)
}

#[tokio::test]
async fn the_last_one_to_leave_has_the_memory_scrubbed() {
    let mut house = house(9, DEADLINE);
    let (first, first_library) = generation(&house).await;
    let (second, second_library) = generation(&house).await;
    drop((first, first_library));
    // The end was noticed, but nothing is scrubbed because the other generation runs.
    timeout(DEADLINE, house.counts.changed())
        .await
        .unwrap()
        .unwrap();
    sleep(A_WHILE).await;
    assert_eq!(house.memory.begun.load(Ordering::SeqCst), 0);
    drop((second, second_library));
    house.scrubs(1).await;
    let (third, third_library) = generation(&house).await;
    drop((third, third_library));
    house.scrubs(2).await;
}

#[tokio::test]
async fn nothing_is_scrubbed_while_the_library_computes_for_nobody() {
    let mut house = house(9, DEADLINE);
    let (entered, library) = generation(&house).await;
    drop(entered);
    // The library notices that nobody listens, but takes its time.
    timeout(DEADLINE, library.closed()).await.unwrap();
    sleep(A_WHILE).await;
    assert_eq!(house.memory.begun.load(Ordering::SeqCst), 0);
    drop(library);
    house.scrubs(1).await;
}

#[tokio::test]
async fn a_library_that_never_lets_go_holds_up_no_scrub() {
    let mut house = house(9, Duration::from_millis(20));
    let (entered, _library) = generation(&house).await;
    drop(entered);
    house.scrubs(1).await;
}

#[tokio::test]
async fn whoever_comes_during_a_scrub_waits_for_its_end() {
    let mut house = house(0, DEADLINE);
    drop(generation(&house).await);
    house.begun(1).await;
    let (_library, responses) = mpsc::channel::<()>(1);
    let rooms = Arc::clone(&house.rooms);
    let mut entering = tokio::spawn(async move { rooms.enter(responses).await });
    assert!(timeout(A_WHILE, &mut entering).await.is_err());
    house.memory.allowed.add_permits(1);
    house.scrubs(1).await;
    timeout(DEADLINE, entering).await.unwrap().unwrap();
}

#[tokio::test]
async fn after_a_scrub_that_failed_nobody_is_told_counts_any_more() {
    let mut house = house(9, DEADLINE);
    house.memory.fails.store(true, Ordering::SeqCst);
    drop(generation(&house).await);
    let closed = async { while house.counts.changed().await.is_ok() {} };
    timeout(DEADLINE, closed).await.unwrap();
    assert_eq!(house.counts.borrow().scrubbed_bytes, 1);
}

#[tokio::test]
async fn the_end_scrubs_once_more_and_waits_for_nobody_for_long() {
    let empty = house(9, DEADLINE);
    empty.rooms.close().await;
    assert_eq!(empty.memory.scrubs.load(Ordering::SeqCst), 1);

    let busy = house(9, Duration::from_millis(20));
    let _running = generation(&busy).await;
    timeout(DEADLINE, busy.rooms.close()).await.unwrap();
    assert_eq!(busy.memory.begun.load(Ordering::SeqCst), 0);
}
