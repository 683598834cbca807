//! A temporary folder for one run, removed when the run ends. If the process is killed, the next run removes it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// Prefix of these folders' names.
const PREFIX: &str = "run-";
/// File in each folder that its owner keeps locked for as long as it lives.
const OWNER: &str = "owner";
/// File beside the folders, locked while one is created or old ones are removed.
const DOOR: &str = "lock";
/// Attempts to remove a folder: a thread that is still running may write into it meanwhile.
const ATTEMPTS: usize = 100;

/// A temporary folder of this process, removed on drop.
pub struct Scratch {
    path: PathBuf,
    /// Holds the lock on the folder's owner file.
    _owner: File,
}

impl Scratch {
    /// Creates a folder in `place`, and removes those whose owners have ended.
    ///
    /// # Errors
    /// If the folder cannot be created. That an old folder cannot be removed is not an error; it is left to the next run.
    pub fn take(place: &Path) -> anyhow::Result<Self> {
        let make = || -> io::Result<Self> {
            fs::create_dir_all(place)?;
            let door = File::create(place.join(DOOR))?;
            door.lock()?;
            sweep(place)?;
            let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(place)?;
            let owner = File::create(folder.path().join(OWNER))?;
            // No other process examines the folder before `DOOR` is unlocked.
            owner.lock()?;
            Ok(Self {
                path: folder.keep(),
                _owner: owner,
            })
        };
        make().with_context(|| format!("cannot make a folder in {}", place.display()))
    }

    /// Returns the folder's path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let mut attempts = 0..ATTEMPTS;
        // A folder that cannot be removed now is left to the next run.
        while fs::remove_dir_all(&self.path).is_err() && self.path.exists() {
            if attempts.next().is_none() {
                return;
            }
        }
    }
}

/// Removes folders without a living owner. The caller holds `DOOR`, so every living owner has locked its folder by now.
fn sweep(place: &Path) -> io::Result<()> {
    for entry in fs::read_dir(place)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        if !name.starts_with(PREFIX.as_bytes()) {
            continue;
        }
        let lives = match File::open(path.join(OWNER)) {
            Ok(owner) => owner.try_lock().is_err(),
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        };
        if !lives {
            // May fail, for example if the folder belongs to another user.
            let _ = fs::remove_dir_all(&path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_dead_owners_are_swept_away_and_no_others() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        // A killed process leaves its owner file, but no lock.
        fs::create_dir_all(at("run-killed/image")).unwrap();
        fs::write(at("run-killed/owner"), "").unwrap();
        fs::write(at("run-killed/image/vmlinuz"), "large").unwrap();
        // One folder of a process killed before it locked anything, and one whose name lacks the prefix.
        fs::create_dir(at("run-early")).unwrap();
        fs::create_dir(at("kept")).unwrap();
        let first = Scratch::take(place.path()).unwrap();
        for (name, there) in [("run-killed", false), ("run-early", false), ("kept", true)] {
            assert_eq!(at(name).exists(), there, "{name}");
        }
        fs::create_dir(first.path().join("image")).unwrap();
        let second = Scratch::take(place.path()).unwrap();
        assert!(first.path().join("image").is_dir(), "its owner lives");
        let paths = [first.path().to_owned(), second.path().to_owned()];
        drop((first, second));
        assert!(paths.iter().all(|path| !path.exists()));
    }
}
