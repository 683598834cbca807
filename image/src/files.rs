//! Reads and writes files with errors that name the file and what to do, and hashes artefacts.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use cocoon_inputs::report::{self, Reporter};
use cocoon_protocol::bytes::Hex32;
use cocoon_protocol::manifest::Artefact;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::scratch::Listed;

/// Name of the lock file in a folder that only one process may work in.
pub(crate) const LOCK: &str = "lock";
/// Bytes to read at once from a large file.
pub const CHUNK: usize = 1 << 20;

/// Why a file cannot be read or written.
#[derive(Debug, Error)]
pub enum FileError {
    /// The file cannot be opened or read.
    #[error("cannot read {path}")]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// What the system reported.
        #[source]
        source: io::Error,
    },
    /// The file cannot be created or written.
    #[error("cannot write {path}")]
    Write {
        /// Path of the file.
        path: PathBuf,
        /// What the system reported.
        #[source]
        source: io::Error,
    },
    /// The disk is full, or a quota is used up.
    #[error(
        "no space left on the disk while writing {path}: free some space, or choose another folder"
    )]
    NoSpace {
        /// Path of the file.
        path: PathBuf,
    },
    /// The file is larger than allowed.
    #[error("{path} has {size} bytes, more than the {limit} allowed")]
    TooLarge {
        /// Path of the file.
        path: PathBuf,
        /// Size of the file, in bytes.
        size: u64,
        /// Largest allowed size, in bytes.
        limit: u64,
    },
    /// The file changed while it was read.
    #[error("{path} had {expected} bytes and then {found}: it changed while it was read")]
    Changed {
        /// Path of the file.
        path: PathBuf,
        /// Size at first, in bytes.
        expected: u64,
        /// Size later, in bytes.
        found: u64,
    },
}

impl FileError {
    /// Returns a closure for `map_err` on operations that read `path`.
    pub fn read(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Read { path, source }
    }

    /// Returns a closure for `map_err` on operations that write `path`. A full disk gives a variant of its own, because the
    /// user has to free space.
    pub fn write(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace { path },
            _ => Self::Write { path, source },
        }
    }
}

/// Reads the file at `path`, which may have at most `limit` bytes.
///
/// # Errors
/// [`FileError`] when the file cannot be read or is larger.
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>, FileError> {
    let file = File::open(path).map_err(FileError::read(path))?;
    let size = file.metadata().map_err(FileError::read(path))?.len();
    if size > limit {
        return Err(FileError::TooLarge {
            path: path.to_owned(),
            size,
            limit,
        });
    }
    let mut bytes = Vec::new();
    file.take(limit)
        .read_to_end(&mut bytes)
        .map_err(FileError::read(path))?;
    Ok(bytes)
}

/// Returns digest and size of the file at `path`.
///
/// # Errors
/// [`FileError`] when the file cannot be read.
pub fn artefact_of(path: &Path) -> Result<Artefact, FileError> {
    artefact_told(path, u64::MAX, &|_| ())
}

/// Returns digest and size of the first `limit` bytes of a file, and calls `progress` with the number of bytes read so far.
pub(crate) fn artefact_told(
    path: &Path,
    limit: u64,
    progress: &dyn Fn(u64),
) -> Result<Artefact, FileError> {
    let file = File::open(path).map_err(FileError::read(path))?;
    let mut file = file.take(limit);
    let mut hash = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    let mut size = 0;
    loop {
        let count = file.read(&mut buffer).map_err(FileError::read(path))?;
        if count == 0 {
            return Ok(Artefact {
                sha256: digest(hash),
                size,
            });
        }
        hash.update(&buffer[..count]);
        size += count as u64;
        progress(size);
    }
}

/// Returns digest and size of `bytes`.
pub fn artefact(bytes: &[u8]) -> Artefact {
    Artefact {
        sha256: Hex32::sha256(bytes),
        size: bytes.len() as u64,
    }
}

/// Writes `bytes` to `folder/name`. The file appears with its whole content or not at all.
///
/// # Errors
/// [`FileError`] when the file cannot be written.
pub fn write(folder: &Path, name: &str, bytes: &[u8]) -> Result<Artefact, FileError> {
    let mut pending = Pending::create(folder, name)?;
    pending.put(bytes)?;
    pending.publish()?;
    Ok(artefact(bytes))
}

/// Writes `bytes` to `path`, like [`write`].
///
/// # Errors
/// As [`write`], and when the file's name is not UTF-8.
pub fn write_to(path: &Path, bytes: &[u8]) -> Result<Artefact, FileError> {
    let name = path.file_name().and_then(|name| name.to_str());
    let not_text = || FileError::write(path)(io::Error::other("its name is not UTF-8"));
    let name = name.ok_or_else(not_text)?;
    write(folder_of(path), name, bytes)
}

/// Returns the folder of the file at `path`, which is `.` for a plain name.
#[must_use]
pub fn folder_of(path: &Path) -> &Path {
    let folder = path.parent().filter(|path| !path.as_os_str().is_empty());
    folder.unwrap_or(Path::new("."))
}

