//! A cache of collateral on disk, readable only by its owner.
//!
//! Each file is named by the SHA-256 of its content, so nothing in the folder has to be trusted: a
//! file with other content is removed and the piece is fetched again. The folder reveals which
//! machines its owner connected to (their certificates are among the pieces), hence mode 0700. Only
//! files named like pieces or unfinished pieces are ever removed; other files in the folder are
//! left alone.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use cocoon_protocol::bytes::Hex32;
use cocoon_protocol::pieces::{MAX_PIECES_LEN, Pieces};

/// Largest total size of the pieces that are kept, in bytes.
pub const MAX_CACHED_BYTES: u64 = 32 << 20;
/// Largest number of pieces that are kept.
pub const MAX_CACHED_PIECES: usize = 1024;
/// How long an unused piece is kept. Revocation responses are replaced every day.
pub const MAX_UNUSED: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Resolution at which the use of a piece is recorded, and the longest life of an unfinished file.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Prefix of files that are still being written.
const UNFINISHED: &str = ".piece-";

/// A folder of collateral pieces.
#[derive(Debug)]
pub struct CollateralCache {
    folder: PathBuf,
}

/// Why collateral is not cached. Connections still work, at the cost of one more round trip each.
#[derive(Debug, thiserror::Error)]
#[error(
    "collateral is not kept, so it is fetched each time: cannot make the folder {} for its owner alone", path.display()
)]
pub struct CacheError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl CollateralCache {
    /// Opens the cache. If the folder does not exist, creates it with mode 0700.
    ///
    /// # Errors
    /// [`CacheError`] if the folder cannot be created.
    pub fn open(folder: &Path) -> Result<Self, CacheError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        // An existing folder keeps its mode: it may have been chosen by the owner.
        made.map_err(|source| CacheError {
            path: folder.to_owned(),
            source,
        })?;
        Ok(Self {
            folder: folder.to_owned(),
        })
    }

    /// Returns `$XDG_CACHE_HOME/cocoon-client/collateral` or `~/.cache/cocoon-client/collateral`,
    /// or `None` without a home directory.
    pub fn default_folder() -> Option<PathBuf> {
        let absolute = |name| {
            let path = std::env::var_os(name).map(PathBuf::from);
            path.filter(|path| path.is_absolute())
        };
        let cache =
            absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
        Some(cache.join("cocoon-client/collateral"))
    }

    /// Returns those of the pieces `names` that are in the cache.
    pub(crate) fn find(&self, names: &[Hex32]) -> Pieces {
        let mut pieces = Pieces::default();
        for name in names {
            let path = self.path(name);
            match read(&path) {
                Ok(piece) if Hex32::sha256(&piece) == *name => {
                    pieces.insert(piece);
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                // Damaged, or not written by this program.
                Ok(_) | Err(_) => drop(fs::remove_file(&path)),
            }
        }
        pieces
    }

    /// Adds pieces, each atomically, and then prunes the cache to its limits.
    pub(crate) fn keep(&self, pieces: &Pieces) -> io::Result<()> {
        for (name, piece) in pieces.iter() {
            let mut file = tempfile::Builder::new()
                .prefix(UNFINISHED)
                .tempfile_in(&self.folder)?;
            // No fsync: a file damaged by a crash is detected by its digest.
            file.write_all(piece)?;
            file.persist(self.path(name)).map_err(|error| error.error)?;
        }
        self.prune(SystemTime::now())
    }

    fn path(&self, name: &Hex32) -> PathBuf {
        self.folder.join(name.to_string())
    }

    /// Removes pieces unused for too long and unfinished files, and then the least recently used
    /// pieces beyond the limits.
    fn prune(&self, now: SystemTime) -> io::Result<()> {
        let mut kept = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            // Another process may have removed the file.
            let Ok(about) = entry.metadata() else {
                continue;
            };
            let name = entry.file_name();
            let life = match name.to_str() {
                Some(name) if name.parse::<Hex32>().is_ok() => MAX_UNUSED,
                Some(name) if name.starts_with(UNFINISHED) => DAY,
                // Not a file of this cache.
                _ => continue,
            };
            // A time in the future counts as now: the clock was set back.
            let used = about.modified()?.min(now);
            let age = now.duration_since(used).unwrap_or_default();
            match age > life {
                true => remove(&entry.path())?,
                false => kept.push((used, about.len(), entry.path())),
            }
        }
        kept.sort();
        let mut bytes: u64 = kept.iter().map(|(_, size, _)| size).sum();
        let mut count = kept.len();
        for (_, size, path) in kept {
            if bytes <= MAX_CACHED_BYTES && count <= MAX_CACHED_PIECES {
                break;
            }
            remove(&path)?;
            (bytes, count) = (bytes - size, count - 1);
        }
        Ok(())
    }
}

/// Reads a piece, and records its use if the last recorded one is more than a day ago.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    // Links and pipes are not files of this cache.
    let about = fs::symlink_metadata(path)?;
    if !about.is_file() || about.len() > MAX_PIECES_LEN as u64 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let file = File::open(path)?;
    let mut piece = Vec::new();
    (&file)
        .take(MAX_PIECES_LEN as u64)
        .read_to_end(&mut piece)?;
    let now = SystemTime::now();
    let noted = about.modified()?;
    if now.duration_since(noted).is_ok_and(|since| since > DAY) {
        // If this fails, the piece may be removed too early and has to be fetched again.
        let _ = file.set_modified(now);
    }
    Ok(piece)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests;
