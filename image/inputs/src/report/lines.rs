//! Reports progress without a terminal: plain lines, and a row of dots while there is nothing new to report.

use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use super::{Reporter, Task};

/// Writes plain lines to standard error, at most one about every two seconds for the progress of each piece of work.
/// While nothing is reported, a dot every two seconds shows that work continues.
#[derive(Debug, Clone, Copy, Default)]
pub struct Lines;

/// Shortest time between two progress lines of a piece of work.
const INTERVAL: Duration = Duration::from_millis(1900);
/// Longest silence of all pieces of work together. It is slightly longer than `INTERVAL`, so that a line in time
/// avoids the dot, and shorter than two seconds.
const SILENCE: Duration = Duration::from_millis(1950);
/// Dots in a row, about two minutes: some readers of a log see only complete lines.
const DOTS: usize = 60;

impl Reporter for Lines {
    fn start(&self, what: &str, total: Option<u64>) -> Box<dyn Task> {
        match total {
            Some(total) => line(&format!("{what}: {total} bytes")),
            None => line(what),
        }
        let (alive, ended) = mpsc::channel();
        std::thread::spawn(move || beat(&ended));
        Box::new(Work {
            what: what.to_owned(),
            total,
            last: Mutex::new(Instant::now()),
            _alive: alive,
        })
    }

    fn note(&self, text: &str) {
        line(text);
    }
}

struct Work {
    what: String,
    total: Option<u64>,
    last: Mutex<Instant>,
    /// Ends the dots when it is dropped.
    _alive: mpsc::Sender<()>,
}

impl Work {
    fn due(&self) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let due = last.elapsed() >= INTERVAL;
        if due {
            *last = Instant::now();
        }
        due
    }
}

impl Task for Work {
    fn position(&self, bytes: u64) {
        if self.due() {
            match self.total {
                Some(total) => line(&format!("{}: {bytes} of {total} bytes", self.what)),
                None => line(&format!("{}: {bytes} bytes", self.what)),
            }
        }
    }

    fn say(&self, text: &str) {
        if self.due() {
            line(&format!("{}: {text}", self.what));
        }
    }

    fn finish(&self, outcome: &str) {
        line(&format!("{}: {outcome}", self.what));
    }
}

impl Drop for Work {
    /// Ends an open row of dots, so that other output begins on a new line.
    fn drop(&mut self) {
        eprint!("{}", shared().close());
    }
}

fn line(text: &str) {
    let mut row = shared();
    eprintln!("{}{text}", row.line(Instant::now()));
}

/// Writes dots until the other end of `ended` is dropped.
fn beat(ended: &mpsc::Receiver<()>) {
    let mut wait = SILENCE;
    while ended.recv_timeout(wait) == Err(mpsc::RecvTimeoutError::Timeout) {
        let mut row = shared();
        let (dot, next) = row.beat(Instant::now());
        eprint!("{dot}");
        wait = next;
    }
}

/// The state of standard error, which all work of this process shares. It is locked while something is written.
fn shared() -> MutexGuard<'static, Row> {
    static ROW: Mutex<Row> = Mutex::new(Row::new());
    ROW.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The open row of dots and the time of the last output.
struct Row {
    dots: usize,
    last: Option<Instant>,
}

impl Row {
    const fn new() -> Self {
        Self {
            dots: 0,
            last: None,
        }
    }

    /// Returns the text that must precede a complete line.
    fn line(&mut self, now: Instant) -> &'static str {
        self.last = Some(now);
        self.close()
    }

    /// Returns the text that is due at `now`, and the time until text can be due again.
    fn beat(&mut self, now: Instant) -> (&'static str, Duration) {
        let silent = self.last.map(|last| now.saturating_duration_since(last));
        if let Some(silent) = silent.filter(|silent| *silent < SILENCE) {
            return ("", SILENCE - silent);
        }
        self.last = Some(now);
        self.dots += 1;
        if self.dots < DOTS {
            return (".", SILENCE);
        }
        self.dots = 0;
        (".\n", SILENCE)
    }

    /// Returns the text that ends an open row of dots.
    fn close(&mut self) -> &'static str {
        match std::mem::take(&mut self.dots) {
            0 => "",
            _ => "\n",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_seconds_are_silent_and_lines_stay_whole() {
        let mut row = Row::new();
        let began = Instant::now();
        let at = |millis| began + Duration::from_millis(millis);
        assert_eq!(row.line(at(0)), "");
        assert_eq!(row.beat(at(1000)), ("", Duration::from_millis(950)));
        assert_eq!(row.beat(at(1950)), (".", SILENCE));
        // A second piece of work adds no dots to those of the first.
        assert_eq!(row.beat(at(2000)), ("", Duration::from_millis(1900)));
        assert_eq!(row.beat(at(3900)), (".", SILENCE));
        assert_eq!(row.line(at(4000)), "\n");
        assert_eq!(row.beat(at(5000)), ("", SILENCE - Duration::from_secs(1)));
        assert_eq!(row.close(), "");
        assert_eq!(row.beat(at(5950)), (".", SILENCE));
        assert_eq!(row.close(), "\n");
        assert_eq!(row.close(), "");
        assert!(INTERVAL < SILENCE && SILENCE < Duration::from_secs(2));
    }

    #[test]
    fn a_log_gets_whole_rows_of_dots() {
        let mut row = Row::new();
        let mut now = Instant::now();
        let text: String = (0..2 * DOTS)
            .map(|_| {
                now += SILENCE;
                row.beat(now).0
            })
            .collect();
        let whole = format!("{}\n", ".".repeat(DOTS));
        assert_eq!(text, whole.repeat(2));
        assert_eq!(row.line(now), "");
    }
}
