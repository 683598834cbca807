//! Tracks what each connection is doing, so that idle connections may stay long without keeping new clients out: when
//! the table is full, the connection that has been idle longest has to leave.
//!
//! ```text
//! Reading ──a whole head──▶ Busy ──the end of the last answer──▶ Idle ──the first byte──▶ Reading
//! ```
//!
//! A client cannot hold an answer without reading it: if it reads too slowly, its connection is cut (see `unread`).

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
    /// Whether the connection speaks HTTP/2, where bytes do not end an idle time: pings pass between requests too.
    framed: bool,
    attested: AtomicBool,
    requests: AtomicU64,
    unread: Arc<Unread>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The head of a request has been arriving since this time.
    Reading(Instant),
    /// This many requests are being answered.
    Busy(usize),
    /// No request since this time.
    Idle(Instant),
    /// Idle and asked to leave, since this time.
    Leaving(Instant),
}

/// What the owner of a connection must do if the state of the connection does not change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Nothing yet; check again at this time.
    Look(Instant),
    /// Take no more requests from this time on.
    End(Instant),
    /// Cut the connection at this time.
    Cut(Instant),
}

impl Activity {
    /// State of a connection after its handshake. `framed` is true for HTTP/2; `unread` is updated by the socket.
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

    /// Returns whether evidence bound to this session was handed out.
    pub fn is_attested(&self) -> bool {
        self.attested.load(Ordering::Acquire)
    }

    /// Records that evidence bound to this session is being handed out.
    pub fn attested(&self) {
        self.attested.store(true, Ordering::Release);
    }

    /// Completes after the next change of state.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Returns what the owner must do next. `ending` says that a graceful shutdown has begun, so that an idle
    /// connection has no reason left to stay open.
    pub fn due(&self, limits: &Limits, ending: bool) -> Due {
        match *self.lock() {
            State::Busy(_) => match self.unread.until(limits.unread) {
                Some(until) => Due::Cut(until),
                // Pieces of answers do not notify the owner, which would wake it for every token: it checks now and then.
                None => Due::Look(Instant::now() + limits.unread / 4),
            },
            State::Reading(since) => Due::Cut(since + limits.head_time),
            State::Idle(since) if !ending => Due::End(since + limits.idle),
            State::Leaving(since) if !ending => Due::End(since),
            State::Idle(since) | State::Leaving(since) => Due::Cut(since + limits.head_time),
        }
    }

    /// Records that the head of a request has arrived. Returns the number of its answer.
    pub fn asked(&self) -> u64 {
        self.change(|state| match state {
            State::Busy(count) => State::Busy(count + 1),
            _ => State::Busy(1),
        });
        self.requests.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Records that `bytes` bytes of an answer were handed to the connection for sending.
    pub fn given(&self, answer: u64, bytes: usize) {
        // HTTP/1.1 has one answer at a time, and the socket shows more exactly whether its bytes move.
        if self.framed {
            self.unread.given(answer, bytes, Instant::now());
        }
    }

    /// Records that the connection asks for more of an answer: what it was given before is on its way.
    pub fn taken(&self, answer: u64) {
        if self.framed {
            self.unread.taken(answer, Instant::now());
        }
    }

    /// Records the end of an answer.
    pub fn answered(&self, answer: u64) {
        self.unread.over(answer);
        self.change(|state| match state {
            State::Busy(count @ 2..) => State::Busy(count - 1),
            State::Busy(_) => State::Idle(Instant::now()),
            other => other,
        });
    }

    /// Records that bytes were received.
    pub fn received(&self) {
        self.change(|state| match state {
            State::Idle(_) | State::Leaving(_) if !self.framed => State::Reading(Instant::now()),
            other => other,
        });
    }

    /// Records that bytes were sent. The idle time starts anew, because an answer's end may still be on its way to a
    /// slow client.
    pub fn sent(&self) {
        self.change(|state| match state {
            State::Idle(_) if !self.framed => State::Idle(Instant::now()),
            State::Leaving(_) if !self.framed => State::Leaving(Instant::now()),
            other => other,
        });
    }

    /// Asks the connection to leave, if it is idle.
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
        // No code panics while it holds the lock, so a poisoned lock still guards consistent data.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All connections whose handshake is complete.
#[derive(Default)]
pub(super) struct Table(Mutex<Vec<Weak<Activity>>>);

impl Table {
    /// Adds a connection. It stays in the table for as long as its `Activity` lives.
    pub fn add(&self, activity: &Arc<Activity>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|other| other.strong_count() > 0);
        all.push(Arc::downgrade(activity));
    }

    /// Asks the connection that has been idle longest to leave; returns false when none is idle. An attested connection is
    /// chosen only if no other is idle, and never where `strangers` is set: opening connections costs a stranger nothing.
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
