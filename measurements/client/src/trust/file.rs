//! The trust file, `~/.config/cocoon/trust.toml`: signers, floors and appliances seen before.
//!
//! ```toml
//! signers = ["8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c"]
//! threshold = 1
//! release_floor = 3        # rises by itself as newer releases are seen
//!
//! [policy]                 # optional; the defaults are the safe ones
//! accepted_advisories = []
//!
//! [known_hosts."appliance.example:8443"]
//! release = 3              # seen confidential, with this release
//! ```

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use cocoon_measurements::manifest::ManifestTrust;
use cocoon_measurements::policy::Policy;
use cocoon_protocol::bytes::Hex32;
use serde::Deserialize;
use toml_edit::{DocumentMut, Item, Table, value};

/// Largest trust file, in bytes.
const MAX_LEN: u64 = 256 * 1024;

/// What a person keeps about trust.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrustFile {
    /// Ed25519 public keys of those who sign manifests.
    pub signers: Vec<Hex32>,
    /// How many of them must have signed; 1 when absent.
    pub threshold: Option<usize>,
    /// Releases below this one are refused.
    pub release_floor: u64,
    /// What is demanded beyond the manifest.
    pub policy: Policy,
    /// Appliances seen confidential, by `HOST:PORT`.
    pub known_hosts: BTreeMap<String, KnownHost>,
}

/// What is remembered of an appliance that was confidential.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownHost {
    /// The newest release that it ran.
    pub release: u64,
}

/// Why the trust file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum TrustFileError {
    /// Cannot be read.
    #[error("cannot read trust file {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// From the operating system.
        #[source]
        source: io::Error,
    },
    /// Not TOML of the schema. The cause names the line.
    #[error("trust file {path} is not as it should be")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Line, column and what is wrong there.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// Cannot be written.
    #[error("cannot update trust file {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// From the operating system.
        #[source]
        source: io::Error,
    },
}

/// `$XDG_CONFIG_HOME/cocoon/trust.toml`, `~/.config/cocoon/trust.toml`, or nothing without a home.
pub fn default_path() -> Option<PathBuf> {
    let absolute = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let config = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")))?;
    Some(config.join("cocoon/trust.toml"))
}

impl TrustFile {
    /// Reads a trust file; one that is not there says nothing.
    pub fn load(path: &Path) -> Result<Self, TrustFileError> {
        Self::parse(path, &text(path)?)
    }

    /// What the file says about manifests, with no flag added.
    pub fn believed(&self) -> ManifestTrust {
        let mut believed = ManifestTrust {
            signers: self.signers.iter().map(|key| key.0).collect(),
            threshold: self.threshold.unwrap_or(1),
            ..ManifestTrust::default()
        };
        believed.release_floor = believed.release_floor.max(self.release_floor);
        believed
    }

    /// Raises the floor to `release`, never lowers it.
    pub fn raise_floor(path: &Path, release: u64) -> Result<(), TrustFileError> {
        Self::update(path, |document, file| {
            let raise = release > file.release_floor;
            if raise {
                document["release_floor"] = value(integer(release));
            }
            raise
        })
    }

    /// Remembers an appliance.
    pub fn remember(path: &Path, host: &str, known: KnownHost) -> Result<(), TrustFileError> {
        Self::update(path, |document, file| {
            if file
                .known_hosts
                .get(host)
                .is_some_and(|before| before.release >= known.release)
            {
                return false;
            }
            let hosts = document.entry("known_hosts").or_insert_with(|| {
                let mut table = Table::new();
                table.set_implicit(true);
                Item::Table(table)
            });
            hosts[host]["release"] = value(integer(known.release));
            if let Some(table) = hosts[host].as_inline_table_mut() {
                table.fmt();
            }
            true
        })
    }

    fn parse(path: &Path, text: &str) -> Result<Self, TrustFileError> {
        toml::from_str(text).map_err(|source| TrustFileError::Malformed {
            path: path.to_owned(),
            source: Box::new(source),
        })
    }

