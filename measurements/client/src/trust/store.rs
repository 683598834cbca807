//! Small files that both people and this program write: read whole up to a limit, and replaced
//! atomically.

use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

/// Largest size of such a file, in bytes.
const MAX_LEN: u64 = 256 * 1024;

/// Largest number of links that are followed, as in Linux.
const MAX_LINKS: usize = 40;

/// Why a trust file, policy file or memory of releases is not usable.
#[derive(Debug, thiserror::Error)]
pub enum TrustFileError {
    /// The file cannot be read.
    #[error("cannot read {what} {path}")]
    Read {
        /// What the file is for.
        what: &'static str,
        /// Path of the file.
        path: PathBuf,
        /// Error of the operating system.
        #[source]
        source: io::Error,
    },
    /// The file is not TOML of its schema. The cause names line, field and accepted values.
    #[error("{what} {path} is not as it should be")]
    Malformed {
        /// What the file is for.
        what: &'static str,
        /// Path of the file.
        path: PathBuf,
        /// Line, column and what is wrong there.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// There is no folder for the file.
    #[error(
        "the {what} is not kept, so an older release will not be noticed: neither HOME nor XDG_CONFIG_HOME names a folder; set one, or name a trust file (--trust-file) for it to lie beside"
    )]
    NoPlace {
        /// What the file would be for.
        what: &'static str,
    },
    /// The file cannot be written.
    #[error("cannot update {what} {path}")]
    Write {
        /// What the file is for.
        what: &'static str,
        /// Path of the file.
        path: PathBuf,
        /// Error of the operating system.
        #[source]
        source: io::Error,
    },
}

/// Path of a file, and what it is for.
#[derive(Clone, Copy)]
pub(super) struct Store<'a> {
    pub(super) what: &'static str,
    pub(super) path: &'a Path,
}

impl Store<'_> {
    /// Returns the text of the file.
    pub(super) fn text(self) -> Result<String, TrustFileError> {
        let mut text = String::new();
        let read = std::fs::File::open(self.path)
            .and_then(|file| file.take(MAX_LEN + 1).read_to_string(&mut text))
            .and_then(|_| bounded(&text));
        read.map_err(|source| self.unread(source))?;
        Ok(text)
    }

    /// Returns the text of the file, or `None` if it does not exist.
    pub(super) fn text_if_any(self) -> Result<Option<String>, TrustFileError> {
        match self.text() {
            Err(TrustFileError::Read { source, .. })
                if source.kind() == io::ErrorKind::NotFound =>
            {
                Ok(None)
            }
            result => result.map(Some),
        }
    }

    /// Returns the text of the file; empty if it does not exist.
    pub(super) fn text_or_empty(self) -> Result<String, TrustFileError> {
        Ok(self.text_if_any()?.unwrap_or_default())
    }

    pub(super) fn parse<T: serde::de::DeserializeOwned>(
        self,
        text: &str,
    ) -> Result<T, TrustFileError> {
        toml::from_str(text).map_err(|source| TrustFileError::Malformed {
            what: self.what,
            path: self.path.to_owned(),
            source: Box::new(source),
        })
    }

    /// Updates the file atomically and under a lock: readers never see half of it, and no update of
    /// two simultaneous commands is lost. `change` gets the text and returns the new one, or `None`
    /// if it may stay. In that case nothing is written, not even the lock file, because a home may
    /// be read-only. `change` is called again once the lock is held.
    pub(super) fn update(
        self,
        change: impl Fn(&str) -> Result<Option<String>, TrustFileError>,
    ) -> Result<(), TrustFileError> {
        if change(&self.text_or_empty()?)?.is_none() {
            return Ok(());
        }
        let refuse = |source| self.unwritten(source);
        let path = place(self.path).map_err(refuse)?;
        let folder = path
            .parent()
            .ok_or_else(|| refuse(io::ErrorKind::InvalidInput.into()))?;
        std::fs::create_dir_all(folder).map_err(refuse)?;
        let lock = std::fs::File::create(path.with_extension("toml.lock")).map_err(refuse)?;
        lock.lock().map_err(refuse)?;
        let Some(text) = change(&self.text_or_empty()?)? else {
            return Ok(());
        };
        bounded(&text).map_err(refuse)?;
        let mut temporary = tempfile::NamedTempFile::new_in(folder).map_err(refuse)?;
        // An existing file keeps its permissions; only the owner can read a new one.
        if let Ok(before) = std::fs::metadata(&path) {
            let kept = temporary.as_file().set_permissions(before.permissions());
            kept.map_err(refuse)?;
        }
        temporary.write_all(text.as_bytes()).map_err(refuse)?;
        temporary.as_file().sync_all().map_err(refuse)?;
        temporary
            .persist(&path)
            .map_err(|error| refuse(error.error))?;
        Ok(())
    }

    pub(super) fn unread(self, source: io::Error) -> TrustFileError {
        TrustFileError::Read {
            what: self.what,
            path: self.path.to_owned(),
            source,
        }
    }

    pub(super) fn unwritten(self, source: io::Error) -> TrustFileError {
        TrustFileError::Write {
            what: self.what,
            path: self.path.to_owned(),
            source,
        }
    }
}

/// Returns the path of the file itself. A link to it stays a link, even if the file does not exist
/// yet.
fn place(path: &Path) -> io::Result<PathBuf> {
    let missing = match path.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => error,
        found => return found,
    };
    let mut path = path.to_owned();
    // A loop of links was found above, unless it was just made.
    for _ in 0..MAX_LINKS {
        let Ok(target) = path.read_link() else {
            return Ok(path);
        };
        path = path.parent().unwrap_or(Path::new("")).join(target);
    }
    Err(missing)
}

fn bounded(text: &str) -> io::Result<()> {
    if text.len() as u64 > MAX_LEN {
        return Err(io::Error::other(format!("larger than {MAX_LEN} bytes")));
    }
    Ok(())
}

/// Converts to TOML's integers, which end at 2^63 - 1.
pub(super) fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
