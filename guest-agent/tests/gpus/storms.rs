//! Tests of a driver that reports many errors in a row, and of GPUs that take long to answer.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use cocoon_guest_agent::gpu::Happened;
use cocoon_guest_agent::gpu::gate::{AGAIN, PAUSE};
use tokio::time::{Instant, sleep, timeout};

use super::bench::{Bench, NONCE, words};
use super::common::client::DEADLINE;

const LOST: &str = "the GPUs are not what they were: the driver has lost a GPU";

/// However many errors are reported, the GPUs are verified only once in a while, and once more after the last error. A
/// final event among them takes effect at once.
#[tokio::test(start_paused = true)]
async fn errors_in_a_storm_are_asked_about_together() {
    let bench = Bench::new(&["1001"]);
    let gate = Arc::new(bench.open().unwrap());
    let asked = || {
        bench
            .did()
            .iter()
            .filter(|what| **what == "collect")
            .count()
            - 1
    };
    let watched = Arc::clone(&gate);
    let watching = tokio::spawn(async move { watched.watch(AGAIN).await });
    let begun = Instant::now();
    for times in 1..=2000 {
        bench.events.send_replace(Happened::Something(times));
        sleep(Duration::from_millis(10)).await;
    }
    // Once at the beginning, then after each pause.
    let pauses = begun.elapsed().as_secs() / PAUSE.as_secs();
    let most = usize::try_from(pauses).unwrap() + 1;
    let so_far = asked();
    assert!((2..=most).contains(&so_far), "{so_far} of at most {most}");
    sleep(PAUSE).await;
    let last = asked();
    assert!(
        (so_far..=so_far + 1).contains(&last),
        "{last} after {so_far}"
    );
    sleep(PAUSE * 10).await;
    assert_eq!(asked(), last, "nothing happens any more");
    assert!(gate.failed().borrow().is_none());

    bench.events.send_replace(Happened::Something(2001));
    sleep(Duration::from_millis(10)).await;
    let before = Instant::now();
    bench.events.send_replace(Happened::Something(2002));
    bench
        .events
        .send_replace(Happened::Ended("the driver has lost a GPU"));
    let reason = timeout(PAUSE, watching).await.unwrap().unwrap();
    assert_eq!(reason.to_string(), LOST);
    assert!(before.elapsed() < PAUSE);
}

/// Makes the GPUs, once they have been asked, withhold their answer until the returned sender is dropped.
async fn silent(bench: &Bench, ask: impl FnOnce()) -> mpsc::Sender<()> {
    let (free, hold) = mpsc::channel();
    *bench.hold.lock().unwrap() = Some(hold);
    ask();
    let asked = async {
        while bench.hold.lock().unwrap().is_some() {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, asked).await.expect("asked in time");
    free
}

#[tokio::test]
async fn an_end_is_heard_while_the_gpus_are_asked_again() {
    let bench = Bench::new(&["1001"]);
    let gate = Arc::new(bench.open().unwrap());
    let watched = Arc::clone(&gate);
    let watching = tokio::spawn(async move { watched.watch(AGAIN).await });
    let error = || {
        bench.events.send_replace(Happened::Something(1));
    };
    let free = silent(&bench, error).await;
    let end = Happened::Ended("the driver has lost a GPU");
    bench.events.send_replace(end);
    let reason = timeout(DEADLINE, watching).await.expect("heard in time");
    assert_eq!(reason.unwrap().to_string(), LOST);
    assert_eq!(words(&gate.failed().borrow().clone().unwrap()), LOST);
    drop(free);
}

/// Evidence that was collected before a GPU was lost is not given to a session after that.
#[tokio::test]
async fn evidence_that_an_end_overtakes_is_not_given_out() {
    let bench = Bench::new(&["1001"]);
    let gate = Arc::new(bench.open().unwrap());
    let watched = Arc::clone(&gate);
    let watching = tokio::spawn(async move { watched.watch(AGAIN).await });
    let (session, mut asked) = (Arc::clone(&gate), None);
    let ask = || {
        asked = Some(tokio::task::spawn_blocking(move || {
            session.evidence(&NONCE)
        }))
    };
    let free = silent(&bench, ask).await;
    let end = Happened::Ended("the driver has lost a GPU");
    bench.events.send_replace(end);
    let reason = timeout(DEADLINE, watching).await.expect("heard in time");
    assert_eq!(reason.unwrap().to_string(), LOST);
    drop(free);
    let given = timeout(DEADLINE, asked.unwrap()).await.expect("answered");
    assert_eq!(words(&given.unwrap().unwrap_err()), LOST);
}
