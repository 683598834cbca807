//! Bounds the memory that the request bodies of one connection take while they are read: together no more than one body
//! may have.
//!
//! A client that withholds the ends of its requests cannot hold more memory by opening more streams.

use tokio::sync::{Semaphore, SemaphorePermit};

/// Memory for the request bodies of one connection.
pub(super) struct Bodies {
    bytes: Semaphore,
    most: usize,
}

impl Bodies {
    /// Creates the room for bodies of at most `most` bytes.
    pub fn new(most: usize) -> Self {
        let most = most.min(Semaphore::MAX_PERMITS);
        Self {
            bytes: Semaphore::new(most),
            most,
        }
    }

    /// Reserves room for a body: its announced length, or the maximum if no length is announced. Waits until enough of
    /// the earlier requests have been parsed.
    pub async fn room(&self, announced: Option<u64>) -> Option<SemaphorePermit<'_>> {
        let announced = announced.and_then(|length| usize::try_from(length).ok());
        let bytes = announced.unwrap_or(self.most).min(self.most);
        // The semaphore is never closed.
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.bytes.acquire_many(bytes).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn bodies_of_one_connection_have_the_room_of_one() {
        let bodies = Bodies::new(1000);
        let first = bodies.room(Some(700)).await;
        let small = bodies.room(Some(300)).await;
        for announced in [Some(1), Some(5000), None] {
            let room = timeout(Duration::ZERO, bodies.room(announced)).await;
            assert!(room.is_err(), "{announced:?}");
        }
        drop(small);
        let small = timeout(Duration::ZERO, bodies.room(Some(300))).await;
        drop(small.expect("room"));
        drop(first);
        // Bodies get as much room as there is, and no more.
        for announced in [Some(u64::MAX), None, Some(1000)] {
            let whole = timeout(Duration::ZERO, bodies.room(announced)).await;
            assert!(whole.expect("room").is_some());
        }
    }
}
