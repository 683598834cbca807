//! Drains the guest's console, so that it never blocks the guest, and keeps its output up to a limit.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::sync::watch;

use crate::log::{Log, Source};
use crate::text::plain;

/// Number of lines kept for error messages.
const LINES: usize = 12;
/// Maximum length of a kept line in bytes.
const LINE: usize = 400;
/// Start of the kernel's panic message, which stays the last kept line; the stack trace after it is only in the log.
const PANIC: &str = "Kernel panic";

/// The last lines of a guest's console.
#[derive(Debug, Clone)]
pub(crate) struct Console {
    lines: Arc<Mutex<VecDeque<String>>>,
    ended: watch::Receiver<bool>,
}

impl Console {
    /// Copies `stream` until it ends: the first `limit` bytes to `serial`, and its lines to `log`.
    pub(crate) fn follow(
        mut stream: UnixStream,
        mut serial: File,
        limit: u64,
        log: Arc<Log>,
    ) -> Self {
        let lines = Arc::new(Mutex::new(VecDeque::new()));
        let (sender, ended) = watch::channel(false);
        let kept = Arc::clone(&lines);
        tokio::spawn(async move {
            let (mut buffer, mut line, mut left) = (vec![0; 8192], Vec::new(), limit);
            while let Ok(count) = stream.read(&mut buffer).await {
                if count == 0 {
                    break;
                }
                let bytes = &buffer[..count];
                let fits = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                left -= fits as u64;
                // A full disk must cost only the log, not the VM.
                let _ = serial.write_all(&bytes[..fits]);
                for byte in bytes {
                    if *byte == b'\n' {
                        remember(&kept, &log, &line);
                        line.clear();
                    } else if line.len() < LINE {
                        line.push(*byte);
                    }
                }
            }
            remember(&kept, &log, &line);
            sender.send_replace(true);
        });
        Self { lines, ended }
    }

    /// Returns the last lines, sanitised. Waits up to a second for the end of the output, so call it when the VM has ended.
    pub(crate) async fn last_lines(&mut self) -> Vec<String> {
        let end = self.ended.wait_for(|ended| *ended);
        // Another process may still hold the stream open.
        let _ = tokio::time::timeout(std::time::Duration::from_secs(1), end).await;
        self.lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .cloned()
            .collect()
    }
}

fn remember(lines: &Mutex<VecDeque<String>>, log: &Log, line: &[u8]) {
    let text = plain(&String::from_utf8_lossy(line), LINE);
    if text.is_empty() {
        return;
    }
    log.add(Source::Console, &text);
    let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
    if lines.back().is_some_and(|last| last.contains(PANIC)) {
        return;
    }
    if lines.len() == LINES {
        lines.pop_front();
    }
    lines.push_back(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept_and_end_with_a_panic() {
        let lines = Mutex::default();
        let kept = tempfile::NamedTempFile::new().unwrap();
        let log = Log::new(kept.reopen().unwrap(), 1 << 20);
        let remember = |lines: &_, line: &[u8]| super::remember(lines, &log, line);
        for number in 0..LINES {
            remember(&lines, format!("line {number}\r").as_bytes());
        }
        remember(&lines, b"\r");
        remember(&lines, b"[    1.0] Kernel panic - not syncing: gone");
        remember(&lines, b"[    1.0] Call Trace:");
        let lines = lines.into_inner().unwrap();
        assert_eq!(lines.len(), LINES);
        assert_eq!(lines[0], "line 1");
        assert_eq!(
            lines[LINES - 1],
            "[    1.0] Kernel panic - not syncing: gone"
        );
        // The log has everything, including the trace.
        let log = std::fs::read_to_string(kept.path()).unwrap();
        assert_eq!(log.lines().count(), LINES + 2);
        assert!(log.contains("Call Trace:"));
    }

    #[tokio::test]
    async fn a_full_disk_costs_the_logs_and_nothing_else() {
        let full = || File::options().write(true).open("/dev/full").unwrap();
        let log = Arc::new(Log::new(full(), 1 << 20));
        let (ours, guest) = UnixStream::pair().unwrap();
        let mut console = Console::follow(ours, full(), 1 << 20, log);
        let mut guest = guest.into_std().unwrap();
        for line in ["one\n", "two\n"] {
            guest.write_all(line.as_bytes()).unwrap();
        }
        drop(guest);
        assert_eq!(console.last_lines().await, ["one", "two"]);
    }
}
