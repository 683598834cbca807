//! What each connection is doing, so that idle ones may live long and still keep nobody out: when the
//! table is full, the one that was idle longest leaves.
//!
//! ```text
//! Reading ──a whole head──▶ Busy ──the end of the last answer──▶ Idle ──the first byte──▶ Reading
//! ```
//!
//! Nobody holds an answer without taking it: where its client takes it too slowly, the connection is cut
//! (see `unread`).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::Notify;
use tokio::time::Instant;

use super::Limits;
use super::unread::{SOCKET, Unread};

/// State of one connection, shared by its stream, its requests and its owner.
pub(super) struct Activity {
    state: Mutex<State>,
    changed: Notify,
    /// Over HTTP/2 bytes come and go between requests too: pings and their answers.
    framed: bool,
    attested: AtomicBool,
    requests: AtomicU64,
    unread: Arc<Unread>,
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
    /// Nothing: look again then.
    Look(Instant),
    /// From then on it takes no more requests.
    End(Instant),
    /// It is cut then.
    Cut(Instant),
}

impl Activity {
    /// A connection after its handshake; `framed` says that it speaks HTTP/2, `unread` is what its
    /// socket tells.
    pub fn new(framed: bool, unread: Arc<Unread>) -> Self {
        Self {
            state: Mutex::new(State::Reading(Instant::now())),
            changed: Notify::new(),
            framed,
            attested: AtomicBool::new(false),
            requests: AtomicU64::new(SOCKET),
            unread,
        }
    }

    /// Whether evidence over this session was handed out.
    pub fn is_attested(&self) -> bool {
        self.attested.load(Ordering::Acquire)
    }

    /// Evidence over this session is being handed out.
    pub fn attested(&self) {
        self.attested.store(true, Ordering::Release);
    }

    /// Completes after a change.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// What to do. A connection that is `ending` was told so, and has no reason left to be idle.
    pub fn due(&self, limits: &Limits, ending: bool) -> Due {
        match *self.lock() {
            State::Busy(_) => match self.unread.until(limits.unread) {
                Some(until) => Due::Cut(until),
                // Not told of each piece: that would wake the owner for every token.
                None => Due::Look(Instant::now() + limits.unread / 4),
            },
            State::Reading(since) => Due::Cut(since + limits.head_time),
            State::Idle(since) if !ending => Due::End(since + limits.idle),
            State::Leaving(since) if !ending => Due::End(since),
            State::Idle(since) | State::Leaving(since) => Due::Cut(since + limits.head_time),
        }
    }

    /// A request's head is there. Returns the number of its answer.
    pub fn asked(&self) -> u64 {
        self.change(|state| match state {
            State::Busy(count) => State::Busy(count + 1),
            _ => State::Busy(1),
        });
        self.requests.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A piece of an answer, of so many bytes, was given to be sent.
    pub fn given(&self, answer: u64, bytes: usize) {
        // Over HTTP/1.1 there is one answer at a time, and the socket knows better whether it moves.
        if self.framed {
            self.unread.given(answer, bytes, Instant::now());
        }
    }

    /// More of an answer is wanted: what was given is on its way.
    pub fn taken(&self, answer: u64) {
        if self.framed {
            self.unread.taken(answer, Instant::now());
        }
    }

    /// An answer has ended.
    pub fn answered(&self, answer: u64) {
        self.unread.over(answer);
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

    /// Tells the one that was idle longest to leave; false when none is idle. One that has attested
    /// leaves only where all have, and never for the share of `strangers`: opening connections costs a
    /// stranger nothing.
    pub fn make_room(&self, strangers: bool) -> bool {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = all.iter().filter_map(Weak::upgrade);
        let idle = idle.filter_map(|activity| {
            let order = (activity.is_attested(), activity.idle_since()?);
            (!strangers || !order.0).then_some((order, activity))
        });
        let oldest = idle.min_by_key(|(order, _)| *order);
        oldest.is_some_and(|(_, activity)| {
            activity.leave();
            true
        })
    }
}

#[cfg(test)]
mod tests;
