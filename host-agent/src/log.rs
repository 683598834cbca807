//! A VM's log for programs: console lines and the host agent's messages, each with its time, as one JSON object per line.
//!
//! It cannot contain prompts: the guest's console is silent while it serves, and the messages are a closed set.

use std::fs::File;
use std::io::Write;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Name of the file in the VM's folder.
pub const FILE: &str = "log.jsonl";

/// A line of the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Seconds since 1970 on the host's clock, to the millisecond.
    pub time: f64,
    /// Where the text comes from.
    pub source: Source,
    /// The text, without control characters.
    pub text: String,
}

/// The source of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// The guest's console.
    Console,
    /// The host agent.
    Host,
}

/// A log that is being written. Lines beyond the limit are dropped. Each source has a limit of its own, so that a guest that
/// fills its console does not silence the host.
#[derive(Debug)]
pub(crate) struct Log(Mutex<Open>);

#[derive(Debug)]
struct Open {
    file: File,
    console: u64,
    host: u64,
}

impl Log {
    /// Creates a log that writes at most `limit` bytes of each source to `file`.
    pub(crate) fn new(file: File, limit: u64) -> Self {
        let (console, host) = (limit, limit);
        Self(Mutex::new(Open {
            file,
            console,
            host,
        }))
    }

    /// Adds a line; `text` has been sanitised.
    pub(crate) fn add(&self, source: Source, text: &str) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let milliseconds = since.map_or(0, |since| since.as_millis());
        let entry = Entry {
            time: milliseconds as f64 / 1000.0,
            source,
            text: text.to_owned(),
        };
        // Serialisation of a number and strings cannot fail.
        let mut line = serde_json::to_vec(&entry).unwrap_or_default();
        line.push(b'\n');
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let left = match source {
            Source::Console => &mut open.console,
            Source::Host => &mut open.host,
        };
        let rest = left.checked_sub(line.len() as u64);
        // After a dropped line, later lines of the same source are dropped too, so that the log has no gaps.
        *left = rest.unwrap_or(0);
        if rest.is_some() {
            // A single write, so that readers see whole lines. A full disk must cost only the log, not the VM.
            let _ = open.file.write_all(&line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(path: &std::path::Path) -> Vec<Entry> {
        let text = std::fs::read_to_string(path).unwrap();
        let entries = text.lines().map(|line| serde_json::from_str(line).unwrap());
        entries.collect()
    }

    #[test]
    fn lines_are_whole_and_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let log = Log::new(File::create(&path).unwrap(), 150);
        let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        log.add(Source::Console, "cocoon: \"serving\"");
        log.add(Source::Console, &"long".repeat(100));
        log.add(Source::Console, "short");
        let entries = entries(&path);
        let [entry] = &entries[..] else {
            panic!("{entries:?}")
        };
        assert_eq!(
            (entry.source, entry.text.as_str()),
            (Source::Console, "cocoon: \"serving\"")
        );
        assert!((entry.time - before.as_secs_f64()).abs() < 60.0);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("\"source\":\"console\""));
    }

    #[test]
    fn a_guest_that_fills_its_console_does_not_silence_the_host() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let log = Log::new(File::create(&path).unwrap(), 150);
        for _ in 0..3 {
            log.add(Source::Console, &"x".repeat(80));
        }
        log.add(Source::Host, "the guest's agent runs");
        let said: Vec<Source> = entries(&path).iter().map(|entry| entry.source).collect();
        assert_eq!(said, [Source::Console, Source::Host]);
    }
}
