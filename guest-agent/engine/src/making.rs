//! Work that a stranger's program makes long and deep: one at a time, on a stack of its own, given up when
//! it takes too long.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use cocoon_protocol::engine::EngineFailure;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

/// How deep it may go, in bytes. Only what is touched takes memory.
const STACK: usize = 64 * 1024 * 1024;

/// How long things may take. Emulated machines are slow.
#[derive(Clone, Copy)]
pub struct Limits {
    /// Until it is one's turn.
    pub wait: Duration,
    /// Until what was made is not waited for any more.
    pub make: Duration,
    /// Until work that nobody waits for any more must have ended.
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

/// A turn to work.
pub struct Maker {
    turn: Arc<Semaphore>,
    limits: Limits,
    /// Called where work overruns: a thread cannot be stopped, so that this ends the process.
    end: fn(),
}

impl Maker {
    /// Of which `end` ends the process.
    pub fn new(limits: Limits, end: fn()) -> Self {
        Self {
            turn: Arc::new(Semaphore::new(1)),
            limits,
            end,
        }
    }

    /// Does `work` when it is its turn.
    ///
    /// Errors with [`EngineFailure::Busy`] where the turn does not come, and with
    /// [`EngineFailure::GrammarLimit`] where the work itself takes too long: it goes on, and keeps the turn.
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
            // Dropped when the work is over, however it ends: last the turn.
            let (_turn, _over) = (turn, over);
            // Nobody waits any more where the client has gone.
            let _ = tell.send(work());
        };
        let thread = thread::Builder::new().stack_size(STACK).spawn(working);
        thread.map_err(|_| EngineFailure::Internal)?;
        // Apart from this future, which is dropped when the client goes.
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
        // 30 MiB at least: no other thread has that.
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