/// Creates `folder` and its parents.
///
/// # Errors
/// [`FileError`] when they cannot be created.
pub fn create_folder(folder: &Path) -> Result<(), FileError> {
    fs::create_dir_all(folder).map_err(FileError::write(folder))
}

/// Locks `folder` until the returned value is dropped. While another process holds the lock, this waits and reports `what`.
/// The lock file is never removed: otherwise two processes could hold locks on different files of that name.
pub(crate) fn exclusive(
    folder: &Path,
    what: &str,
    reporter: &dyn Reporter,
) -> Result<File, FileError> {
    create_folder(folder)?;
    let path = folder.join(LOCK);
    let mut options = File::options();
    let file = options.create(true).write(true).truncate(false).open(&path);
    let file = file.map_err(FileError::write(&path))?;
    report::exclusive(&file, reporter, what).map_err(FileError::write(&path))?;
    Ok(file)
}

/// Removes the file at `path`, if there is one.
///
/// # Errors
/// [`FileError`] when the file cannot be removed.
pub fn remove_if_present(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(FileError::write(path)(error)),
        _ => Ok(()),
    }
}

/// A file that has a temporary name until it is complete. It is removed if dropped before that.
pub(crate) struct Pending {
    writer: Option<BufWriter<File>>,
    temporary: PathBuf,
    finished: PathBuf,
    _listed: Listed,
}

impl Pending {
    pub(crate) fn create(folder: &Path, name: &str) -> Result<Self, FileError> {
        let temporary = folder.join(format!(".{name}.partial"));
        let finished = folder.join(name);
        // Others may write to the folder too, and a link that they placed there could have another file truncated.
        remove_if_present(&temporary)?;
        // Readable as well, unlike with `File::create_new`, because the hash tree reads it back.
        let mut options = File::options();
        let file = options.read(true).write(true).create_new(true);
        let file = file.open(&temporary).map_err(FileError::write(&finished))?;
        Ok(Self {
            _listed: Listed::new(&temporary),
            writer: Some(BufWriter::with_capacity(CHUNK, file)),
            temporary,
            finished,
        })
    }

    pub(crate) fn put(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        match &mut self.writer {
            Some(writer) => writer
                .write_all(bytes)
                .map_err(FileError::write(&self.finished)),
            None => Ok(()),
        }
    }

    /// Path that the file will have.
    pub(crate) fn path(&self) -> &Path {
        &self.finished
    }

    /// Returns the file with everything put so far, to read and write at will.
    pub(crate) fn file(&mut self) -> Result<&mut File, FileError> {
        let path = &self.finished;
        let gone = || FileError::write(path)(io::Error::other("already published"));
        let writer = self.writer.as_mut().ok_or_else(gone)?;
        writer.flush().map_err(FileError::write(path))?;
        Ok(writer.get_mut())
    }

    pub(crate) fn publish(mut self) -> Result<(), FileError> {
        self.file()?;
        self.writer = None;
        fs::rename(&self.temporary, &self.finished).map_err(FileError::write(&self.finished))
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        // `publish` has renamed it already. Otherwise, nobody needs the unfinished file.
        let _ = fs::remove_file(&self.temporary);
    }
}

pub(crate) fn digest(hash: Sha256) -> Hex32 {
    cocoon_protocol::bytes::Hex(hash.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_apart() {
        let full = Path::new("/dev/full");
        let error = File::options()
            .write(true)
            .open(full)
            .and_then(|mut file| file.write_all(b"x"))
            .unwrap_err();
        assert_eq!(
            FileError::write(full)(error).to_string(),
            "no space left on the disk while writing /dev/full: free some space, or choose another folder"
        );
    }

    #[test]
    fn an_unfinished_file_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut pending = Pending::create(folder.path(), "x").unwrap();
        pending.put(b"half").unwrap();
        drop(pending);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        let made = write(folder.path(), "x", b"whole").unwrap();
        assert_eq!(made, artefact_of(&folder.path().join("x")).unwrap());
    }

    #[test]
    fn a_link_in_the_place_of_a_file_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("key"), "secret").unwrap();
        std::os::unix::fs::symlink("key", path(".x.partial")).unwrap();
        std::os::unix::fs::symlink("key", path("x")).unwrap();
        write_to(&path("x"), b"whole").unwrap();
        assert_eq!(fs::read(path("key")).unwrap(), b"secret");
        assert_eq!(fs::read(path("x")).unwrap(), b"whole");
        assert!(!path("x").is_symlink());
    }

    #[test]
    fn a_file_over_the_limit_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "x", &[0; 10]).unwrap();
        let error = read(&folder.path().join("x"), 9).unwrap_err();
        assert!(
            matches!(
                error,
                FileError::TooLarge {
                    size: 10,
                    limit: 9,
                    ..
                }
            ),
            "{error}"
        );
    }
}
