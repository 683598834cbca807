//! The content-addressed cache of foreign files. Files are verified when they are inserted and again when they are
//! looked up.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::report::{self, Reporter};
use crate::{Digest, Lock, digest};

/// A cache folder shared by all runs of one user. While a process writes, it excludes the others with a file lock.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

/// The exclusive right to write to the cache, until dropped.
#[derive(Debug)]
pub struct CacheGuard {
    _file: File,
}

/// Result of [`Cache::gc`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Collected {
    /// Number of files and folders removed.
    pub removed: usize,
    /// Bytes freed, without those inside removed folders.
    pub bytes: u64,
    /// Number of files kept.
    pub kept: usize,
}

/// Why a cache operation failed.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// None of the environment variables that locate the cache is set.
    #[error("no place for the cache: set COCOON_CACHE, XDG_CACHE_HOME or HOME")]
    NoHome,
    /// The disk or the user's quota is full.
    #[error(
        "no space left for {path} ({needed} bytes needed): free some, or set COCOON_CACHE to a larger disk"
    )]
    NoSpace {
        /// File that was being written.
        path: PathBuf,
        /// Size of the file in bytes; 0 if it is not known.
        needed: u64,
    },
    /// Another error of the file system.
    #[error("cannot {operation} {path}")]
    Io {
        /// Operation that failed.
        operation: &'static str,
        /// File or folder.
        path: PathBuf,
        /// Underlying error.
        #[source]
        source: io::Error,
    },
    /// The length of the file is not the locked one.
    #[error("{what} has {found} bytes, the lock says {expected}")]
    Size {
        /// Name or address of the file.
        what: String,
        /// Locked size in bytes.
        expected: u64,
        /// Size found, in bytes; `expected` + 1 stands for any larger size.
        found: u64,
    },
    /// The digest of the file is not the locked one.
    #[error("{what} has SHA-256 {found}, the lock says {expected}")]
    Hash {
        /// Name or address of the file.
        what: String,
        /// Locked digest.
        expected: Digest,
        /// Digest found.
        found: Digest,
    },
}

impl Cache {
    /// Returns `COCOON_CACHE`, else `XDG_CACHE_HOME/cocoon`, else `HOME/.cache/cocoon`.
    ///
    /// # Errors
    /// [`CacheError::NoHome`] if none of the three is set.
    pub fn default_root() -> Result<PathBuf, CacheError> {
        let var = |name| {
            std::env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        var("COCOON_CACHE")
            .or_else(|| var("XDG_CACHE_HOME").map(|dir| dir.join("cocoon")))
            .or_else(|| var("HOME").map(|dir| dir.join(".cache/cocoon")))
            .ok_or(CacheError::NoHome)
    }

    /// Opens the cache in the folder `root`, and creates its folders if they are missing.
    ///
    /// # Errors
    /// [`CacheError`] if a folder cannot be created.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, CacheError> {
        let cache = Self { root: root.into() };
        for dir in [cache.content(), cache.partial()] {
            fs::create_dir_all(&dir).map_err(failed("create", &dir, 0))?;
        }
        Ok(cache)
    }

