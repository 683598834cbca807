//! Options of fetching: the policy for missing files, the accepted keys, and the time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::Keyring;

/// What to do when no source has a locked file any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// Fail, and say how to refresh the lock.
    #[default]
    Release,
    /// Take the newest version signed by Debian's archive key. The result must be marked as unlocked.
    AllowNewest,
}

/// Options of fetching.
#[derive(Debug, Clone)]
pub struct Options {
    /// What to do when a locked file is no longer available.
    pub policy: Policy,
    /// Keys that may sign a Release file.
    pub keyring: Keyring,
    /// Current time in seconds since 1970, for signatures and Valid-Until.
    pub now: u64,
    /// How long a Release file is still accepted after its Valid-Until; each such case is reported.
    pub expired_tolerance: Duration,
}

impl Default for Options {
    /// The release policy, Debian's keyring, the machine's clock, and a tolerance of thirty days: on a mirror, sid's
    /// Release file was once seen sixteen days late.
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
