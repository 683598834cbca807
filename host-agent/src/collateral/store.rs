//! Kept collateral and failed requests, as files in a folder.
//!
//! ```text
//! objects/SHA-256     the bytes of an answer
//! entries/KEY.json    the item, when it was fetched, its validity, and the digest of its object
//! failures/KEY.json   an item that could not be fetched: when last, how often, and why
//! ```
//!
//! Several processes share the folder. Every file is replaced atomically, and an object is written before the entry that
//! names it. A process killed in between leaves an unreferenced object, which a later pruning removes.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, fchown, lchown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use cocoon_protocol::bytes::Hex32;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::schedule::Known;
use super::{Dates, Want};

/// Maximum length of a file that is read, in bytes.
const MAX_FILE: u64 = 8 << 20;
/// Age in seconds after which an entry or a failure is removed: 90 days.
const FORGOTTEN: u64 = 90 * 24 * 60 * 60;
/// Maximum number of failures kept, newest first. Guests choose what is requested, so the number must be bounded.
const MOST_FAILURES: usize = 256;
const OBJECTS: &str = "objects";
const ENTRIES: &str = "entries";
const FAILURES: &str = "failures";
/// Extension of files that are still being written.
const PARTIAL: &str = "partial";

/// A folder of kept collateral.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

/// A kept item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The item.
    pub want: Want,
    /// When the item was fetched, Unix time.
    pub fetched: u64,
    /// Validity period of the item.
    pub dates: Dates,
    /// SHA-256 of the item's bytes.
    pub digest: Hex32,
}

/// An item that could not be fetched since its last success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// The item.
    pub want: Want,
    /// Time of the last failure, Unix time.
    pub at: u64,
    /// Number of failures since the last success.
    pub times: u32,
    /// Reason of the last failure.
    pub why: String,
}

/// Why the store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no folder for the store.
    #[error("no place for collateral: set COCOON_CACHE or HOME, or say --store")]
    Nowhere,
    /// An operation on a file or folder failed.
    #[error("cannot {operation} {path:?}")]
    File {
        /// Name of the operation, such as `write`.
        operation: &'static str,
        /// Path of the file or folder.
        path: PathBuf,
        /// The error of the system.
        #[source]
        source: io::Error,
    },
}

impl Store {
    /// Opens the folder `root`, and creates it if it is missing.
    ///
    /// # Errors
    /// Fails with [`StoreError`] if a folder cannot be created.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        for name in [OBJECTS, ENTRIES, FAILURES] {
            make(&root.join(name))?;
        }
        Ok(Self {
            root: root.to_owned(),
        })
    }

    /// Opens the folder `root` for reading only. A missing folder counts as empty.
    #[must_use]
    pub fn reading(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    /// The default folder, in this user's cache.
    ///
    /// # Errors
    /// Fails with [`StoreError::Nowhere`] if the user has no cache folder.
    pub fn default_root() -> Result<PathBuf, StoreError> {
        let cache = cocoon_inputs::Cache::default_root();
        Ok(cache.map_err(|_| StoreError::Nowhere)?.join("collateral"))
    }

    /// The store's folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the entry for `want` with its bytes. A damaged file counts as missing.
    #[must_use]
    pub fn get(&self, want: &Want) -> Option<(Entry, Vec<u8>)> {
        let entry: Entry = read(&self.path(ENTRIES, want))?;
        let bytes = bounded(&self.object(&entry.digest))?;
        let whole = entry.want == *want && Hex32::sha256(&bytes) == entry.digest;
        whole.then_some((entry, bytes))
    }

    /// Stores an answer in place of an older one, and removes the item's failure.
    ///
    /// # Errors
    /// Fails with [`StoreError`] if a file cannot be written or removed.
    pub fn put(
        &self,
        want: &Want,
        bytes: &[u8],
        dates: Dates,
        now: u64,
    ) -> Result<Entry, StoreError> {
        let entry = Entry {
            want: want.clone(),
            fetched: now,
            dates,
            digest: Hex32::sha256(bytes),
        };
        write(&self.object(&entry.digest), bytes)?;
        write(&self.path(ENTRIES, want), &json(&entry))?;
        let failure = self.path(FAILURES, want);
        match fs::remove_file(&failure) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("remove", &failure)(error))
            }
            _ => Ok(entry),
        }
    }

    /// Counts a failure of `want`.
    ///
    /// # Errors
    /// Fails with [`StoreError`] if the file cannot be written.
    pub fn failed(&self, want: &Want, why: &str, now: u64) -> Result<(), StoreError> {
        let before = self.failure(want).map_or(0, |failure| failure.times);
        let failure = Failure {
            want: want.clone(),
            at: now,
            times: before.saturating_add(1),
            why: crate::text::plain(why, 1000),
        };
        write(&self.path(FAILURES, want), &json(&failure))
    }

    /// Returns the failure of `want`, if it has failed since its last success.
    #[must_use]
    pub fn failure(&self, want: &Want) -> Option<Failure> {
        read(&self.path(FAILURES, want))
    }

    /// Returns what [`schedule`](super::schedule) needs to know about `want`.
    #[must_use]
    pub fn known(&self, want: &Want) -> Known {
        Known {
            fetched: self
                .get(want)
                .map(|(entry, _)| (entry.fetched, entry.dates)),
            failed: self
                .failure(want)
                .map(|failure| (failure.at, failure.times)),
        }
    }

    /// All entries, sorted by vendor and name.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        let mut all: Vec<Entry> = self.all(ENTRIES);
        all.sort_by(|one, other| one.want.cmp(&other.want));
        all
    }

    /// All failures, sorted by vendor and name.
    #[must_use]
    pub fn failures(&self) -> Vec<Failure> {
        let mut all: Vec<Failure> = self.all(FAILURES);
        all.sort_by(|one, other| one.want.cmp(&other.want));
        all
    }

    /// Removes entries and failures older than 90 days, excess failures, unreferenced objects and incomplete files.
    ///
    /// # Errors
    /// Fails with [`StoreError`] if a folder cannot be listed or a file cannot be removed.
    pub fn prune(&self, now: u64) -> Result<(), StoreError> {
        let old = |at: u64| at.saturating_add(FORGOTTEN) < now;
        for entry in self.entries().iter().filter(|entry| old(entry.fetched)) {
            self.remove(&self.path(ENTRIES, &entry.want))?;
        }
        let mut failures = self.failures();
        failures.sort_by_key(|failure| std::cmp::Reverse(failure.at));
        for (place, failure) in failures.iter().enumerate() {
            if place >= MOST_FAILURES || old(failure.at) {
                self.remove(&self.path(FAILURES, &failure.want))?;
            }
        }
        let entries = self.entries().into_iter();
        let named: Vec<PathBuf> = (entries.map(|entry| entry.digest.to_string().into())).collect();
        self.sweep(OBJECTS, |name| !named.iter().any(|object| object == name))?;
        // A process was killed before it renamed these.
        let partial = |name: &Path| name.extension().is_some_and(|end| end == PARTIAL);
        self.sweep(ENTRIES, partial)?;
        self.sweep(FAILURES, partial)
    }

    /// Removes `useless` files older than an hour: another process may be about to name or rename younger ones.
    fn sweep(&self, folder: &str, useless: impl Fn(&Path) -> bool) -> Result<(), StoreError> {
        let folder = self.root.join(folder);
        for file in fs::read_dir(&folder).map_err(failed("list", &folder))? {
            let file = file.map_err(failed("list", &folder))?;
            let written = file.metadata().and_then(|metadata| metadata.modified());
            let age = written.ok().and_then(|time| time.elapsed().ok());
            let young = age.is_none_or(|age| age.as_secs() < 60 * 60);
            if !young && useless(Path::new(&file.file_name())) {
                self.remove(&file.path())?;
            }
        }
        Ok(())
    }

    fn remove(&self, path: &Path) -> Result<(), StoreError> {
        match fs::remove_file(path) {
            // Another process removed it first.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(failed("remove", path)),
        }
    }

    fn all<T: DeserializeOwned>(&self, folder: &str) -> Vec<T> {
        let files = fs::read_dir(self.root.join(folder));
        let files = files.into_iter().flatten().flatten();
        files
            .map(|file| file.path())
            .filter(|path| path.extension().is_some_and(|end| end == "json"))
            .filter_map(|path| read(&path))
            .collect()
    }

    fn object(&self, digest: &Hex32) -> PathBuf {
        self.root.join(OBJECTS).join(digest.to_string())
    }

    fn path(&self, folder: &str, want: &Want) -> PathBuf {
        self.root.join(folder).join(format!("{}.json", want.key()))
    }
}

