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

/// The log being written. What does not fit any more is left out; each source has room of its own, so that a guest which
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
    /// Writes at most `limit` bytes of each source into `file`.
    pub(crate) fn new(file: File, limit: u64) -> Self {
        let (console, host) = (limit, limit);
        Self(Mutex::new(Open {
            file,
            console,
            host,
        }))
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
        let left = match source {
            Source::Console => &mut open.console,
            Source::Host => &mut open.host,
        };
        let rest = left.checked_sub(line.len() as u64);
        // Nor does anything shorter of the same source come after a gap.
        *left = rest.unwrap_or(0);
        if rest.is_some() {
            // One write, so that readers see whole lines. A full disk costs the log, not the VM.
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
