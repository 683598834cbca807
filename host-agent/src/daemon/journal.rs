//! The daemon's recent events: a bounded number is kept, and followers receive new ones.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

/// Number of events that are kept.
const KEPT: usize = 1024;

/// Value of `state` in an event that says why an update failed.
pub const UPDATE_FAILED: &str = "update-failed";

/// Value of `state` in an event that says that a manifest has expired or will soon.
pub const MANIFEST: &str = "manifest";

/// An event of the daemon.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Number of the event, from 1 in each daemon.
    pub seq: u64,
    /// Time in seconds since 1970.
    pub time: f64,
    /// Name of the appliance, if the event concerns one.
    pub appliance: Option<String>,
    /// The state that the appliance entered, or `update`, [`UPDATE_FAILED`], [`MANIFEST`], `unknown` or `note`.
    pub state: String,
    /// Description of the event for people.
    pub text: String,
}

/// The events of one daemon.
#[derive(Debug)]
pub struct Journal {
    entries: Mutex<VecDeque<Entry>>,
    told: broadcast::Sender<Entry>,
}

impl Default for Journal {
    fn default() -> Self {
        Self {
            entries: Mutex::default(),
            told: broadcast::channel(KEPT).0,
        }
    }
}

impl Journal {
    /// Adds an event.
    pub fn add(&self, appliance: Option<&str>, state: &str, text: &str) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let time = since.map_or(0, |since| since.as_millis()) as f64 / 1000.0;
        let mut entries = self.lock();
        let entry = Entry {
            seq: entries.back().map_or(0, |last| last.seq) + 1,
            time,
            appliance: appliance.map(str::to_owned),
            state: state.to_owned(),
            text: text.to_owned(),
        };
        if entries.len() == KEPT {
            entries.pop_front();
        }
        entries.push_back(entry.clone());
        // Sent under the lock, so that a follower neither misses an event nor gets it twice. There may be no follower.
        let _ = self.told.send(entry);
    }

    /// Returns the kept events after number `seq`, and a receiver of all later ones.
    #[must_use]
    pub fn after(&self, seq: u64) -> (Vec<Entry>, broadcast::Receiver<Entry>) {
        let entries = self.lock();
        let kept = entries.iter().filter(|entry| entry.seq > seq).cloned();
        (kept.collect(), self.told.subscribe())
    }

    /// Number of events so far.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.lock().back().map_or(0, |last| last.seq)
    }

    /// Returns at most `most` kept events, newest first.
    #[must_use]
    pub fn newest(&self, most: usize) -> Vec<Entry> {
        self.lock().iter().rev().take(most).cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn events_are_numbered_bounded_and_followed() {
        let journal = Journal::default();
        for number in 1..=KEPT + 3 {
            journal.add(Some("first"), "note", &number.to_string());
        }
        let (kept, mut follow) = journal.after(0);
        assert_eq!((kept.len(), kept[0].seq), (KEPT, 4));
        assert_eq!(journal.after(1026).0.len(), 1);
        journal.add(None, "note", "last");
        let entry = follow.recv().await.unwrap();
        assert_eq!((entry.seq, entry.text.as_str()), (1028, "last"));
        assert_eq!(journal.count(), 1028);
        let newest: Vec<u64> = journal.newest(2).iter().map(|entry| entry.seq).collect();
        assert_eq!(newest, [1028, 1027]);
    }
}
