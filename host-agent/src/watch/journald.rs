//! Sends the daemon's events to the systemd journal as structured records, if the daemon runs under systemd.
//!
//! The native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL) is one datagram of `FIELD=value` lines to a fixed socket.
//! Existing crates bring a tracing framework or ten packages for it, and none lets a test listen.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use crate::daemon::journal::{Entry, MANIFEST, UPDATE_FAILED};
use crate::text::plain;

/// Path of the journal's socket.
pub const SOCKET: &str = "/run/systemd/journal/socket";
/// Syslog identifier of the records, as in `journalctl -t cocoon-host`.
const IDENTIFIER: &str = "cocoon-host";
/// Longest text of a record, in characters. Reasons repeat text from guests.
const MAX_TEXT: usize = 1000;

/// A connection to the journal.
#[derive(Debug)]
pub struct Journald {
    socket: UnixDatagram,
}

impl Journald {
    /// Connects to the journal if standard error is connected to it (`JOURNAL_STREAM`, systemd.exec(5)). Device and inode
    /// are compared, since a shell may have redirected standard error.
    #[must_use]
    pub fn of_this_process() -> Option<Self> {
        let stream = std::env::var("JOURNAL_STREAM").ok()?;
        let error = std::fs::metadata("/proc/self/fd/2").ok()?;
        (stream == format!("{}:{}", error.dev(), error.ino())).then_some(())?;
        Self::at(Path::new(SOCKET)).ok()
    }

    /// Connects to the journal that listens at `path`.
    ///
    /// # Errors
    /// An I/O error if nothing listens there.
    pub fn at(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(path)?;
        // A journal that does not keep up loses records instead of delaying the appliances.
        socket.set_nonblocking(true)?;
        Ok(Self { socket })
    }

    /// Writes an event.
    ///
    /// # Errors
    /// An I/O error if the journal does not accept it.
    pub fn write(&self, entry: &Entry) -> io::Result<()> {
        self.socket.send(&record(entry)).map(drop)
    }
}

/// Encodes the event as a record. `plain` removes line ends, so that every field is one line.
fn record(entry: &Entry) -> Vec<u8> {
    let text = plain(&entry.text, MAX_TEXT);
    let message = match &entry.appliance {
        Some(name) => format!("{name}: {text}"),
        None => text,
    };
    let mut fields = vec![
        ("MESSAGE", message),
        ("PRIORITY", priority(&entry.state).to_string()),
        ("SYSLOG_IDENTIFIER", IDENTIFIER.to_owned()),
        ("COCOON_EVENT", entry.seq.to_string()),
        ("COCOON_STATE", plain(&entry.state, MAX_TEXT)),
    ];
    if let Some(name) = &entry.appliance {
        fields.push(("COCOON_APPLIANCE", plain(name, MAX_TEXT)));
    }
    let lines = fields
        .iter()
        .map(|(field, value)| format!("{field}={value}\n"));
    lines.collect::<String>().into_bytes()
}

/// Returns the syslog(3) priority: error for an appliance that was given up, warning for what needs attention.
fn priority(state: &str) -> u8 {
    match state {
        "failed" => 3,
        "unknown" | UPDATE_FAILED | MANIFEST => 4,
        "note" => 5,
        _ => 6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_record_with_fields() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let journal = UnixDatagram::bind(&path).unwrap();
        let entry = Entry {
            seq: 7,
            time: 1.5,
            appliance: Some("first".to_owned()),
            state: "failed".to_owned(),
            text: "given up: \u{1b}[2J\nMESSAGE=forged".to_owned(),
        };
        let ours = Journald::at(&path).unwrap();
        ours.write(&entry).unwrap();
        let mut buffer = [0; 1024];
        let length = journal.recv(&mut buffer).unwrap();
        let expected = "MESSAGE=first: given up: [2J MESSAGE=forged\nPRIORITY=3\n\
            SYSLOG_IDENTIFIER=cocoon-host\nCOCOON_EVENT=7\nCOCOON_STATE=failed\nCOCOON_APPLIANCE=first\n";
        assert_eq!(std::str::from_utf8(&buffer[..length]).unwrap(), expected);
        drop(journal);
        assert!(ours.write(&entry).is_err());
    }

    #[test]
    fn what_needs_a_look_is_a_warning() {
        let states = [
            "failed",
            "unknown",
            "update-failed",
            "manifest",
            "note",
            "update",
            "serving",
        ];
        assert_eq!(states.map(priority), [3, 4, 4, 4, 5, 6, 6]);
    }

    #[test]
    fn without_a_journal_there_is_none() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Journald::at(&folder.path().join("socket")).is_err());
    }
}
