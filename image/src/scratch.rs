//! Folders and files that vanish with whoever works in them, also where the process ends without dropping anything.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tempfile::TempDir;

use crate::files::FileError;

/// Beginning of the names of those in the cache.
const PREFIX: &str = "scratch-";

/// Those of this process, for when it ends without dropping them.
static LISTED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// A folder that vanishes with the value.
pub(crate) struct Scratch {
    folder: TempDir,
    _listed: Listed,
}

impl Scratch {
    /// On the cache's disk, for a model may be larger than `/tmp`.
    pub(crate) fn in_cache(cache: &Path) -> Result<Self, FileError> {
        Self::below(cache, PREFIX)
    }

    /// In `folder`, whose files it is to become without being copied; `prefix` tells people what it is.
    pub(crate) fn below(folder: &Path, prefix: &str) -> Result<Self, FileError> {
        let made = tempfile::Builder::new().prefix(prefix).tempdir_in(folder);
        let made = made.map_err(FileError::write(folder))?;
        Ok(Self {
            _listed: Listed::new(made.path()),
            folder: made,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// Has a file or folder removed when the process is told to end, until this is dropped.
pub(crate) struct Listed(PathBuf);

impl Listed {
    pub(crate) fn new(path: &Path) -> Self {
        listed().push(path.to_owned());
        Self(path.to_owned())
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        let mut listed = listed();
        if let Some(at) = listed.iter().position(|path| *path == self.0) {
            listed.swap_remove(at);
        }
    }
}

/// Removes what this process has not finished, whoever works at it: for one that is about to exit.
pub fn remove_all() {
    for path in listed().drain(..) {
        let remove = || match path.is_dir() {
            true => fs::remove_dir_all(&path),
            false => fs::remove_file(&path),
        };
        // Whoever else removes it meanwhile takes something away under this; then what is left goes now.
        if remove().is_err() {
            let _ = remove();
        }
    }
}

/// Removes scratch folders that an interrupted build left in the cache, at least `age` old: younger ones may be in use.
///
/// # Errors
/// [`FileError`] when one cannot be removed.
pub fn remove_abandoned(cache: &Path, age: Duration) -> Result<usize, FileError> {
    let mut removed = 0;
    for entry in fs::read_dir(cache).map_err(FileError::read(cache))? {
        let entry = entry.map_err(FileError::read(cache))?;
        let modified = entry
            .metadata()
            .and_then(|metadata| metadata.modified())
            .ok();
        let old = modified
            .and_then(|time| time.elapsed().ok())
            .is_some_and(|elapsed| elapsed >= age);
        let name = entry.file_name();
        if old && name.as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
            let path = entry.path();
            fs::remove_dir_all(&path).map_err(FileError::write(&path))?;
            removed += 1;
        }
    }
    Ok(removed)
}

fn listed() -> MutexGuard<'static, Vec<PathBuf>> {
    // A list is whole, whoever panicked.
    LISTED.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_old_scratch_folders_are_abandoned() {
        let cache = tempfile::tempdir().unwrap();
        for folder in ["scratch-1", "guest", "content"] {
            fs::create_dir(cache.path().join(folder)).unwrap();
        }
        let day = Duration::from_secs(24 * 60 * 60);
        assert_eq!(remove_abandoned(cache.path(), day).unwrap(), 0);
        assert_eq!(remove_abandoned(cache.path(), Duration::ZERO).unwrap(), 1);
        assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 2);
    }

    /// What has been finished is somebody else's to remove.
    #[test]
    fn what_is_unfinished_is_listed_and_no_longer() {
        let folder = tempfile::tempdir().unwrap();
        let is_listed = |path: &Path| listed().iter().any(|listed| listed == path);
        let scratch = Scratch::below(folder.path(), ".making-").unwrap();
        let path = scratch.path().to_owned();
        assert!(is_listed(&path) && path.is_dir());
        drop(scratch);
        assert!(!is_listed(&path) && !path.exists());

        let partial = folder.path().join(".x.partial");
        let pending = crate::files::Pending::create(folder.path(), "x").unwrap();
        assert!(is_listed(&partial));
        pending.publish().unwrap();
        assert!(!is_listed(&partial));
        let pending = crate::files::Pending::create(folder.path(), "x").unwrap();
        drop(pending);
        assert!(!is_listed(&partial));
    }
}
