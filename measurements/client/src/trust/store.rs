//! Small files that a person and this program both write: read whole within a bound, replaced in one step.

use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

/// Largest such file, in bytes.
const MAX_LEN: u64 = 256 * 1024;

/// Links in a row that are followed, as many as Linux follows.
const MAX_LINKS: usize = 40;

/// Why such a file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum TrustFileError {
    /// Cannot be read.
    #[error("cannot read {what} {path}")]
    Read {
        /// What the file is for.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// From the operating system.
        #[source]
        source: io::Error,
    },
    /// Not TOML of the schema. The cause names line, field and accepted values.
    #[error("{what} {path} is not as it should be")]
    Malformed {
        /// What the file is for.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Line, column and what is wrong there.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// Nowhere to be kept.
    #[error(
        "the {what} is not kept, so an older release will not be noticed: neither HOME nor XDG_CONFIG_HOME names a folder; set one, or name a trust file (--trust-file) for it to lie beside"
    )]
    NoPlace {
        /// What the file would be for.
        what: &'static str,
    },
    /// Cannot be written.
    #[error("cannot update {what} {path}")]
    Write {
        /// What the file is for.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// From the operating system.
        #[source]
        source: io::Error,
    },
}

/// A file by its path and what it is for.
#[derive(Clone, Copy)]
pub(super) struct Store<'a> {
    pub(super) what: &'static str,
    pub(super) path: &'a Path,
}

impl Store<'_> {
    /// Its text.
    pub(super) fn text(self) -> Result<String, TrustFileError> {
        let mut text = String::new();
        let read = std::fs::File::open(self.path)
            .and_then(|file| file.take(MAX_LEN + 1).read_to_string(&mut text))
            .and_then(|_| bounded(&text));
        read.map_err(|source| self.unread(source))?;
        Ok(text)
    }

    /// Its text, if it is there.
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

    /// Its text; that of one that is not there is empty.
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

    /// Changes the file under a lock and in one step: nobody ever reads half of it, and two commands at once lose
    /// nothing. `change` gets the text and gives the new one, or nothing when it may stay: then nothing is written, no
    /// lock either, because a home may be read-only. It is asked again once the lock is held.
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
        // A file that others read stays theirs to read; a new one is its owner's alone.
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

/// Where the file itself lies: who keeps it elsewhere and has a link here keeps the link, even while there is no file yet.
fn place(path: &Path) -> io::Result<PathBuf> {
    let missing = match path.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => error,
        found => return found,
    };
    let mut path = path.to_owned();
    // One that leads to itself was found out above, unless it has just become one.
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

/// TOML's integers end at 2^63 - 1.
pub(super) fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