/// Creates a folder and its parents. One that root creates gets its parent's owner, so that the daemon can write there.
fn make(path: &Path) -> Result<(), StoreError> {
    if path.is_dir() {
        return Ok(());
    }
    // The parent of a single relative component is the current folder.
    let above = path.parent().filter(|above| *above != Path::new(""));
    let above = above.unwrap_or(Path::new("."));
    make(above)?;
    match fs::create_dir(path) {
        // Another process created it first.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        made => made.map_err(failed("create", path))?,
    }
    if let Some((user, group)) = owner(above) {
        // Only root can change the owner; for other users nothing needs to change.
        let _ = lchown(path, user, group);
    }
    Ok(())
}

type Owner = (Option<u32>, Option<u32>);

fn owner(folder: &Path) -> Option<Owner> {
    let folder = fs::metadata(folder).ok()?;
    Some((Some(folder.uid()), Some(folder.gid())))
}

/// Replaces a file atomically, after syncing its contents to disk. Every process and call uses a temporary file of its own.
fn write(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let partial = path.with_extension(format!("{}-{number}.{PARTIAL}", std::process::id()));
    // A killed process with the same number may have left it. `create_new` never follows a link: root may write into another
    // user's folder here.
    let _ = fs::remove_file(&partial);
    let whole = File::create_new(&partial).and_then(|mut file| {
        if let Some((user, group)) = path.parent().and_then(owner) {
            // As for folders, only root can do this.
            let _ = fchown(&file, user, group);
        }
        file.write_all(bytes)?;
        file.sync_all()
    });
    // Errors name the final path, which is the same at each attempt, so that a repeated error is reported once.
    whole.map_err(failed("write", path))?;
    fs::rename(&partial, path).map_err(failed("replace", path))
}

fn json<T: Serialize>(value: &T) -> Vec<u8> {
    // Serialisation of names, numbers and bytes cannot fail.
    serde_json::to_vec_pretty(value).unwrap_or_default()
}

/// Reads a JSON file. A file that is unreadable or malformed counts as missing.
fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&bounded(path)?).ok()
}

fn bounded(path: &Path) -> Option<Vec<u8>> {
    let length = fs::metadata(path).ok()?.len();
    (length <= MAX_FILE).then(|| fs::read(path).ok()).flatten()
}

fn failed(operation: &'static str, path: &Path) -> impl Fn(io::Error) -> StoreError {
    move |source| StoreError::File {
        operation,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests;
