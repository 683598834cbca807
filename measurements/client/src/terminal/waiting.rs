//! Progress of operations that take time.

use std::io::{self, Write as _};
use std::sync::mpsc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Interval between dots where there is no terminal: a little less than two seconds.
const SILENCE: Duration = Duration::from_millis(1900);
/// Number of dots in a row, about two minutes: log viewers often show only complete lines.
const DOTS: usize = 60;

/// Progress on standard error: a spinner on a terminal, a growing row of dots elsewhere.
pub struct Waiting {
    bar: ProgressBar,
    /// Used if standard error is not a terminal; ends the row when it is dropped.
    dots: Option<Dots>,
}

impl Waiting {
    /// Shows `what` until [`done`](Self::done) is called or the value is dropped.
    pub fn new(what: String) -> Self {
        let bar = ProgressBar::new_spinner();
        if bar.is_hidden() {
            let dots = Some(Dots::begin(&what));
            return Self { bar, dots };
        }
        // The template is a valid constant; the default style would also do.
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} … {elapsed}") {
            bar.set_style(style);
        }
        bar.set_message(what);
        bar.enable_steady_tick(Duration::from_millis(120));
        Self { bar, dots: None }
    }

    /// Removes the progress display.
    pub fn done(&mut self) {
        self.bar.finish_and_clear();
        self.dots = None;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.done();
    }
}

/// A thread that writes dots until the value is dropped.
struct Dots {
    ended: Option<mpsc::Sender<()>>,
    writer: Option<std::thread::JoinHandle<()>>,
}

impl Dots {
    fn begin(what: &str) -> Self {
        show(format_args!("{what} …"));
        let (ended, heard) = mpsc::channel();
        let writer = std::thread::spawn(move || {
            for number in 1_usize.. {
                if heard.recv_timeout(SILENCE) != Err(mpsc::RecvTimeoutError::Timeout) {
                    return;
                }
                show(format_args!("{}", dot(number)));
            }
        });
        Self {
            ended: Some(ended),
            writer: Some(writer),
        }
    }
}

impl Drop for Dots {
    /// Ends the row, so that later output begins on a line of its own.
    fn drop(&mut self) {
        self.ended = None;
        // The thread ends now, and returns nothing.
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
        show(format_args!("\n"));
    }
}

/// Writes to standard error; failures are ignored.
fn show(text: std::fmt::Arguments<'_>) {
    let _ = io::stderr().write_fmt(text);
}

fn dot(number: usize) -> &'static str {
    match number % DOTS {
        0 => ".\n",
        _ => ".",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_come_before_two_seconds_have_passed_and_in_whole_rows() {
        assert!(SILENCE < Duration::from_secs(2));
        let row: String = (1..=DOTS + 1).map(dot).collect();
        assert_eq!(row, format!("{}\n.", ".".repeat(DOTS)));
    }
}
