//! Progress, so that nothing long is silent: bars on a terminal, plain lines elsewhere, nothing in tests.

use std::io::IsTerminal;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// Receives what happens during long work. Callers may supply their own.
pub trait Reporter: Send + Sync {
    /// Begins one piece of work; `total` is in bytes when it is known.
    fn start(&self, what: &str, total: Option<u64>) -> Box<dyn Task>;

    /// One line that must not be lost, such as a substitution or a tolerated expiry.
    fn note(&self, line: &str);
}

/// One piece of work under way; dropping it without [`Task::finish`] leaves no bar behind.
pub trait Task: Send {
    /// Bytes done so far (not an increment).
    fn position(&self, bytes: u64);

    /// What is being done at the moment; also the way to say "still alive".
    fn say(&self, line: &str);

    /// Ends the work with a word on how it went.
    fn finish(&self, outcome: &str);
}

/// Bars when standard error is a terminal, else lines.
#[must_use]
pub fn stderr() -> Arc<dyn Reporter> {
    if std::io::stderr().is_terminal() {
        Arc::new(Bars(MultiProgress::new()))
    } else {
        Arc::new(Lines)
    }
}

/// Reports nothing.
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
        // Printing fails only when standard error is gone; there is nobody left to tell.
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

/// Plain lines on standard error, at most one each two seconds and piece of work.
#[derive(Debug, Clone, Copy, Default)]
pub struct Lines;

const LINE_INTERVAL: Duration = Duration::from_millis(1900);

impl Reporter for Lines {
    fn start(&self, what: &str, total: Option<u64>) -> Box<dyn Task> {
        match total {
            Some(total) => eprintln!("{what}: {total} bytes"),
            None => eprintln!("{what}"),
        }
        Box::new(Line {
            what: what.to_owned(),
            total,
            last: Mutex::new(Instant::now()),
        })
    }

    fn note(&self, line: &str) {
        eprintln!("{line}");
    }
}

struct Line {
    what: String,
    total: Option<u64>,
    last: Mutex<Instant>,
}

impl Line {
    fn due(&self) -> bool {
        let mut last = self
            .last
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let due = last.elapsed() >= LINE_INTERVAL;
        if due {
            *last = Instant::now();
        }
        due
    }
}

impl Task for Line {
    fn position(&self, bytes: u64) {
        if self.due() {
            match self.total {
                Some(total) => eprintln!("{}: {bytes} of {total} bytes", self.what),
                None => eprintln!("{}: {bytes} bytes", self.what),
            }
        }
    }

    fn say(&self, line: &str) {
        if self.due() {
            eprintln!("{}: {line}", self.what);
        }
    }

    fn finish(&self, outcome: &str) {
        eprintln!("{}: {outcome}", self.what);
    }
}
