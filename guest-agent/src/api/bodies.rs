//! What the requests of one connection may hold of memory while they are read: as much as one of them may have.
//!
//! So a client that withholds the ends of its requests holds no more, however many streams it has.

use tokio::sync::{Semaphore, SemaphorePermit};

/// The room of one connection.
pub(super) struct Bodies {
    bytes: Semaphore,
    most: usize,
}

impl Bodies {
    /// For bodies of at most `most` bytes.
    pub fn new(most: usize) -> Self {
        let most = most.min(Semaphore::MAX_PERMITS);
        Self {
            bytes: Semaphore::new(most),
            most,
        }
    }

    /// Room for a body: of its length where that is announced, and of the longest where not. Waits until those before it
    /// have been understood.
    pub async fn room(&self, announced: Option<u64>) -> Option<SemaphorePermit<'_>> {
        let announced = announced.and_then(|length| usize::try_from(length).ok());
        let bytes = announced.unwrap_or(self.most).min(self.most);
        // It is never closed.
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
        // As much as there is, and no more.
        for announced in [Some(u64::MAX), None, Some(1000)] {
            let whole = timeout(Duration::ZERO, bodies.room(announced)).await;
            assert!(whole.expect("room").is_some());
        }
    }
}
