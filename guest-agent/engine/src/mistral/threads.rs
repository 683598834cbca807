//! Makes the library's thread a worker of a rayon pool.
//!
//! candle gives the rows of every product and every norm to rayon, about three hundred times per token. A thread outside the
//! pool sleeps while the workers, which have to wake up first, do all the work. A thread that is a worker does its half and
//! finds the others still awake.

use std::sync::OnceLock;

use rayon::{ThreadPool, ThreadPoolBuilder};

/// Exit status of an engine that cannot create its thread pool.
const NO_POOL: i32 = 4;

/// Makes the calling thread a worker of a pool with as many threads as the arithmetic uses. Takes effect once per process.
///
/// Must be called where the library computes for a single answer, which is its own thread. With several answers it chooses
/// their tokens on workers, where this does nothing.
pub(super) fn join() {
    /// Kept, because dropping a pool ends its threads.
    static POOL: OnceLock<Option<ThreadPool>> = OnceLock::new();
    if rayon::current_thread_index().is_some() {
        return;
    }
    POOL.get_or_init(|| {
        let threads = rayon::current_num_threads();
        // Work that a worker hands over without waiting for it needs another worker.
        if threads < 2 {
            return None;
        }
        let builder = ThreadPoolBuilder::new().num_threads(threads);
        match builder.use_current_thread().build() {
            Ok(pool) => Some(pool),
            // The thread is now a worker of a pool with missing workers, and might wait without end for work that it hands to
            // them. The agent starts another engine.
            Err(_) => std::process::exit(NO_POOL),
        }
    });
}
