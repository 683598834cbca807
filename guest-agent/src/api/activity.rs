//! What each connection is doing, so that idle ones may live long and still keep nobody out: when the
//! table is full, the one that was idle longest leaves.
//!
//! ```text
//! Reading ──a whole head──▶ Busy ──the end of the last answer──▶ Idle ──the first byte──▶ Reading
//! ```

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::Notify;
use tokio::time::Instant;

use super::Limits;

/// State of one connection, shared by its stream, its requests and its owner.
pub(super) struct Activity {
    state: Mutex<State>,
    changed: Notify,
    /// Over HTTP/2 bytes come and go between requests too: pings and their answers.
    framed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// A request's head is on its way since then.
    Reading(Instant),
    /// So many requests are being answered.
    Busy(usize),
    /// Nothing since then.
    Idle(Instant),
    /// Idle, and told to leave, since then.
    Leaving(Instant),
}

/// What its owner has to do with a connection that does not change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Nothing.
    Never,
    /// From then on it takes no more requests.
    End(Instant),
    /// It is cut then.
    Cut(Instant),
}

impl Activity {
    /// A connection after its handshake; `framed` says that it speaks HTTP/2.
    pub fn new(framed: bool) -> Self {
        Self {
            state: Mutex::new(State::Reading(Instant::now())),
            changed: Notify::new(),
            framed,
        }
    }

    /// Completes after a change.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// What to do. A connection that is `ending` was told so, and has no reason left to be idle.
    pub fn due(&self, limits: &Limits, ending: bool) -> Due {
        match *self.lock() {
            State::Busy(_) => Due::Never,
            State::Reading(since) => Due::Cut(since + limits.head_time),
            State::Idle(since) if !ending => Due::End(since + limits.idle),
            State::Leaving(since) if !ending => Due::End(since),
            State::Idle(since) | State::Leaving(since) => Due::Cut(since + limits.head_time),
        }
    }

    /// A request's head is there.
    pub fn asked(&self) {
        self.change(|state| match state {
            State::Busy(count) => State::Busy(count + 1),
            _ => State::Busy(1),
        });
    }

    /// An answer has ended.
    pub fn answered(&self) {
        self.change(|state| match state {
            State::Busy(count @ 2..) => State::Busy(count - 1),
            State::Busy(_) => State::Idle(Instant::now()),
            other => other,
        });
    }

    /// Bytes came in.
    pub fn received(&self) {
        self.change(|state| match state {
            State::Idle(_) | State::Leaving(_) if !self.framed => State::Reading(Instant::now()),
            other => other,
        });
    }

    /// Bytes went out: an answer's end may still be on its way to a slow client.
    pub fn sent(&self) {
        self.change(|state| match state {
            State::Idle(_) if !self.framed => State::Idle(Instant::now()),
            State::Leaving(_) if !self.framed => State::Leaving(Instant::now()),
            other => other,
        });
    }

    /// Whoever is idle shall leave, from now on.
    pub fn leave(&self) {
        self.change(|state| match state {
            State::Idle(_) | State::Leaving(_) => State::Leaving(Instant::now()),
            other => other,
        });
    }

    fn idle_since(&self) -> Option<Instant> {
        match *self.lock() {
            State::Idle(since) => Some(since),
            _ => None,
        }
    }

    fn change(&self, change: impl FnOnce(State) -> State) {
        let mut state = self.lock();
        let after = change(*state);
        if after != *state {
            *state = after;
            self.changed.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All connections past their handshake.
#[derive(Default)]
pub(super) struct Table(Mutex<Vec<Weak<Activity>>>);

impl Table {
    /// Adds one; it is in the table for as long as it lives.
    pub fn add(&self, activity: &Arc<Activity>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|other| other.strong_count() > 0);
        all.push(Arc::downgrade(activity));
    }

    /// Tells the one that was idle longest to leave; false when none is idle.
    pub fn make_room(&self) -> bool {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = all.iter().filter_map(Weak::upgrade);
        let idle = idle.filter_map(|activity| Some((activity.idle_since()?, activity)));
        let oldest = idle.min_by_key(|(since, _)| *since);
        oldest.is_some_and(|(_, activity)| {
            activity.leave();
            true
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn limits() -> Limits {
        Limits {
            head_time: Duration::from_secs(10),
            idle: Duration::from_secs(120),
            ..Limits::default()
        }
    }

    fn idle(framed: bool) -> Activity {
        let activity = Activity::new(framed);
        activity.asked();
        activity.answered();
        activity
    }

    fn due(activity: &Activity, ending: bool) -> Due {
        activity.due(&limits(), ending)
    }

    #[test]
    fn a_head_that_has_begun_is_short_and_idleness_is_long() {
        let activity = Activity::new(false);
        let born = Instant::now();
        assert!(matches!(due(&activity, false), Due::Cut(at) if at <= born + limits().head_time));
        activity.asked();
        activity.asked();
        activity.answered();
        activity.received();
        assert_eq!(
            due(&activity, false),
            Due::Never,
            "one answer is on its way"
        );
        activity.answered();
        let now = Instant::now();
        let Due::End(at) = due(&activity, false) else {
            panic!("not idle")
        };
        assert!(at <= now + limits().idle && at > now + limits().idle / 2);
        activity.received();
        assert!(matches!(due(&activity, false), Due::Cut(at) if at < now + limits().idle / 2));
    }

    #[test]
    fn who_was_told_to_leave_has_no_time_to_be_idle() {
        for activity in [idle(false), idle(true)] {
            let before = Instant::now();
            assert!(matches!(due(&activity, false), Due::End(at) if at > before));
            activity.leave();
            let now = Instant::now();
            assert!(matches!(due(&activity, false), Due::End(at) if at <= now));
            assert!(
                matches!(due(&activity, true), Due::Cut(at) if at >= before + limits().head_time)
            );
        }
        // One that asks in this very moment is answered.
        let activity = idle(false);
        activity.leave();
        activity.received();
        assert!(matches!(due(&activity, true), Due::Cut(_)));
        activity.asked();
        assert_eq!(due(&activity, true), Due::Never);
    }

    #[test]
    fn pings_are_no_requests() {
        let activity = idle(true);
        let before = due(&activity, false);
        activity.received();
        activity.sent();
        assert_eq!(due(&activity, false), before);
    }

    #[test]
    fn room_is_made_by_the_one_that_was_idle_longest() {
        let table = Table::default();
        assert!(!table.make_room());
        let busy = Arc::new(Activity::new(false));
        busy.asked();
        let reading = Arc::new(Activity::new(false));
        let (first, gone, second) = (
            Arc::new(idle(false)),
            Arc::new(idle(false)),
            Arc::new(idle(true)),
        );
        for activity in [&busy, &second, &reading, &gone, &first] {
            table.add(activity);
        }
        drop(gone);
        let left = |activity: &Activity| matches!(*activity.lock(), State::Leaving(_));
        assert!(table.make_room());
        assert!(left(&first) && !left(&second));
        assert!(table.make_room());
        assert!(left(&second));
        assert!(!table.make_room(), "nobody is asked twice");
    }
}
