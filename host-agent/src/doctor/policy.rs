//! A client's policy file (`measurements/client/docs/policy.toml`): trusted signers and requirements on evidence.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use cocoon_measurements::manifest::ManifestTrust;
use cocoon_measurements::policy::Policy;
use cocoon_protocol::bytes::Hex32;
use serde::Deserialize;

/// Maximum length of the file in bytes.
const MAX_POLICY: u64 = 256 << 10;

/// The contents of a policy file. What it leaves out has the clients' defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PolicyFile {
    /// Ed25519 public keys of the manifest signers.
    pub signers: Vec<Hex32>,
    /// Number of signers that must have signed.
    pub threshold: Option<usize>,
    /// Lowest accepted release.
    pub release_floor: u64,
    /// Requirements on evidence.
    pub policy: Policy,
}

/// Why a policy file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The file cannot be read.
    #[error("cannot read the policy {path:?}")]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// The error of the system.
        #[source]
        source: io::Error,
    },
    /// The file is too long.
    #[error("the policy {path:?} is longer than {MAX_POLICY} bytes")]
    TooLong {
        /// Path of the file.
        path: PathBuf,
    },
    /// Clients would not accept the file.
    #[error("{path:?} is not a policy of the client's")]
    Malformed {
        /// Path of the file.
        path: PathBuf,
        /// The parser's error, with the position.
        #[source]
        source: Box<toml::de::Error>,
    },
}

impl PolicyFile {
    /// Reads the policy file at `path`.
    ///
    /// # Errors
    /// Fails with [`PolicyError`], which names the file and, for a malformed one, the line.
    pub fn load(path: &Path) -> Result<Self, PolicyError> {
        let mut text = String::new();
        let read =
            File::open(path).and_then(|file| file.take(MAX_POLICY + 1).read_to_string(&mut text));
        let path = path.to_owned();
        match read {
            Err(source) => Err(PolicyError::Read { path, source }),
            Ok(_) if text.len() as u64 > MAX_POLICY => Err(PolicyError::TooLong { path }),
            Ok(_) => toml::from_str(&text).map_err(|source| PolicyError::Malformed {
                path,
                source: Box::new(source),
            }),
        }
    }

    /// The signers, threshold and release floor of this policy.
    #[must_use]
    pub fn believed(&self) -> ManifestTrust {
        let mut believed = ManifestTrust {
            signers: self.signers.iter().map(|key| key.0).collect(),
            threshold: self.threshold.unwrap_or(1),
            ..ManifestTrust::default()
        };
        believed.release_floor = believed.release_floor.max(self.release_floor);
        believed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clients_example_is_read_and_states_the_defaults() {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../measurements/client/docs/policy.toml");
        let file = PolicyFile::load(&path).unwrap();
        assert_eq!(file.policy, Policy::default());
        assert!(file.signers.is_empty());
        assert_eq!(file.believed().threshold, 1);
    }

    #[test]
    fn what_clients_would_not_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.toml");
        let load = |text: &str| {
            std::fs::write(&path, text).unwrap();
            chain(PolicyFile::load(&path).unwrap_err())
        };
        let typo = load("[policy]\nmachnes = []\n");
        assert!(typo.contains("unknown field `machnes`"), "{typo}");
        let long = load(&"#".repeat(300 << 10));
        assert!(long.ends_with("is longer than 262144 bytes"), "{long}");
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(
            PolicyFile::load(&path),
            Err(PolicyError::Read { .. })
        ));
    }

    fn chain(error: PolicyError) -> String {
        crate::text::chain(&error)
    }
}
