//! Progress reports for long operations: at growing intervals they say how long the operation may take and why. In between,
//! the reporter shows activity without text, with a spinner on a terminal and with dots elsewhere.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use cocoon_inputs::report::{Reporter, Task};

/// Times of the first reports since the start. The first one comes before two seconds of silence have passed.
const TOLD: [Duration; 5] = [
    Duration::from_millis(1900),
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(20),
    Duration::from_secs(40),
];
/// Interval of later reports.
const LATER: Duration = Duration::from_secs(30);

/// An operation that is reported from its start until it is finished or dropped.
pub struct Waiting {
    shared: Arc<Shared>,
    teller: Thread,
}

struct Shared {
    task: Mutex<Option<Box<dyn Task>>>,
    since: Instant,
    hint: &'static str,
}

impl Waiting {
    /// Starts an operation: `what` is awaited, and `hint` says how long it may take and why.
    #[must_use]
    pub fn new(reporter: &dyn Reporter, what: &str, hint: &'static str) -> Self {
        let task = reporter.start(what, None);
        let shared = Arc::new(Shared {
            task: Mutex::new(Some(task)),
            since: Instant::now(),
            hint,
        });
        let telling = Arc::clone(&shared);
        let teller = thread::spawn(move || telling.tell()).thread().clone();
        Self { shared, teller }
    }

    /// Reports how far the operation is.
    pub fn say(&self, how_far: &str) {
        let seconds = self.shared.since.elapsed().as_secs();
        if let Some(task) = self.shared.lock().as_ref() {
            task.say(&format!("{how_far}, {seconds} s"));
        }
    }

    /// Ends the operation and reports its outcome.
    pub fn finish(self, outcome: &str) {
        if let Some(task) = self.shared.lock().take() {
            task.finish(outcome);
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        drop(self.shared.lock().take());
        self.teller.unpark();
    }
}

impl Shared {
    /// Reports the elapsed time until the operation is over.
    fn tell(&self) {
        let mut told = 0;
        loop {
            let next = due(told);
            let left = next.saturating_sub(self.since.elapsed());
            if !left.is_zero() {
                thread::park_timeout(left);
            }
            let task = self.lock();
            let Some(task) = task.as_ref() else { return };
            let elapsed = self.since.elapsed();
            if elapsed >= next {
                told += 1;
                task.say(&format!(
                    "{} s; {}",
                    elapsed.as_secs_f64().round(),
                    self.hint
                ));
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Box<dyn Task>>> {
        self.task.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the time since the start at which the report after `told` reports is due.
fn due(told: usize) -> Duration {
    let over = told.saturating_sub(TOLD.len() - 1);
    TOLD[told.min(TOLD.len() - 1)] + LATER * u32::try_from(over).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{self, Receiver, Sender};

    /// Forwards each line with the time at which it was reported.
    struct Heard(Mutex<Sender<(Instant, String)>>);

    impl Reporter for Heard {
        fn start(&self, what: &str, _: Option<u64>) -> Box<dyn Task> {
            self.note(what);
            Box::new(Heard(Mutex::new(self.0.lock().unwrap().clone())))
        }

        fn note(&self, line: &str) {
            let said = (Instant::now(), line.to_owned());
            // The test may no longer listen.
            let _ = self.0.lock().unwrap().send(said);
        }
    }

    impl Task for Heard {
        fn position(&self, _: u64) {}

        fn say(&self, line: &str) {
            self.note(line);
        }

        fn finish(&self, outcome: &str) {
            self.note(outcome);
        }
    }

    fn heard() -> (Heard, Receiver<(Instant, String)>) {
        let (sender, receiver) = mpsc::channel();
        (Heard(Mutex::new(sender)), receiver)
    }

    #[test]
    fn intervals_grow_up_to_half_a_minute() {
        let all: Vec<u128> = (0..8).map(|told| due(told).as_millis()).collect();
        assert_eq!(
            all,
            [1900, 5000, 10_000, 20_000, 40_000, 70_000, 100_000, 130_000]
        );
    }

    #[test]
    fn it_says_within_two_seconds_what_is_awaited_and_how_long_that_may_be() {
        let (reporter, said) = heard();
        let waiting = Waiting::new(&reporter, "the first word", "minutes under emulation");
        let deadline = Duration::from_secs(60);
        let (began, what) = said.recv_timeout(deadline).unwrap();
        assert_eq!(what, "the first word");
        let (at, line) = said.recv_timeout(deadline).unwrap();
        assert!(at - began >= TOLD[0], "{:?}", at - began);
        assert!(line.ends_with(" s; minutes under emulation"), "{line}");
        waiting.say("50 %");
        assert!(said.recv_timeout(deadline).unwrap().1.starts_with("50 %, "));
        waiting.finish("done");
        assert_eq!(said.recv_timeout(deadline).unwrap().1, "done");
        drop(reporter);
        // The thread has ended, and with it the last sender.
        let after = said.recv_timeout(deadline);
        assert_eq!(after, Err(mpsc::RecvTimeoutError::Disconnected));
    }
}
