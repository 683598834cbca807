//! Temporary folders and files. They are removed when dropped, and also when a signal ends the process.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tempfile::TempDir;

use crate::files::FileError;

/// Prefix of the names of scratch folders in the cache.
const IN_CACHE: &str = "scratch-";
/// Prefix of the names of scratch folders beside the files that they are to become. It tells users what they are.
const MAKING: &str = ".making-";
/// Number of random letters and digits after the prefix, by which scratch folders are distinguished from a user's folders.
const RANDOM: usize = 6;
/// Age from which a scratch folder counts as abandoned: no build takes a day.
const ABANDONED: Duration = Duration::from_secs(24 * 60 * 60);

/// Unfinished files and folders of this process, for when it ends without dropping them.
static LISTED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// A folder that is removed when the value is dropped.
pub(crate) struct Scratch {
    folder: TempDir,
    _listed: Listed,
}

impl Scratch {
    /// Creates a folder in the cache, because a model may not fit on the disk of `/tmp`.
    pub(crate) fn in_cache(cache: &Path) -> Result<Self, FileError> {
        Self::below(cache, IN_CACHE)
    }

    /// Creates a folder in the output folder `folder`, so that its files can be renamed into that. First removes abandoned
    /// folders of killed processes: they are hidden, may be as large as a model, and nothing else removes them.
    pub(crate) fn making(folder: &Path) -> Result<Self, FileError> {
        remove_old(folder, MAKING)?;
        Self::below(folder, MAKING)
    }

    /// Creates a folder in any `folder`; `prefix` tells users what it is.
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

/// Registers a file or folder to be removed when a signal ends the process, until this value is dropped.
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

/// Removes all unfinished files and folders of this process, even if a thread still works on them. Call it just before exit.
pub fn remove_all() {
    for path in listed().drain(..) {
        let remove = || match path.is_dir() {
            true => fs::remove_dir_all(&path),
            false => fs::remove_file(&path),
        };
        // Another thread may remove parts of it at the same time, which makes the first attempt fail.
        if remove().is_err() {
            let _ = remove();
        }
    }
}

/// Removes scratch folders that interrupted builds left in the cache, if they are at least a day old: younger ones may be in
/// use.
///
/// # Errors
/// [`FileError`] when a folder cannot be removed.
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
    // A panic leaves a consistent list.
    LISTED.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    /// Creates folders with these names in `folder`, last modified `hours` ago.
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

    /// A killed process leaves a folder as large as a model, and nothing else cleans the folder of an image.
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

    /// Finished files must not be removed when a signal ends the process.
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
