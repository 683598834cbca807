//! Prints an answer as it arrives, and a spinner when it pauses.

use std::io::{self, IsTerminal as _, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use unicode_width::UnicodeWidthChar as _;

use super::{Waiting, harmless, print};

/// How long nothing must arrive before the spinner appears; a fast answer needs none.
const SILENCE: Duration = Duration::from_secs(1);
/// Interval between two shapes of the spinner.
const TURN: Duration = Duration::from_millis(200);
/// Shapes of the spinner. Plain characters and backspace work on every terminal.
const SHAPES: [&str; 4] = ["|\u{8}", "/\u{8}", "-\u{8}", "\\\u{8}"];
/// Erases the spinner.
const ERASED: &str = " \u{8}";

/// An answer on standard output. Until its first word, standard error shows that it is awaited. If
/// standard output is a terminal, a spinner after the last word shows pauses from then on.
/// Otherwise standard error shows until the end that the answer is not complete, unless both go to
/// the same file, where that would get into the text.
pub struct Answering {
    /// Progress on standard error until the first word, or until the end.
    waiting: Option<Waiting>,
    to_the_end: bool,
    beside: Option<Beside>,
}

impl Answering {
    /// Makes an answer of which nothing has arrived yet.
    pub fn new() -> Self {
        let (output, errors) = (io::stdout(), io::stderr());
        let beside = output.is_terminal();
        let to_the_end =
            !beside && (errors.is_terminal() || !is_same_file(output.as_fd(), errors.as_fd()));
        let what = if to_the_end {
            "waiting for the answer"
        } else {
            "waiting for the first word"
        };
        Self {
            waiting: Some(Waiting::new(what.to_owned())),
            to_the_end,
            beside: beside.then(Beside::begin),
        }
    }

    /// Prints words that arrived, without characters that control the terminal.
    pub fn words(&mut self, words: &str) -> io::Result<()> {
        self.print(&harmless(words))
    }

    fn print(&mut self, text: &str) -> io::Result<()> {
        if !self.to_the_end {
            self.waiting = None;
        }
        match &self.beside {
            Some(beside) => beside.print(text),
            None => print(text),
        }
    }
}

impl Default for Answering {
    fn default() -> Self {
        Self::new()
    }
}

fn is_same_file(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> bool {
    let identity = |descriptor: BorrowedFd<'_>| {
        let file = std::fs::File::from(descriptor.try_clone_to_owned()?);
        let metadata = file.metadata()?;
        io::Result::Ok((metadata.dev(), metadata.ino()))
    };
    match (identity(one), identity(other)) {
        (Ok(one), Ok(other)) => one == other,
        // Unknown: assume the same file, because the text must not be spoiled.
        _ => true,
    }
}

/// The spinner after the last word, turned by its own thread.
struct Beside {
    sign: Arc<Mutex<Sign>>,
    /// Ends the thread when it is dropped.
    _alive: mpsc::Sender<()>,
}

impl Beside {
    fn begin() -> Self {
        let sign = Arc::new(Mutex::new(Sign::new(Instant::now())));
        let (alive, ended) = mpsc::channel();
        let turned = Arc::clone(&sign);
        std::thread::spawn(move || {
            while ended.recv_timeout(TURN) == Err(mpsc::RecvTimeoutError::Timeout) {
                let mut sign = lock(&turned);
                // The next write of words reports a broken terminal.
                let _ = print(sign.turn(Instant::now(), columns()));
            }
        });
        Self {
            sign,
            _alive: alive,
        }
    }

    fn print(&self, text: &str) -> io::Result<()> {
        let mut sign = lock(&self.sign);
        let mut output = io::stdout().lock();
        output.write_all(sign.erase().as_bytes())?;
        output.write_all(text.as_bytes())?;
        output.flush()?;
        sign.follow(text, Instant::now(), columns());
        Ok(())
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        let mut sign = lock(&self.sign);
        // Ignored: a closed terminal shows nothing.
        let _ = print(sign.erase());
        // The thread may run once more before it ends; it must not show the spinner again.
        sign.begun = false;
    }
}

fn lock(sign: &Mutex<Sign>) -> MutexGuard<'_, Sign> {
    sign.lock().unwrap_or_else(PoisonError::into_inner)
}

