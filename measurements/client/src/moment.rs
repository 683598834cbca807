//! Ages, by two clocks: the steady one stands still while the machine sleeps, and the other one can be set.

use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep};

/// How long after a sleep of the machine an age may go unnoticed.
const GLANCE: Duration = Duration::from_secs(60);

/// When something was.
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

    /// How long ago, by the clock that says more; for ever where one went back, because then nobody knows.
    pub(crate) fn age(&self) -> Duration {
        let by_wall = wall().duration_since(self.wall);
        self.steady.elapsed().max(by_wall.unwrap_or(Duration::MAX))
    }

    /// Waits until it was so long ago.
    pub(crate) async fn reaches(&self, age: Duration) {
        // A timer counts by the steady clock: it looks at the other one now and then.
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
        /// What the wall clock of this test shows.
        static WALL: Cell<SystemTime> = const { Cell::new(SystemTime::UNIX_EPOCH) };
    }

    /// Stands still unless it is told.
    pub(super) fn wall() -> SystemTime {
        WALL.get()
    }

    /// The machine slept: the steady clock knows nothing of it.
    pub(crate) fn slept(time: Duration) {
        WALL.set(WALL.get() + time);
    }

    /// Somebody set the clock.
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

    /// On a clock that goes on while it is waited for, and no further than it must.
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
