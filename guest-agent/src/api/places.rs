//! Who gets one of the places for connections when there are not enough.
//!
//! A connection that has not attested also counts against the share of strangers, from its first byte
//! on: a flood of handshakes turns away other strangers, and never all of those that have attested.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use super::Limits;
use super::activity::Table;

/// All places. Clones are the same ones.
#[derive(Clone)]
pub(super) struct Places {
    all: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
    count: u32,
}

/// A place that is there, or that somebody was asked to leave.
pub(super) struct Promised {
    place: Option<OwnedSemaphorePermit>,
    share: Option<OwnedSemaphorePermit>,
}

/// A place, and the part of the strangers' share that ends with an attestation.
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

    /// A place for a newcomer; `None` where nobody leaves for it. Each that waits has sent one idle
    /// connection away, so that those who wait are bounded too.
    pub fn promise(&self, table: &Table) -> Option<Promised> {
        let share = Arc::clone(&self.strangers).try_acquire_owned().ok();
        let place = Arc::clone(&self.all).try_acquire_owned().ok();
        let there = match (&share, &place) {
            (Some(_), Some(_)) => true,
            (Some(_), None) => table.make_room(false),
            // A stranger's place is one of all.
            (None, _) => table.make_room(true),
        };
        there.then_some(Promised { place, share })
    }

    /// The place, once whoever was asked has left.
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

    /// When every place is free again, every connection has ended. Too late is the clients' loss.
    pub async fn all_free(&self, until: Instant) {
        let _ = timeout_at(until, self.all.acquire_many(self.count)).await;
    }
}
