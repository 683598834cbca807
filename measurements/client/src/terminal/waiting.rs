//! Something that takes time, so that nobody wonders whether it still goes on.

use std::io::{self, Write as _};
use std::sync::mpsc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// How long nothing is said where there is no terminal: a little less than two seconds.
const SILENCE: Duration = Duration::from_millis(1900);
/// Dots in a row, about two minutes: readers of a log see whole lines only.
const DOTS: usize = 60;

/// Something that takes time, shown on standard error: turning on a terminal, a growing row of dots elsewhere.
pub struct Waiting {
    bar: ProgressBar,
    /// Where standard error is no terminal; dropping it ends the row.
    dots: Option<Dots>,
}

impl Waiting {
    /// Shows `what` until it is done.
    pub fn new(what: String) -> Self {
        let bar = ProgressBar::new_spinner();
        if bar.is_hidden() {
            let dots = Some(Dots::begin(&what));
            return Self { bar, dots };
        }
        // The template is a constant without errors; the default one serves as well.
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} … {elapsed}") {
            bar.set_style(style);
        }
        bar.set_message(what);
        bar.enable_steady_tick(Duration::from_millis(120));
        Self { bar, dots: None }
    }

    /// Takes it away.
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

/// A thread that writes dots until it is told to end.
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
    /// What is written afterwards begins on a line of its own.
    fn drop(&mut self) {
        self.ended = None;
        // It ends by itself now, and has nothing to give back.
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
        show(format_args!("\n"));
    }
}

/// What cannot be shown is no reason to stop.
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
