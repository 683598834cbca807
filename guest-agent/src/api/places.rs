//! Decides which connections get a place when there are not enough for all.
//!
//! A connection that has not attested also counts against the share of strangers, from its first byte on. A flood of
//! handshakes therefore keeps out other strangers, but never all of the attested connections.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use super::Limits;
use super::activity::Table;

/// All places for connections. Clones share the same places.
#[derive(Clone)]
pub(super) struct Places {
    all: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
    count: u32,
}

/// The promise of a place: its permits are here, or an idle connection was asked to leave for them.
pub(super) struct Promised {
    place: Option<OwnedSemaphorePermit>,
    share: Option<OwnedSemaphorePermit>,
}

/// A place for a connection, and its permit in the share of strangers, which it gives back when it attests.
pub(super) struct Place {
    pub place: OwnedSemaphorePermit,
    pub share: OwnedSemaphorePermit,
}

impl Places {
    pub fn new(limits: &Limits) -> Self {
        let semaphore = |count| Arc::new(Semaphore::new(usize::try_from(count).unwrap_or(0)));
        Self {
            all: semaphore(limits.connections),
            strangers: semaphore(limits.strangers),
            count: limits.connections,
        }
    }

    /// Promises a place to a new connection; `None` if no connection can make room for it. Each connection that waits
    /// for its place has made one idle connection leave, so that the number of waiting connections is bounded too.
    pub fn promise(&self, table: &Table) -> Option<Promised> {
        let share = Arc::clone(&self.strangers).try_acquire_owned().ok();
        let place = Arc::clone(&self.all).try_acquire_owned().ok();
        let there = match (&share, &place) {
            (Some(_), Some(_)) => true,
            (Some(_), None) => table.make_room(false),
            // The place of a stranger is also one of all places.
            (None, _) => table.make_room(true),
        };
        there.then_some(Promised { place, share })
    }

    /// Waits for the promised place, until the connection that was asked to leave is gone.
    pub async fn take(&self, promised: Promised, within: Duration) -> Option<Place> {
        let until = Instant::now() + within;
        let wait = |from: &Arc<Semaphore>| timeout_at(until, Arc::clone(from).acquire_owned());
        // Neither semaphore is ever closed.
        let share = match promised.share {
            Some(share) => share,
            None => wait(&self.strangers).await.ok()?.ok()?,
        };
        let place = match promised.place {
            Some(place) => place,
            None => wait(&self.all).await.ok()?.ok()?,
        };
        Some(Place { place, share })
    }

    /// Waits until every place is free, which is when every connection has ended, or until `until`.
    pub async fn all_free(&self, until: Instant) {
        let _ = timeout_at(until, self.all.acquire_many(self.count)).await;
    }
}
