//! Tracks the data that waits for a client, and how far the client has fallen behind in taking it.
//!
//! A client that takes nothing is cut off after a while, and so is one that takes a little now and then. Each second
//! that data waits puts the client a second behind; what it takes catches up at the least rate. A slow engine or a
//! small answer costs its client nothing.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Key of the socket among the things that wait for a client. The keys of answers follow it.
pub(super) const SOCKET: u64 = 0;

/// What waits for a client, by key. Answers are tracked one by one, so that one that moves does not hide another that does not.
pub(super) struct Unread {
    all: Mutex<BTreeMap<u64, Behind>>,
    /// Least rate, in bytes per second.
    least_rate: u64,
}

/// How far the client is behind with the socket or with one answer.
#[derive(Default)]
struct Behind {
    /// Time since which bytes wait.
    since: Option<Instant>,
    /// Number of bytes that wait.
    bytes: usize,
    /// How far earlier waits put the client behind, less what it has caught up since.
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
    /// Creates the state in which nothing waits. A client that takes fewer than `least_rate` bytes per second falls behind.
    pub fn new(least_rate: u32) -> Self {
        Self {
            all: Mutex::default(),
            least_rate: u64::from(least_rate).max(1),
        }
    }

    /// Records that the socket accepts no bytes.
    pub fn blocked(&self, now: Instant) {
        self.lock().entry(SOCKET).or_default().waits(0, now);
    }

    /// Records that the socket accepted bytes.
    pub fn flowed(&self, bytes: usize, now: Instant) {
        let mut all = self.lock();
        let socket = all.entry(SOCKET).or_default();
        socket.moves(bytes, self.least_rate, now);
    }

    /// Records that a piece of an answer waits for its client.
    pub fn given(&self, answer: u64, bytes: usize, now: Instant) {
        self.lock().entry(answer).or_default().waits(bytes, now);
    }

    /// Records that everything given of an answer is on its way.
    pub fn taken(&self, answer: u64, now: Instant) {
        if let Some(behind) = self.lock().get_mut(&answer) {
            behind.moves(behind.bytes, self.least_rate, now);
        }
    }

    /// Records the end of an answer. After the last answer the past of the socket is forgotten.
    pub fn over(&self, answer: u64) {
        let mut all = self.lock();
        all.remove(&answer);
        if let (1, Some(socket)) = (all.len(), all.get_mut(&SOCKET)) {
            socket.before = Duration::ZERO;
        }
    }

    /// Returns when a client that takes nothing from now on will be behind by `patience`; `None` if nothing waits.
    pub fn until(&self, patience: Duration) -> Option<Instant> {
        let all = self.lock();
        let until = |behind: &Behind| Some(behind.since? + patience.saturating_sub(behind.before));
        all.values().filter_map(until).min()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Behind>> {
        // No code panics while it holds the lock, so a poisoned lock still guards consistent data.
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// How long a client lasts that takes `bytes` bytes after each `step`, at a least rate of 1000 bytes per second;
    /// `None` if it is never cut off.
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
        // One frame in 59 seconds gains half a second.
        let lasted = lasts(512, Duration::from_secs(59)).unwrap();
        assert!(lasted < minute + second, "{lasted:?}");
        // At half the rate, the client falls one second behind in two.
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
            // The engine computes and nothing waits.
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
