//! The library's own thread as a worker of a pool.
//!
//! candle gives the rows of every product, and every norm, to rayon: some three hundred times for a token. A thread that
//! belongs to no pool waits asleep until workers, who were asleep too, have done it all; a thread that is a worker does
//! its half and finds the others still awake.

use std::sync::OnceLock;

use rayon::{ThreadPool, ThreadPoolBuilder};

/// Exit status of an engine that gets no threads.
const NO_POOL: i32 = 4;

/// Makes the calling thread a worker of a pool of as many threads as the arithmetic has, once in a process.
///
/// To be called where the library computes for one answer alone: that is its own thread. With several answers it chooses
/// their tokens on workers, of whom this takes no notice.
pub(super) fn join() {
    /// Kept, for dropping a pool ends its threads.
    static POOL: OnceLock<Option<ThreadPool>> = OnceLock::new();
    if rayon::current_thread_index().is_some() {
        return;
    }
    POOL.get_or_init(|| {
        let threads = rayon::current_num_threads();
        // What the library hands over and does not wait for as a worker must find another one.
        if threads < 2 {
            return None;
        }
        let builder = ThreadPoolBuilder::new().num_threads(threads);
        match builder.use_current_thread().build() {
            Ok(pool) => Some(pool),
            // This thread is a worker already, of a pool that has too few others or none: what it would hand to them it
            // might wait for without end. The agent starts another engine.
            Err(_) => std::process::exit(NO_POOL),
        }
    });
}
