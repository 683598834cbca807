//! Folders and files that vanish with whoever works in them, also where the process ends without dropping anything.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tempfile::TempDir;

use crate::files::FileError;

/// Beginning of the names of those in the cache.
const IN_CACHE: &str = "scratch-";
/// Beginning of the names of those beside what they are to become, which tells people what they are.
const MAKING: &str = ".making-";
/// Random letters and digits behind either, by which a folder that somebody has named is told apart.
const RANDOM: usize = 6;
/// What is older than this nobody works in: nothing takes a day.
const ABANDONED: Duration = Duration::from_secs(24 * 60 * 60);

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
        Self::below(cache, IN_CACHE)
    }

    /// In `folder`, a folder of ours whose files it is to become without being copied. What killed ones have left there goes
    /// first: it is hidden, may be as large as a model, and nobody else removes it.
    pub(crate) fn making(folder: &Path) -> Result<Self, FileError> {
        remove_old(folder, MAKING)?;
        Self::below(folder, MAKING)
    }

    /// In any `folder`; `prefix` tells people what it is.
    pub(crate) fn below(folder: &Path, prefix: &str) -> Result<Self, FileError> {
        let mut builder = tempfile::Builder::new();
        let made = builder.prefix(prefix).rand_bytes(RANDOM).tempdir_in(folder);
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

/// Removes scratch folders that an interrupted build left in the cache, at least a day old: younger ones may be in use.
///
/// # Errors
/// [`FileError`] when one cannot be removed.
pub fn remove_abandoned(cache: &Path) -> Result<usize, FileError> {
    remove_old(cache, IN_CACHE)
}

fn remove_old(folder: &Path, prefix: &str) -> Result<usize, FileError> {
    let mut removed = 0;
    for entry in fs::read_dir(folder).map_err(FileError::read(folder))? {
        let entry = entry.map_err(FileError::read(folder))?;
        let modified = entry
            .metadata()
            .and_then(|metadata| metadata.modified())
            .ok();
        let old = modified
            .and_then(|time| time.elapsed().ok())
            .is_some_and(|elapsed| elapsed >= ABANDONED);
        let name = entry.file_name();
        let random = name.as_encoded_bytes().strip_prefix(prefix.as_bytes());
        let ours = random.is_some_and(|random| {
            random.len() == RANDOM && random.iter().all(u8::is_ascii_alphanumeric)
        });
        if old && ours {
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
    use std::time::SystemTime;

    use super::*;

    /// Makes folders in `folder` with these names, which nobody has touched for `hours`.
    fn left(folder: &Path, names: &[&str], hours: u64) {
        for name in names {
            fs::create_dir(folder.join(name)).unwrap();
            fs::write(folder.join(name).join("model.img"), "half").unwrap();
            let then = SystemTime::now() - Duration::from_secs(hours * 60 * 60);
            let made = fs::File::open(folder.join(name)).unwrap();
            made.set_modified(then).unwrap();
        }
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap().flatten();
        let mut names: Vec<_> = entries
            .map(|entry| entry.file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn only_old_scratch_folders_are_abandoned() {
        let cache = tempfile::tempdir().unwrap();
        left(cache.path(), &["scratch-aB3dE6", "guest", "content"], 25);
        left(cache.path(), &["scratch-aB3dE7"], 23);
        assert_eq!(remove_abandoned(cache.path()).unwrap(), 1);
        assert_eq!(names(cache.path()), ["content", "guest", "scratch-aB3dE7"]);
    }

    /// Whoever is killed leaves a folder as large as a model, and nobody tidies up an image's folder.
    #[test]
    fn what_is_made_in_a_folder_takes_the_place_of_what_killed_ones_left() {
        let image = tempfile::tempdir().unwrap();
        left(image.path(), &[".making-aB3dE6", ".making-of", "mine"], 25);
        left(image.path(), &[".making-aB3dE7"], 23);
        let scratch = Scratch::making(image.path()).unwrap();
        assert!(scratch.path().is_dir());
        drop(scratch);
        assert_eq!(
            names(image.path()),
            [".making-aB3dE7", ".making-of", "mine"]
        );
    }

    /// What has been finished is somebody else's to remove.
    #[test]
    fn what_is_unfinished_is_listed_and_no_longer() {
        let folder = tempfile::tempdir().unwrap();
        let is_listed = |path: &Path| listed().iter().any(|listed| listed == path);
        let scratch = Scratch::making(folder.path()).unwrap();
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
