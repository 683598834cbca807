//! The memory of releases, a file next to the trust file: the newest release seen from each set of
//! signers. An older release of that set, or of a set that shares a signer with it, is a rollback,
//! even if its manifest is still valid. So adding the key of a rebuilder or removing a key forgets
//! nothing.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use cocoon_protocol::bytes::{Hex, Hex32};
use serde::{Deserialize, Serialize};

use super::store::{Store, TrustFileError};

pub(super) const WHAT: &str = "memory of releases";
const HEAD: &str = "# Written by cocoon: the newest release seen from each set of signers; who shares a signer\n# with them may not offer an older one. --reset-release-floor lowers the entries of the signers in use.\n\n";

/// Content of the file. A file that cannot be read is an error, not an empty memory, because an
/// attacker would profit from that.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Releases {
    #[serde(default)]
    seen: Vec<Seen>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Seen {
    /// Signers, sorted and without duplicates.
    signers: BTreeSet<Hex32>,
    release: u64,
}

/// Returns the path of the memory: `trust.releases.toml` for `trust.toml`.
pub(super) fn path_beside(trust_file: &Path) -> PathBuf {
    trust_file.with_extension("releases.toml")
}

impl Releases {
    /// Reads the file; a missing one counts as empty.
    pub(super) fn load(path: &Path) -> Result<Self, TrustFileError> {
        let store = at(path);
        store.parse(&store.text_or_empty()?)
    }

    /// Returns the newest release of all sets that contain one of these signers.
    pub(super) fn newest(&self, signers: &[[u8; 32]]) -> Option<u64> {
        let signers = set(signers);
        let shared = self.seen.iter().filter(|seen| seen.shares(&signers));
        shared.map(|seen| seen.release).max()
    }

    /// Remembers `release` unless a newer one is known; with `lower`, in any case. Does not write
    /// if nothing changes.
    pub(super) fn remember(
        path: &Path,
        signers: &[[u8; 32]],
        release: u64,
        lower: bool,
    ) -> Result<(), TrustFileError> {
        let store = at(path);
        store.update(|text| {
            let mut releases: Self = store.parse(text)?;
            if !releases.see(set(signers), release, lower) {
                return Ok(None);
            }
            let text = toml::to_string(&releases)
                .map_err(|error| store.unwritten(std::io::Error::other(error)))?;
            Ok(Some(format!("{HEAD}{text}")))
        })
    }

    /// Adds a release; returns whether anything changed.
    fn see(&mut self, signers: BTreeSet<Hex32>, release: u64, lower: bool) -> bool {
        let newer = |seen: &Seen| seen.shares(&signers) && seen.release > release;
        if !lower && self.seen.iter().any(newer) {
            return false;
        }
        let before = self.seen.clone();
        for seen in self.seen.iter_mut().filter(|seen| newer(seen)) {
            seen.release = release;
        }
        // No set that shares a signer has a newer release now, so a set implies its subsets, which
        // are dropped to keep the file small.
        let covered = |seen: &Seen| seen.release == release && seen.signers.is_superset(&signers);
        if !self.seen.iter().any(covered) {
            self.seen.retain(|seen| !seen.signers.is_subset(&signers));
            self.seen.push(Seen { signers, release });
        }
        self.seen != before
    }
}

impl Seen {
    fn shares(&self, signers: &BTreeSet<Hex32>) -> bool {
        !self.signers.is_disjoint(signers)
    }
}

fn set(signers: &[[u8; 32]]) -> BTreeSet<Hex32> {
    signers.iter().map(|key| Hex(*key)).collect()
}

fn at(path: &Path) -> Store<'_> {
    Store { what: WHAT, path }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_that_share_a_signer_share_the_memory() {
        let folder = tempfile::tempdir().unwrap();
        let path = path_beside(&folder.path().join("cocoon/trust.toml"));
        assert!(path.ends_with("cocoon/trust.releases.toml"));
        let (one, two, three) = ([1; 32], [2; 32], [3; 32]);
        let newest = |signers: &[_]| Releases::load(&path).unwrap().newest(signers);
        assert_eq!(newest(&[one]), None);
        let remember = |signers: &[_], release, lower| {
            Releases::remember(&path, signers, release, lower).unwrap();
        };
        remember(&[one], 7, false);
        assert_eq!(newest(&[two, one]), Some(7), "a key more forgets nothing");
        assert_eq!(newest(&[two]), None);
        remember(&[two, one], 3, false);
        assert_eq!((newest(&[one]), newest(&[two])), (Some(7), None));
        remember(&[two, one], 7, false);
        assert_eq!(newest(&[two]), Some(7), "a key less forgets nothing");
        remember(&[one, one], 5, false);
        assert_eq!(newest(&[one]), Some(7), "never falls by itself");
        remember(&[three, two], 9, false);
        assert_eq!(newest(&[one]), Some(7));
        assert_eq!(newest(&[one, three]), Some(9), "the greatest of all");

        // Lowers the release of every set that shares a signer; otherwise it would have no effect.
        remember(&[one, two], 5, true);
        assert_eq!((newest(&[one]), newest(&[two, three])), (Some(5), Some(5)));
        remember(&[one], 2, true);
        assert_eq!(
            (newest(&[one, two]), newest(&[two, three])),
            (Some(5), Some(5))
        );
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("# Written by cocoon"), "{text}");
        assert!(text.lines().all(|line| line == line.trim()), "{text}");
        let left: Vec<_> = std::fs::read_dir(path.parent().unwrap()).unwrap().collect();
        assert_eq!(
            left.len(),
            2,
            "the file and its lock, nothing temporary: {left:?}"
        );
    }

    /// If nothing is new, nothing is written, not even a lock file, because a home may be
    /// read-only.
    #[test]
    fn what_is_known_needs_no_lock() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trust.releases.toml");
        let lock = folder.path().join("trust.releases.toml.lock");
        let remember = |release| Releases::remember(&path, &[[1; 32], [2; 32]], release, false);
        remember(7).unwrap();
        std::fs::remove_file(&lock).unwrap();
        let written = std::fs::metadata(&path).unwrap().modified().unwrap();
        for known in [7, 6] {
            remember(known).unwrap();
            assert!(!lock.exists(), "{known}");
        }
        Releases::remember(&path, &[[1; 32]], 7, true).unwrap();
        assert!(!lock.exists(), "a part of the set");
        let now = std::fs::metadata(&path).unwrap().modified().unwrap();
        assert_eq!(now, written);
        remember(8).unwrap();
        assert!(lock.exists());
    }

    #[test]
    fn a_damaged_memory_is_not_an_empty_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trust.releases.toml");
        std::fs::write(&path, "[[seen]]\nsigners = []\nrelease = \"new\"\n").unwrap();
        let error = crate::error::chain(&Releases::load(&path).unwrap_err());
        assert!(
            error.starts_with("memory of releases ") && error.contains("line 3"),
            "{error}"
        );
    }
}