fn columns() -> usize {
    terminal_size::terminal_size().map_or(0, |(width, _)| usize::from(width.0))
}

/// Position where the text ends, and whether the spinner is shown there.
struct Sign {
    /// Whether there is a word after which the spinner can be shown.
    begun: bool,
    shown: bool,
    turns: usize,
    column: usize,
    last: Instant,
}

impl Sign {
    const fn new(now: Instant) -> Self {
        Self {
            begun: false,
            shown: false,
            turns: 0,
            column: 0,
            last: now,
        }
    }

    /// Returns what to write to turn the spinner. In the last column of a line nothing is shown,
    /// because terminals differ in where the cursor goes from there.
    fn turn(&mut self, now: Instant, columns: usize) -> &'static str {
        let silent = now.saturating_duration_since(self.last);
        if !self.begun || silent < SILENCE || self.column + 1 >= columns {
            return "";
        }
        self.shown = true;
        self.turns += 1;
        SHAPES[self.turns % SHAPES.len()]
    }

    /// Returns what to write before any other text.
    fn erase(&mut self) -> &'static str {
        if std::mem::take(&mut self.shown) {
            ERASED
        } else {
            ""
        }
    }

    /// Updates the position for text that was written to a terminal with `columns` columns.
    fn follow(&mut self, text: &str, now: Instant, columns: usize) {
        (self.begun, self.last) = (true, now);
        for character in text.chars() {
            let width = character.width().unwrap_or(0);
            self.column = match character {
                '\n' => 0,
                '\t' => (self.column / 8 + 1) * 8,
                _ if self.column + width > columns => width,
                _ => self.column + width,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATER: Duration = Duration::from_secs(2);

    #[test]
    fn the_sign_stands_behind_the_text_and_leaves_it_alone() {
        let mut now = Instant::now();
        let mut sign = Sign::new(now);
        now += LATER;
        assert_eq!(sign.turn(now, 80), "", "before the first word");
        sign.follow("Bon", now, 80);
        assert_eq!(sign.turn(now + TURN, 80), "", "too early");
        now += LATER;
        let turned: Vec<_> = (0..4).map(|_| sign.turn(now, 80)).collect();
        assert_eq!(turned, ["/\u{8}", "-\u{8}", "\\\u{8}", "|\u{8}"]);
        assert_eq!(sign.erase(), " \u{8}");
        assert_eq!(sign.erase(), "", "nothing is left");
        sign.follow("jour", now, 80);
        assert_eq!(sign.column, 7);
    }

    #[test]
    fn the_sign_keeps_away_from_the_edge() {
        let mut now = Instant::now();
        for (text, column, fits) in [
            ("", 0, true),
            ("12345678", 8, true),
            ("123456789", 9, false),
            ("1234567890", 10, false),
            ("1234567890a", 1, true),
            ("1234567890\nab", 2, true),
            // Each takes two columns, and the last one does not fit into the first line.
            ("你好世界a你", 2, true),
            ("a\tb", 9, false),
        ] {
            let mut sign = Sign::new(now);
            sign.follow(text, now, 10);
            now += LATER;
            assert_eq!(sign.column, column, "{text:?}");
            assert_eq!(!sign.turn(now, 10).is_empty(), fits, "{text:?}");
        }
    }

    #[test]
    fn the_same_file_behind_two_descriptors_is_known() {
        let (one, other) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let again = one.try_clone().unwrap();
        assert!(is_same_file(one.as_fd(), again.as_fd()));
        assert!(!is_same_file(one.as_fd(), other.as_fd()));
    }
}
