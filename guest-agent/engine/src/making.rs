//! Runs work whose time and stack depth depend on untrusted input: one task at a time, on a large stack, with time limits.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use cocoon_protocol::engine::EngineFailure;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

/// Stack size in bytes. Only pages that are touched take memory.
const STACK: usize = 64 * 1024 * 1024;

/// Time limits. They are generous, because emulated machines are slow.
#[derive(Clone, Copy)]
pub struct Limits {
    /// Longest wait for the turn.
    pub wait: Duration,
    /// Longest wait for the result of the work.
    pub make: Duration,
    /// Longest time until abandoned work must have ended.
    pub overrun: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            wait: Duration::from_secs(30),
            make: Duration::from_secs(30),
            overrun: Duration::from_secs(120),
        }
    }
}

/// Runs one task at a time.
pub struct Maker {
    turn: Arc<Semaphore>,
    limits: Limits,
    /// Ends the process when work exceeds [`Limits::overrun`], because a thread cannot be stopped.
    end: fn(),
}

impl Maker {
    /// Creates a maker whose `end` ends the process.
    pub fn new(limits: Limits, end: fn()) -> Self {
        Self {
            turn: Arc::new(Semaphore::new(1)),
            limits,
            end,
        }
    }

    /// Runs `work` on a thread of its own when it is its turn.
    ///
    /// Fails with [`EngineFailure::Busy`] if the turn does not come in time, and with [`EngineFailure::GrammarLimit`] if the
    /// work takes too long. In the latter case the work goes on and keeps the turn.
    pub async fn make<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, EngineFailure> {
        let turn = timeout(self.limits.wait, Arc::clone(&self.turn).acquire_owned()).await;
        let turn = turn.map_err(|_| EngineFailure::Busy)?;
        let turn = turn.map_err(|_| EngineFailure::Internal)?;
        let (tell, made) = oneshot::channel();
        let (over, ended) = oneshot::channel::<()>();
        let working = move || {
            // Both are dropped when the work ends, even by a panic; the turn is dropped last.
            let (_turn, _over) = (turn, over);
            // Fails if the client has gone and nobody waits any more.
            let _ = tell.send(work());
        };
        let thread = thread::Builder::new().stack_size(STACK).spawn(working);
        thread.map_err(|_| EngineFailure::Internal)?;
        // A task of its own, because this future is dropped when the client goes.
        let (overrun, end) = (self.limits.overrun, self.end);
        tokio::spawn(async move {
            if timeout(overrun, ended).await.is_err() {
                end();
            }
        });
        match timeout(self.limits.make, made).await {
            Ok(made) => made.map_err(|_| EngineFailure::Internal),
            Err(_) => Err(EngineFailure::GrammarLimit),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::mpsc;

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(50);

    fn maker(wait: Duration, make: Duration) -> Maker {
        let limits = Limits {
            wait,
            make,
            overrun: LONG,
        };
        Maker::new(limits, || panic!("an overrun"))
    }

    fn deep(levels: usize) -> usize {
        let frame = std::hint::black_box([1u8; 1024]);
        match levels {
            0 => 0,
            _ => usize::from(frame[levels % 1024]) + deep(levels - 1),
        }
    }

    #[tokio::test]
    async fn work_has_a_deep_stack() {
        // Takes at least 30 MiB of stack, more than any other thread has.
        let made = maker(LONG, LONG).make(|| deep(30 * 1024)).await;
        assert_eq!(made, Ok(30 * 1024));
    }

    #[tokio::test]
    async fn long_work_is_given_up_and_keeps_the_turn_until_it_ends() {
        let maker = maker(SHORT, SHORT);
        let (go, held) = mpsc::channel::<()>();
        let made = maker.make(move || held.recv()).await;
        assert_eq!(made, Err(EngineFailure::GrammarLimit));
        assert_eq!(maker.make(|| 1).await, Err(EngineFailure::Busy));
        go.send(()).unwrap();
        let mut made = Err(EngineFailure::Busy);
        let again = async {
            while made == Err(EngineFailure::Busy) {
                made = maker.make(|| 1).await;
            }
        };
        timeout(LONG, again).await.expect("its turn in time");
        assert_eq!(made, Ok(1));
    }

    #[tokio::test]
    async fn work_that_fails_is_told_and_frees_the_turn() {
        let maker = maker(LONG, LONG);
        let made: Result<(), _> = maker.make(|| panic!("as it should")).await;
        assert_eq!(made, Err(EngineFailure::Internal));
        assert_eq!(maker.make(|| 1).await, Ok(1));
    }

    #[tokio::test]
    async fn an_overrun_ends_the_process_even_where_nobody_waits() {
        static ENDS: AtomicU32 = AtomicU32::new(0);
        let limits = Limits {
            wait: LONG,
            make: LONG,
            overrun: SHORT,
        };
        let maker = Maker::new(limits, || _ = ENDS.fetch_add(1, Ordering::Relaxed));
        let (_go, held) = mpsc::channel::<()>();
        // The client goes at once.
        let gone = timeout(Duration::from_millis(1), maker.make(move || held.recv())).await;
        assert!(gone.is_err());
        let ended = async {
            while ENDS.load(Ordering::Relaxed) == 0 {
                tokio::task::yield_now().await;
            }
        };
        timeout(LONG, ended).await.expect("the end in time");
    }
}
