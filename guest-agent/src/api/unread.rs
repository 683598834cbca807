//! What waits for a client to take it, and how far its client has fallen behind.
//!
//! A client that takes nothing is given up after a while, and so is one that takes a little now and then:
//! each second that something waits is a second behind, and what is taken catches up at the least rate.
//! An engine that is slow, or an answer that is small, costs its client nothing.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Number of the socket among what waits for a client; answers count from the next one.
pub(super) const SOCKET: u64 = 0;

/// What waits for a client, by number: one answer that moves must not hide another that does not.
pub(super) struct Unread {
    all: Mutex<BTreeMap<u64, Behind>>,
    /// Bytes per second.
    least_rate: u64,
}

/// How far one of them is behind.
#[derive(Default)]
struct Behind {
    /// Bytes wait since then.
    since: Option<Instant>,
    /// Bytes that wait.
    bytes: usize,
    /// How long others waited before, less what was taken since.
    before: Duration,
}

impl Behind {
    fn waits(&mut self, bytes: usize, now: Instant) {
        self.since.get_or_insert(now);
        self.bytes = self.bytes.saturating_add(bytes);
    }

    fn moves(&mut self, bytes: usize, least_rate: u64, now: Instant) {
        let since = self.since.take().unwrap_or(now);
        let waited = now.saturating_duration_since(since);
        let micros = (bytes as u64).saturating_mul(1_000_000) / least_rate;
        let before = self.before.saturating_add(waited);
        self.before = before.saturating_sub(Duration::from_micros(micros));
        self.bytes = 0;
    }
}

impl Unread {
    /// Nothing waits. Who takes fewer bytes than `least_rate` in a second falls behind.
    pub fn new(least_rate: u32) -> Self {
        Self {
            all: Mutex::default(),
            least_rate: u64::from(least_rate).max(1),
        }
    }

    /// The socket takes no bytes.
    pub fn blocked(&self, now: Instant) {
        self.lock().entry(SOCKET).or_default().waits(0, now);
    }

    /// The socket took bytes.
    pub fn flowed(&self, bytes: usize, now: Instant) {
        let mut all = self.lock();
        let socket = all.entry(SOCKET).or_default();
        socket.moves(bytes, self.least_rate, now);
    }

    /// A piece of an answer waits for its client.
    pub fn given(&self, answer: u64, bytes: usize, now: Instant) {
        self.lock().entry(answer).or_default().waits(bytes, now);
    }

    /// What was given of an answer is on its way.
    pub fn taken(&self, answer: u64, now: Instant) {
        if let Some(behind) = self.lock().get_mut(&answer) {
            behind.moves(behind.bytes, self.least_rate, now);
        }
    }

    /// An answer has ended. With the last one, the socket's past is over.
    pub fn over(&self, answer: u64) {
        let mut all = self.lock();
        all.remove(&answer);
        if let (1, Some(socket)) = (all.len(), all.get_mut(&SOCKET)) {
            socket.before = Duration::ZERO;
        }
    }

    /// When a client that takes nothing from now on will have been behind for so long; `None` where
    /// nothing waits.
    pub fn until(&self, patience: Duration) -> Option<Instant> {
        let all = self.lock();
        let until = |behind: &Behind| Some(behind.since? + patience.saturating_sub(behind.before));
        all.values().filter_map(until).min()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Behind>> {
        // Nothing panics while it holds the lock.
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// How long a client lasts that takes so many bytes after each `step`, at a least rate of 1000 bytes a
    /// second.
    fn lasts(bytes: usize, step: Duration) -> Option<Duration> {
        let unread = Unread::new(1000);
        let born = Instant::now();
        let mut now = born;
        for _ in 0..1000 {
            unread.given(1, bytes, now);
            let until = unread.until(PATIENCE).unwrap();
            if now + step >= until {
                return Some(until - born);
            }
            now += step;
            unread.taken(1, now);
            assert_eq!(unread.until(PATIENCE), None);
        }
        None
    }

    #[test]
    fn whoever_is_slower_than_the_least_rate_is_given_up() {
        let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
        assert_eq!(lasts(512, minute), Some(minute), "nothing in time");
        // One frame in 59 seconds buys half a second.
        let lasted = lasts(512, Duration::from_secs(59)).unwrap();
        assert!(lasted < minute + second, "{lasted:?}");
        // At half the rate, a second behind in two.
        let lasted = lasts(500, second).unwrap();
        assert!((118..=121).contains(&lasted.as_secs()), "{lasted:?}");
        assert_eq!(lasts(1000, second), None);
        assert_eq!(lasts(50_000, Duration::from_secs(50)), None);
    }

    #[test]
    fn quick_pieces_are_not_saved_up_and_slow_engines_cost_nothing() {
        let unread = Unread::new(1000);
        let mut now = Instant::now();
        for _ in 0..100 {
            unread.given(1, 100_000, now);
            unread.taken(1, now);
            // The engine thinks; nothing waits.
            now += PATIENCE * 2;
            assert_eq!(unread.until(PATIENCE), None);
        }
        unread.given(1, 1, now);
        assert_eq!(unread.until(PATIENCE), Some(now + PATIENCE));
    }

    #[test]
    fn a_sockets_past_ends_with_the_last_answer() {
        let unread = Unread::new(1000);
        let now = Instant::now();
        unread.given(1, 10, now);
        unread.blocked(now);
        let later = now + PATIENCE / 2;
        unread.flowed(1, later);
        unread.taken(1, later);
        unread.blocked(later);
        let behind = unread.until(PATIENCE).unwrap() - later;
        assert!(behind < PATIENCE * 2 / 3, "{behind:?}");
        unread.over(1);
        assert_eq!(unread.until(PATIENCE), Some(later + PATIENCE));
    }
}