    /// The folder given to [`Cache::open`]. Other parts of the build keep their own folders in it.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Waits until no other process writes to the cache; reports the wait.
    ///
    /// # Errors
    /// [`CacheError::Io`] if the lock file cannot be opened or locked.
    pub fn exclusive(&self, reporter: &dyn Reporter) -> Result<CacheGuard, CacheError> {
        let path = self.root.join("inputs/lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(failed("open", &path, 0))?;
        let what = "waiting for another process that fills the cache";
        report::exclusive(&file, reporter, what).map_err(failed("lock", &path, 0))?;
        Ok(CacheGuard { _file: file })
    }

    /// Returns the path of a verified file, or `None` if it is absent. Removes a damaged file and returns `None`.
    ///
    /// # Errors
    /// [`CacheError::Io`] if the file cannot be read or removed.
    pub fn lookup(&self, sha256: &Digest, size: u64) -> Result<Option<PathBuf>, CacheError> {
        let path = self.path(sha256);
        match digest::of_file(&path, size) {
            Ok((found, length)) if found == *sha256 && length == size => Ok(Some(path)),
            Ok(_) => {
                fs::remove_file(&path).map_err(failed("remove the damaged", &path, 0))?;
                Ok(None)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", &path, 0)(error)),
        }
    }

    /// Verifies `part`, makes it read-only, flushes it to disk, and renames it to its digest.
    ///
    /// # Errors
    /// [`CacheError::Size`] or [`CacheError::Hash`] if `part` does not match; it is then removed.
    /// [`CacheError::NoSpace`] or [`CacheError::Io`] if the file system fails.
    pub fn insert(
        &self,
        part: &Path,
        what: &str,
        sha256: &Digest,
        size: u64,
    ) -> Result<PathBuf, CacheError> {
        let (found, length) = digest::of_file(part, size).map_err(failed("read", part, size))?;
        if length != size || found != *sha256 {
            fs::remove_file(part).map_err(failed("remove", part, 0))?;
            let what = what.to_owned();
            return Err(if length == size {
                CacheError::Hash {
                    what,
                    expected: *sha256,
                    found,
                }
            } else {
                CacheError::Size {
                    what,
                    expected: size,
                    found: length,
                }
            });
        }
        let path = self.path(sha256);
        fs::set_permissions(part, fs::Permissions::from_mode(0o444)).map_err(failed(
            "make read-only",
            part,
            size,
        ))?;
        File::open(part)
            .and_then(|file| file.sync_all())
            .map_err(failed("flush", part, size))?;
        fs::rename(part, &path).map_err(failed("rename", part, size))?;
        Ok(path)
    }

    /// Stores bytes that are already in memory.
    ///
    /// # Errors
    /// As [`Cache::insert`].
    pub fn insert_bytes(&self, bytes: &[u8], what: &str) -> Result<(Digest, PathBuf), CacheError> {
        let (sha256, size) = (Digest::of(bytes), bytes.len() as u64);
        if let Some(path) = self.lookup(&sha256, size)? {
            return Ok((sha256, path));
        }
        let part = self.part(&sha256);
        File::create(&part)
            .and_then(|mut file| file.write_all(bytes))
            .map_err(failed("write", &part, size))?;
        Ok((sha256, self.insert(&part, what, &sha256, size)?))
    }

    /// Removes every file that none of `locks` names, and every unfinished download.
    ///
    /// # Errors
    /// [`CacheError::Io`] if the cache cannot be locked or listed, or at the first file that cannot be removed.
    pub fn gc(&self, locks: &[&Lock], reporter: &dyn Reporter) -> Result<Collected, CacheError> {
        let _guard = self.exclusive(reporter)?;
        let named: BTreeSet<String> = locks
            .iter()
            .flat_map(|lock| lock.inputs())
            .map(|entry| entry.sha256.to_string())
            .collect();
        let mut collected = Collected::default();
        for dir in [self.content(), self.partial()] {
            for item in fs::read_dir(&dir).map_err(failed("list", &dir, 0))? {
                let item = item.map_err(failed("list", &dir, 0))?;
                if item
                    .file_name()
                    .to_str()
                    .is_some_and(|name| named.contains(name))
                {
                    collected.kept += 1;
                    continue;
                }
                let path = item.path();
                let meta = item.metadata().map_err(failed("inspect", &path, 0))?;
                if meta.is_dir() {
                    fs::remove_dir_all(&path)
                } else {
                    fs::remove_file(&path)
                }
                .map_err(failed("remove", &path, 0))?;
                collected.removed += 1;
                collected.bytes += meta.len();
            }
        }
        Ok(collected)
    }

    /// Path of the unfinished download of this digest. The file survives the process, so that the download can resume.
    pub(crate) fn part(&self, sha256: &Digest) -> PathBuf {
        self.partial().join(format!("{sha256}.part"))
    }

    /// Creates an empty folder for the output of an external program, on the disk of the cache, so that renames are
    /// atomic.
    pub(crate) fn scratch(&self, name: &str) -> Result<PathBuf, CacheError> {
        let path = self.partial().join(name);
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("empty", &path, 0)(error));
            }
            _ => fs::create_dir(&path).map_err(failed("create", &path, 0))?,
        }
        Ok(path)
    }

    fn path(&self, sha256: &Digest) -> PathBuf {
        self.content().join(sha256.to_string())
    }

    fn content(&self) -> PathBuf {
        self.root.join("inputs/sha256")
    }

    fn partial(&self) -> PathBuf {
        self.root.join("inputs/partial")
    }
}

/// Turns an I/O error into a [`CacheError`]; distinguishes a full disk from other errors.
pub(crate) fn failed(
    operation: &'static str,
    path: &Path,
    needed: u64,
) -> impl FnOnce(io::Error) -> CacheError {
    let path = path.to_owned();
    move |source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            CacheError::NoSpace { path, needed }
        }
        _ => CacheError::Io {
            operation,
            path,
            source,
        },
    }
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
