//! The log of a VM for programs: the console's lines and our own news, each with its time, one JSON object a line.
//!
//! Nothing of a prompt can be in it: the guest's console is quiet while it serves, and the news are a closed set.

use std::fs::File;
use std::io::Write;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Its name in the VM's folder.
pub const FILE: &str = "log.jsonl";

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Seconds since 1970 on the host's clock, to the millisecond.
    pub time: f64,
    /// Who said it.
    pub source: Source,
    /// What, without anything that could steer a terminal.
    pub text: String,
}

/// Who says something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// The guest, on its console.
    Console,
    /// The host agent.
    Host,
}

/// The log being written. What does not fit any more is left out.
#[derive(Debug)]
pub(crate) struct Log(Mutex<Open>);

#[derive(Debug)]
struct Open {
    file: File,
    left: u64,
}

impl Log {
    /// Writes at most `limit` bytes into `file`.
    pub(crate) fn new(file: File, limit: u64) -> Self {
        Self(Mutex::new(Open { file, left: limit }))
    }

    /// Adds a line; `text` has been made harmless.
    pub(crate) fn add(&self, source: Source, text: &str) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let milliseconds = since.map_or(0, |since| since.as_millis());
        let entry = Entry {
            time: milliseconds as f64 / 1000.0,
            source,
            text: text.to_owned(),
        };
        // A number and strings: serialisation cannot fail.
        let mut line = serde_json::to_vec(&entry).unwrap_or_default();
        line.push(b'\n');
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(left) = open.left.checked_sub(line.len() as u64) {
            open.left = left;
            // One write, so that readers see whole lines. A full disk costs the log, not the VM.
            let _ = open.file.write_all(&line);
        } else {
            // Nor does anything shorter come after a gap.
            open.left = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_and_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let log = Log::new(File::create(&path).unwrap(), 150);
        let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        log.add(Source::Console, "cocoon: \"serving\"");
        log.add(Source::Host, &"long".repeat(100));
        log.add(Source::Host, "short");
        let text = std::fs::read_to_string(&path).unwrap();
        let entries: Vec<Entry> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let [entry] = &entries[..] else {
            panic!("{text}")
        };
        assert_eq!(
            (entry.source, entry.text.as_str()),
            (Source::Console, "cocoon: \"serving\"")
        );
        assert!((entry.time - before.as_secs_f64()).abs() < 60.0);
        assert!(text.contains("\"source\":\"console\""));
    }
}
