//! Collateral from another time, for its owner's eyes alone: files by the digest of what they hold, so that nothing in the
//! folder has to be believed. One that holds something else is removed and fetched again.
//!
//! The folder shows which machines its owner talked to (their certificates are among the pieces), hence mode 0700. Nothing in it is touched but files of these names.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use cocoon_protocol::bytes::Hex32;
use cocoon_protocol::pieces::{MAX_PIECES_LEN, Pieces};

/// Most bytes that are kept.
pub const MAX_CACHED_BYTES: u64 = 32 << 20;
/// Most pieces that are kept.
pub const MAX_CACHED_PIECES: usize = 1024;
/// How long a piece is kept that nobody needs: answers about revocation are renewed every day.
pub const MAX_UNUSED: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// How exactly it is noted when a piece was needed, and how long a file may be half written.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How files begin that are not whole yet.
const UNFINISHED: &str = ".piece-";

/// A folder of pieces.
#[derive(Debug)]
pub struct CollateralCache {
    folder: PathBuf,
}

/// Why nothing is kept, which costs a round each time and nothing else.
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
    /// Makes the folder, where there is none, for its owner alone.
    ///
    /// # Errors
    /// [`CacheError`].
    pub fn open(folder: &Path) -> Result<Self, CacheError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        // One that was there is left as it is: its owner may have named it.
        made.map_err(|source| CacheError {
            path: folder.to_owned(),
            source,
        })?;
        Ok(Self {
            folder: folder.to_owned(),
        })
    }

    /// `$XDG_CACHE_HOME/cocoon-client/collateral`, `~/.cache/cocoon-client/collateral`, or nothing without a home.
    pub fn default_folder() -> Option<PathBuf> {
        let absolute = |name| {
            let path = std::env::var_os(name).map(PathBuf::from);
            path.filter(|path| path.is_absolute())
        };
        let cache =
            absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
        Some(cache.join("cocoon-client/collateral"))
    }

    /// Those of `names` that are here.
    pub(crate) fn find(&self, names: &[Hex32]) -> Pieces {
        let mut pieces = Pieces::default();
        for name in names {
            let path = self.path(name);
            match read(&path) {
                Ok(piece) if Hex32::sha256(&piece) == *name => {
                    pieces.insert(piece);
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                // Damaged, or put there by somebody.
                Ok(_) | Err(_) => drop(fs::remove_file(&path)),
            }
        }
        pieces
    }

    /// Adds pieces, each in one step, and removes what is too much.
    pub(crate) fn keep(&self, pieces: &Pieces) -> io::Result<()> {
        for (name, piece) in pieces.iter() {
            let mut file = tempfile::Builder::new()
                .prefix(UNFINISHED)
                .tempfile_in(&self.folder)?;
            // What a crash leaves of it is found out by its digest.
            file.write_all(piece)?;
            file.persist(self.path(name)).map_err(|error| error.error)?;
        }
        self.prune(SystemTime::now())
    }

    fn path(&self, name: &Hex32) -> PathBuf {
        self.folder.join(name.to_string())
    }

    /// Removes what nobody needed for long, what was never finished, and then what was needed least recently.
    fn prune(&self, now: SystemTime) -> io::Result<()> {
        let mut kept = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            // Another process may have removed it.
            let Ok(about) = entry.metadata() else {
                continue;
            };
            let name = entry.file_name();
            let life = match name.to_str() {
                Some(name) if name.parse::<Hex32>().is_ok() => MAX_UNUSED,
                Some(name) if name.starts_with(UNFINISHED) => DAY,
                // Somebody else's.
                _ => continue,
            };
            // A time to come counts as now: the clock was turned.
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

/// A piece's bytes; notes that it was needed, where that was long ago.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    // Neither a link nor a pipe is ours.
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
        // At worst it is fetched again one day.
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
