//! The folder of one run: gone when the run ends, however it ends. Whoever is killed outright is swept
//! away by the next run.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// Beginning of the names of such folders.
const PREFIX: &str = "run-";
/// In each folder; locked for as long as its owner lives.
const OWNER: &str = "owner";
/// Beside the folders; held while one is made or some are swept away.
const DOOR: &str = "lock";
/// A thread that is being left alone may still write into the folder.
const ATTEMPTS: usize = 100;

/// A folder of this process. Dropping it removes it.
pub struct Scratch {
    path: PathBuf,
    /// Locked for as long as it is open.
    _owner: File,
}

impl Scratch {
    /// Makes one in `place`, and removes those whose owners are gone.
    ///
    /// # Errors
    /// When the folder cannot be made. One that cannot be removed stays for the next run.
    pub fn take(place: &Path) -> anyhow::Result<Self> {
        let make = || -> io::Result<Self> {
            fs::create_dir_all(place)?;
            let door = File::create(place.join(DOOR))?;
            door.lock()?;
            sweep(place)?;
            let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(place)?;
            let owner = File::create(folder.path().join(OWNER))?;
            // Nobody else looks at it before the door is open again.
            owner.lock()?;
            Ok(Self {
                path: folder.keep(),
                _owner: owner,
            })
        };
        make().with_context(|| format!("cannot make a folder in {}", place.display()))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let mut attempts = 0..ATTEMPTS;
        // What cannot be removed now is swept away by the next run.
        while fs::remove_dir_all(&self.path).is_err() && self.path.exists() {
            if attempts.next().is_none() {
                return;
            }
        }
    }
}

/// Removes folders without a living owner. The door is held: each folder has its owner's lock by now.
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
            // Somebody else's, perhaps.
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
        // Of a process that was killed: its lock is gone, its file is not.
        fs::create_dir_all(at("run-killed/image")).unwrap();
        fs::write(at("run-killed/owner"), "").unwrap();
        fs::write(at("run-killed/image/vmlinuz"), "large").unwrap();
        // Of one that was killed before it had locked anything, and of an older release.
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
