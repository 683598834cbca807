//! How to fetch: what counts as a result, whose signatures, at what time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::Keyring;

/// What to do when no source has a locked file any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// Stop and say how to refresh the lock.
    #[default]
    Release,
    /// Take the newest version signed by Debian's archive key; the result must be marked unlocked.
    AllowNewest,
}

/// How to fetch.
#[derive(Debug, Clone)]
pub struct Options {
    /// What to do when a locked file is gone.
    pub policy: Policy,
    /// Keys that may sign a Release file.
    pub keyring: Keyring,
    /// Seconds since 1970, for signatures and Valid-Until.
    pub now: u64,
    /// How long past Valid-Until a Release file is still taken; reported when it happens.
    pub expired_tolerance: Duration,
}

impl Default for Options {
    /// Release policy, Debian's keyring, the machine's clock, thirty days of tolerance (sid's Release file has
    /// been seen sixteen days late on a mirror).
    fn default() -> Self {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        Self {
            policy: Policy::Release,
            keyring: Keyring::debian(),
            now,
            expired_tolerance: Duration::from_secs(30 * 86_400),
        }
    }
}
