//! The newest release seen from each set of signers, kept beside the trust file: an older one of theirs is a rollback,
//! whoever offers it, even while its manifest is still in its time.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use cocoon_protocol::bytes::{Hex, Hex32};
use serde::{Deserialize, Serialize};

use super::store::{Store, TrustFileError};

const WHAT: &str = "memory of releases";
const HEAD: &str = "# Written by cocoon: the newest release seen from each set of signers; older ones are refused.\n                    # --reset-release-floor forgets the entry of the signers in use.\n\n";

/// What was seen. One that cannot be read is an error: forgetting is what an attacker would want.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Releases {
    #[serde(default)]
    seen: Vec<Seen>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Seen {
    /// Sorted, each once.
    signers: BTreeSet<Hex32>,
    release: u64,
}

/// `trust.releases.toml` beside `trust.toml`.
pub(super) fn path_beside(trust_file: &Path) -> PathBuf {
    trust_file.with_extension("releases.toml")
}

impl Releases {
    /// Reads the file; one that is not there has seen nothing.
    pub(super) fn load(path: &Path) -> Result<Self, TrustFileError> {
        let store = at(path);
        store.parse(&store.text_if_any()?)
    }

    /// The newest release of exactly these signers, in any order.
    pub(super) fn newest(&self, signers: &[[u8; 32]]) -> Option<u64> {
        let signers = set(signers);
        let own = self.seen.iter().filter(|seen| seen.signers == signers);
        own.map(|seen| seen.release).max()
    }

    /// Remembers `release` unless a newer one is known; with `lower`, even then.
    pub(super) fn remember(
        path: &Path,
        signers: &[[u8; 32]],
        release: u64,
        lower: bool,
    ) -> Result<(), TrustFileError> {
        let store = at(path);
        store.update(|text| {
            let mut releases: Self = store.parse(text)?;
            let newest = releases.newest(signers);
            if newest == Some(release) || (newest > Some(release) && !lower) {
                return Ok(None);
            }
            let signers = set(signers);
            releases.seen.retain(|seen| seen.signers != signers);
            releases.seen.push(Seen { signers, release });
            let text = toml::to_string(&releases)
                .map_err(|error| store.unwritten(std::io::Error::other(error)))?;
            Ok(Some(format!("{HEAD}{text}")))
        })
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
    fn each_set_of_signers_has_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = path_beside(&folder.path().join("cocoon/trust.toml"));
        assert!(path.ends_with("cocoon/trust.releases.toml"));
        let (one, two) = ([1; 32], [2; 32]);
        let newest = |signers: &[_]| Releases::load(&path).unwrap().newest(signers);
        assert_eq!(newest(&[one]), None);
        let remember = |signers: &[_], release, lower| {
            Releases::remember(&path, signers, release, lower).unwrap();
        };
        remember(&[one], 7, false);
        remember(&[two, one], 3, false);
        assert_eq!((newest(&[one]), newest(&[one, two])), (Some(7), Some(3)));
        assert_eq!(newest(&[two]), None);
        remember(&[one, one], 5, false);
        assert_eq!(newest(&[one]), Some(7), "never falls by itself");
        remember(&[one], 9, false);
        assert_eq!(newest(&[one]), Some(9));
        remember(&[one], 5, true);
        assert_eq!((newest(&[one]), newest(&[one, two])), (Some(5), Some(3)));
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("# Written by cocoon"), "{text}");
        let left: Vec<_> = std::fs::read_dir(path.parent().unwrap()).unwrap().collect();
        assert_eq!(
            left.len(),
            2,
            "the file and its lock, nothing temporary: {left:?}"
        );
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