    /// Changes the file under a lock and in one step, comments and order kept: nobody ever reads half of it, and
    /// two commands at once lose nothing.
    fn update(
        path: &Path,
        change: impl FnOnce(&mut DocumentMut, &Self) -> bool,
    ) -> Result<(), TrustFileError> {
        let refuse = |source| TrustFileError::Write {
            path: path.to_owned(),
            source,
        };
        let folder = path
            .parent()
            .ok_or_else(|| refuse(io::ErrorKind::InvalidInput.into()))?;
        std::fs::create_dir_all(folder).map_err(refuse)?;
        let lock = std::fs::File::create(path.with_extension("toml.lock")).map_err(refuse)?;
        lock.lock().map_err(refuse)?;
        let text = text(path)?;
        let file = Self::parse(path, &text)?;
        let mut document: DocumentMut = text
            .parse()
            .map_err(|error| refuse(io::Error::other(error)))?;
        if !change(&mut document, &file) {
            return Ok(());
        }
        let mut temporary = tempfile::NamedTempFile::new_in(folder).map_err(refuse)?;
        temporary
            .write_all(document.to_string().as_bytes())
            .map_err(refuse)?;
        temporary.as_file().sync_all().map_err(refuse)?;
        temporary
            .persist(path)
            .map_err(|error| refuse(error.error))?;
        Ok(())
    }
}

fn text(path: &Path) -> Result<String, TrustFileError> {
    let refuse = |source| TrustFileError::Read {
        path: path.to_owned(),
        source,
    };
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        Err(error) => return Err(refuse(error)),
    };
    let mut text = String::new();
    io::Read::read_to_string(&mut io::Read::take(file, MAX_LEN + 1), &mut text).map_err(refuse)?;
    if text.len() as u64 > MAX_LEN {
        return Err(refuse(io::Error::other(format!(
            "larger than {MAX_LEN} bytes"
        ))));
    }
    Ok(text)
}

/// TOML's integers end at 2^63 - 1.
fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trust.toml");
        std::fs::write(&path, text).unwrap();
        (folder, path)
    }

    #[test]
    fn errors_name_the_line() {
        for (text, line) in [
            ("threshold = 1\nsigner = []\n", "line 2"),
            ("\n\nsigners = [\"12\"]\n", "line 3"),
            ("[policy]\nno_such = 1\n", "line 2"),
            ("[known_hosts.\"a:1\"]\nrelease = -1\n", "line 2"),
        ] {
            let (_folder, path) = file(text);
            match TrustFile::load(&path) {
                Err(TrustFileError::Malformed { source, .. }) => {
                    assert!(source.to_string().contains(line), "{source}")
                }
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn floors_rise_and_never_fall_and_comments_stay() {
        let (_folder, path) = file("# mine\nrelease_floor = 3 # why\n");
        TrustFile::raise_floor(&path, 2).unwrap();
        assert_eq!(TrustFile::load(&path).unwrap().release_floor, 3);
        TrustFile::raise_floor(&path, 7).unwrap();
        assert_eq!(TrustFile::load(&path).unwrap().release_floor, 7);
        assert!(
            std::fs::read_to_string(&path)
                .unwrap()
                .starts_with("# mine\n")
        );
    }

    #[test]
    fn appliances_are_remembered_in_a_file_that_was_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cocoon/trust.toml");
        assert_eq!(TrustFile::load(&path).unwrap(), TrustFile::default());
        TrustFile::remember(&path, "[::1]:8443", KnownHost { release: 4 }).unwrap();
        TrustFile::remember(&path, "a.example:1", KnownHost { release: 5 }).unwrap();
        TrustFile::remember(&path, "a.example:1", KnownHost { release: 2 }).unwrap();
        TrustFile::raise_floor(&path, 5).unwrap();
        let file = TrustFile::load(&path).unwrap();
        assert_eq!(file.release_floor, 5);
        assert_eq!(file.known_hosts["[::1]:8443"], KnownHost { release: 4 });
        assert_eq!(file.known_hosts["a.example:1"], KnownHost { release: 5 });
    }
}
