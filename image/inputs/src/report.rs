//! Reports the progress of long work: bars on a terminal, plain lines and dots elsewhere, nothing in tests.

mod lines;

use std::fs::{File, TryLockError};
use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

pub use lines::Lines;

/// Receives the progress of long work. Callers may supply their own implementation.
pub trait Reporter: Send + Sync {
    /// Begins a piece of work; `total` is its size in bytes, if known.
    fn start(&self, what: &str, total: Option<u64>) -> Box<dyn Task>;

    /// Reports a line that must not be lost, such as a substitution or a tolerated expiry.
    fn note(&self, line: &str);
}

/// A piece of work in progress. It shows by itself that it continues, until it is finished or dropped. If it is dropped
/// without [`Task::finish`], no bar remains.
pub trait Task: Send {
    /// Sets the number of bytes done so far (not an increment).
    fn position(&self, bytes: u64);

    /// Sets the description of the current step.
    fn say(&self, line: &str);

    /// Ends the work and shows its outcome.
    fn finish(&self, outcome: &str);
}

/// Returns bars if standard error is a terminal, and plain lines otherwise.
#[must_use]
pub fn stderr() -> Arc<dyn Reporter> {
    if io::stderr().is_terminal() {
        Arc::new(Bars(MultiProgress::new()))
    } else {
        Arc::new(Lines)
    }
}

/// Locks `file` exclusively. While another process holds the lock, reports `what` and waits.
///
/// # Errors
/// The error of the system if the file cannot be locked.
pub fn exclusive(file: &File, reporter: &dyn Reporter, what: &str) -> io::Result<()> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            let task = reporter.start(what, None);
            file.lock()?;
            task.finish("it is done");
            Ok(())
        }
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// A reporter that reports nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Reporter for Silent {
    fn start(&self, _what: &str, _total: Option<u64>) -> Box<dyn Task> {
        Box::new(Self)
    }

    fn note(&self, _line: &str) {}
}

impl Task for Silent {
    fn position(&self, _bytes: u64) {}

    fn say(&self, _line: &str) {}

    fn finish(&self, _outcome: &str) {}
}

/// Bars on an `indicatif` display that the caller may share with its own bars.
#[derive(Debug, Clone, Default)]
pub struct Bars(pub MultiProgress);

impl Reporter for Bars {
    fn start(&self, what: &str, total: Option<u64>) -> Box<dyn Task> {
        let (bar, template) = match total {
            Some(total) => (
                ProgressBar::new(total),
                "{prefix:40!} {bar:24} {bytes:>10}/{total_bytes:10} {binary_bytes_per_sec:>12} {wide_msg}",
            ),
            None => (
                ProgressBar::new_spinner(),
                "{prefix:40!} {spinner} {elapsed:>5} {wide_msg}",
            ),
        };
        let bar = self.0.add(bar).with_prefix(what.to_owned());
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        Box::new(Bar(bar))
    }

    fn note(&self, line: &str) {
        // Printing fails only if standard error is closed, and then the line cannot be shown anywhere.
        self.0.println(line).unwrap_or_default();
    }
}

struct Bar(ProgressBar);

impl Task for Bar {
    fn position(&self, bytes: u64) {
        self.0.set_position(bytes);
    }

    fn say(&self, line: &str) {
        self.0.set_message(line.to_owned());
    }

    fn finish(&self, outcome: &str) {
        self.0.finish_with_message(outcome.to_owned());
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if !self.0.is_finished() {
            self.0.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Forwards every reported line to a channel.
    #[derive(Clone)]
    struct Heard(mpsc::Sender<String>);

    impl Reporter for Heard {
        fn start(&self, what: &str, _: Option<u64>) -> Box<dyn Task> {
            self.note(what);
            Box::new(self.clone())
        }

        fn note(&self, line: &str) {
            self.0.send(line.to_owned()).unwrap();
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

    #[test]
    fn who_waits_for_a_lock_says_so_until_it_is_free() {
        let deadline = Duration::from_secs(60);
        let folder = tempfile::tempdir().unwrap();
        let open = || File::create(folder.path().join("lock")).unwrap();
        let (sender, heard) = mpsc::channel();
        let first = open();
        exclusive(&first, &Heard(sender.clone()), "waiting for another").unwrap();
        assert_eq!(heard.try_recv(), Err(mpsc::TryRecvError::Empty));

        let second = open();
        let waiting = std::thread::spawn(move || {
            exclusive(&second, &Heard(sender), "waiting for another").unwrap();
        });
        assert_eq!(heard.recv_timeout(deadline).unwrap(), "waiting for another");
        assert_eq!(heard.try_recv(), Err(mpsc::TryRecvError::Empty));
        drop(first);
        assert_eq!(heard.recv_timeout(deadline).unwrap(), "it is done");
        waiting.join().unwrap();
    }
}
