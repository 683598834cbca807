//! What vendors answered, by what it is for, and what they did not: files in a folder, whole or not there.
//!
//! ```text
//! objects/SHA-256     what was answered
//! entries/KEY.json    what it is for, when it was fetched, its dates, and which object it is
//! failures/KEY.json   what was asked for in vain, when last, how often, and why
//! ```
//!
//! Several processes use one folder. Each file is replaced at once, an object before the entry that names it; who is killed
//! in between leaves an object that nobody names, which the next pruning removes.

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

/// The largest file that is read.
const MAX_FILE: u64 = 8 << 20;
/// What nobody renewed for so long is forgotten, in seconds.
const FORGOTTEN: u64 = 90 * 24 * 60 * 60;
/// Failures that are remembered, the newest ones: guests choose what is asked for.
const MOST_FAILURES: usize = 256;
const OBJECTS: &str = "objects";
const ENTRIES: &str = "entries";
const FAILURES: &str = "failures";
/// The end of the name of what is not whole yet.
const PARTIAL: &str = "partial";

/// A folder of collateral.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

/// Something that was answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// What it is for.
    pub want: Want,
    /// When it was fetched, Unix time.
    pub fetched: u64,
    /// Its dates.
    pub dates: Dates,
    /// SHA-256 of its bytes.
    pub digest: Hex32,
}

/// Something that was asked for in vain, since it last was not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// What.
    pub want: Want,
    /// When last, Unix time.
    pub at: u64,
    /// How often.
    pub times: u32,
    /// Why, the last time.
    pub why: String,
}

/// Why there is no store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No place for it.
    #[error("no place for collateral: set COCOON_CACHE or HOME, or say --store")]
    Nowhere,
    /// A file or folder failed.
    #[error("cannot {operation} {path:?}")]
    File {
        /// What.
        operation: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Store {
    /// Opens a folder, and makes it where it is missing.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        for name in [OBJECTS, ENTRIES, FAILURES] {
            make(&root.join(name))?;
        }
        Ok(Self {
            root: root.to_owned(),
        })
    }

    /// The same for reading alone: a folder that is missing is an empty one.
    #[must_use]
    pub fn reading(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    /// The folder in this user's cache.
    ///
    /// # Errors
    /// [`StoreError::Nowhere`] where there is no such folder.
    pub fn default_root() -> Result<PathBuf, StoreError> {
        let cache = cocoon_inputs::Cache::default_root();
        Ok(cache.map_err(|_| StoreError::Nowhere)?.join("collateral"))
    }

    /// The folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What is kept for `want`, with its bytes. A file that was damaged is as good as none.
    #[must_use]
    pub fn get(&self, want: &Want) -> Option<(Entry, Vec<u8>)> {
        let entry: Entry = read(&self.path(ENTRIES, want))?;
        let bytes = bounded(&self.object(&entry.digest))?;
        let whole = entry.want == *want && Hex32::sha256(&bytes) == entry.digest;
        whole.then_some((entry, bytes))
    }

    /// Keeps an answer in place of an older one, and forgets failures.
    ///
    /// # Errors
    /// [`StoreError`].
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

    /// Counts a failure.
    ///
    /// # Errors
    /// [`StoreError`].
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

    /// The failure of `want`, if it failed since it last did not.
    #[must_use]
    pub fn failure(&self, want: &Want) -> Option<Failure> {
        read(&self.path(FAILURES, want))
    }

    /// What decides when to ask again.
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

    /// All entries, by vendor and name.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        let mut all: Vec<Entry> = self.all(ENTRIES);
        all.sort_by(|one, other| one.want.cmp(&other.want));
        all
    }

    /// All failures, by vendor and name.
    #[must_use]
    pub fn failures(&self) -> Vec<Failure> {
        let mut all: Vec<Failure> = self.all(FAILURES);
        all.sort_by(|one, other| one.want.cmp(&other.want));
        all
    }

    /// Forgets what nobody renewed for a season, failures that are too many, objects that nobody names and files that were
    /// never whole.
    ///
    /// # Errors
    /// [`StoreError`].
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
        // What somebody who was killed had not renamed yet.
        let partial = |name: &Path| name.extension().is_some_and(|end| end == PARTIAL);
        self.sweep(ENTRIES, partial)?;
        self.sweep(FAILURES, partial)
    }

    /// Removes what is `useless` in a folder. Another process may be about to name or to rename it: young files stay.
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
            // Somebody else was quicker.
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

/// Makes a folder and those above it. What root makes is whose the folder above is: the daemon's user must be able to
/// write there.
fn make(path: &Path) -> Result<(), StoreError> {
    if path.is_dir() {
        return Ok(());
    }
    // Above the first folder of a relative path is the one that this process works in.
    let above = path.parent().filter(|above| *above != Path::new(""));
    let above = above.unwrap_or(Path::new("."));
    make(above)?;
    match fs::create_dir(path) {
        // Somebody else was quicker.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        made => made.map_err(failed("create", path))?,
    }
    if let Some((user, group)) = owner(above) {
        // Nobody but root can give it away.
        let _ = lchown(path, user, group);
    }
    Ok(())
}

type Owner = (Option<u32>, Option<u32>);

fn owner(folder: &Path) -> Option<Owner> {
    let folder = fs::metadata(folder).ok()?;
    Some((Some(folder.uid()), Some(folder.gid())))
}

/// Replaces a file at once, on the disk itself. Other processes write here too: each has a name of its own for what is not
/// whole yet.
fn write(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let partial = path.with_extension(format!("{}-{number}.{PARTIAL}", std::process::id()));
    // Left by another process of this number. Never through a link: root may write here, and another user's folder it is.
    let _ = fs::remove_file(&partial);
    let whole = File::create_new(&partial).and_then(|mut file| {
        if let Some((user, group)) = path.parent().and_then(owner) {
            // As with folders.
            let _ = fchown(&file, user, group);
        }
        file.write_all(bytes)?;
        file.sync_all()
    });
    // By its own name, which is the same at every attempt: who tells it does so once.
    whole.map_err(failed("write", path))?;
    fs::rename(&partial, path).map_err(failed("replace", path))
}

fn json<T: Serialize>(value: &T) -> Vec<u8> {
    // Names, numbers and bytes: serialisation cannot fail.
    serde_json::to_vec_pretty(value).unwrap_or_default()
}

/// A whole file of a form; anything else is as good as none.
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
