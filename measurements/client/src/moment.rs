//! Ages, measured by two clocks: the monotonic clock stops while the machine sleeps, and the wall
//! clock can be set.

use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep};

/// How long after the machine wakes up an age may go unnoticed.
const GLANCE: Duration = Duration::from_secs(60);

/// A point in time on both clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    steady: Instant,
    wall: SystemTime,
}

impl Moment {
    pub(crate) fn now() -> Self {
        Self {
            steady: Instant::now(),
            wall: wall(),
        }
    }

    /// Returns the time since then by the clock that shows more; [`Duration::MAX`] if the wall
    /// clock was set back to before then, because the age is unknown.
    pub(crate) fn age(&self) -> Duration {
        let by_wall = wall().duration_since(self.wall);
        self.steady.elapsed().max(by_wall.unwrap_or(Duration::MAX))
    }

    /// Waits until the age is at least `age`.
    pub(crate) async fn reaches(&self, age: Duration) {
        // Timers use the monotonic clock, so the wall clock is checked from time to time.
        while let Some(left) = age.checked_sub(self.age()).filter(|left| !left.is_zero()) {
            sleep(left.min(GLANCE)).await;
        }
    }
}

#[cfg(not(test))]
fn wall() -> SystemTime {
    SystemTime::now()
}

#[cfg(test)]
use tests::wall;
#[cfg(test)]
pub(crate) use tests::{set_back, slept};

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        /// The wall clock of this test.
        static WALL: Cell<SystemTime> = const { Cell::new(SystemTime::UNIX_EPOCH) };
    }

    /// Returns the wall clock of this test, which changes only when a test sets it.
    pub(super) fn wall() -> SystemTime {
        WALL.get()
    }

    /// Simulates that the machine slept: only the wall clock goes on.
    pub(crate) fn slept(time: Duration) {
        WALL.set(WALL.get() + time);
    }

    /// Simulates that the wall clock was set back.
    pub(crate) fn set_back(time: Duration) {
        WALL.set(WALL.get() - time);
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test(start_paused = true)]
    async fn the_clock_that_says_more_counts() {
        let moment = Moment::now();
        assert_eq!(moment.age(), Duration::ZERO);
        slept(HOUR);
        assert_eq!(moment.age(), HOUR);
        tokio::time::advance(2 * HOUR).await;
        assert_eq!(moment.age(), 2 * HOUR);
        set_back(HOUR);
        assert_eq!(moment.age(), 2 * HOUR, "not before the moment");
        set_back(Duration::from_secs(1));
        assert_eq!(moment.age(), Duration::MAX);
    }

    /// Uses tokio's paused clock, which advances only to the next timer while all tasks wait.
    #[tokio::test(start_paused = true)]
    async fn sleep_counts_for_who_waits() {
        let (moment, begun) = (Moment::now(), Instant::now());
        moment.reaches(HOUR).await;
        assert!(begun.elapsed() >= HOUR);
        let (moment, begun) = (Moment::now(), Instant::now());
        let woken = async {
            sleep(GLANCE / 2).await;
            slept(HOUR);
        };
        tokio::join!(moment.reaches(HOUR), woken);
        assert!(begun.elapsed() <= 2 * GLANCE, "{:?}", begun.elapsed());
    }
}
