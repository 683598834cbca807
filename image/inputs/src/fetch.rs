//! Fetches locked files from the cache, the mirrors or the snapshot archive, or takes the newest signed version instead
//! if the caller allows it.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use crate::fetch_error::{FetchError, describe};
use crate::report::Reporter;
use crate::{
    Archive, Cache, CacheError, Entry, Http, Kind, Lock, MirrorError, Mirrors, Options, Policy,
    ResolveError, date, pip, resolve,
};

/// Fetches the files that a lock names.
pub struct Fetcher {
    lock: Lock,
    mirrors: Result<Mirrors, MirrorError>,
    cache: Cache,
    options: Options,
    http: OnceLock<Http>,
    reporter: Arc<dyn Reporter>,
}

/// A fetched and verified file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// Path of the read-only file. [`Fetched::read`] verifies the bytes once more.
    pub path: PathBuf,
    /// Name, version and digest of the file at `path`.
    pub entry: Entry,
    /// The locked entry that this file replaces, if it is not the locked file itself. The result is then unlocked.
    pub substituted: Option<Entry>,
}

impl Fetched {
    /// Reads the file and verifies its digest.
    ///
    /// # Errors
    /// [`CacheError`] if the file cannot be read, or was changed after it was fetched.
    pub fn read(&self) -> Result<Vec<u8>, CacheError> {
        let bytes =
            std::fs::read(&self.path).map_err(crate::cache::failed("read", &self.path, 0))?;
        let (expected, found) = (self.entry.sha256, crate::Digest::of(&bytes));
        if found != expected {
            return Err(CacheError::Hash {
                what: self.entry.name.clone(),
                expected,
                found,
            });
        }
        Ok(bytes)
    }
}

impl Fetcher {
    /// Creates a fetcher for `lock`. Missing mirrors are an error only when a file is not in the cache.
    #[must_use]
    pub fn new(
        lock: Lock,
        cache: Cache,
        mirrors: Result<Mirrors, MirrorError>,
        options: Options,
        reporter: Arc<dyn Reporter>,
    ) -> Self {
        Self {
            lock,
            mirrors,
            cache,
            options,
            http: OnceLock::new(),
            reporter,
        }
    }

    /// The lock whose files are fetched.
    #[must_use]
    pub fn lock(&self) -> &Lock {
        &self.lock
    }

    /// The cache that holds the files.
    #[must_use]
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Fetches every file of a group. If the policy is [`Policy::AllowNewest`] and one file is no longer available,
    /// resolves the whole group again, because old and new libraries may not be compatible.
    ///
    /// # Errors
    /// [`FetchError`] for the first file that cannot be fetched.
    pub fn fetch_group(&self, group: &str) -> Result<Vec<Fetched>, FetchError> {
        let locked: Vec<Entry> = self.lock.group(group).cloned().collect();
        if locked.is_empty() {
            return Err(FetchError::NoGroup {
                group: group.to_owned(),
            });
        }
        let mut fetched = Vec::with_capacity(locked.len());
        for entry in &locked {
            match self.locked(entry) {
                Ok(path) => fetched.push(Fetched {
                    path,
                    entry: entry.clone(),
                    substituted: None,
                }),
                Err(FetchError::Gone {
                    name,
                    version,
                    tried,
                }) if self.options.policy == Policy::AllowNewest => {
                    self.reporter.note(&format!("{name} {version} is nowhere to be had; taking the newest of group {group}: the result is UNLOCKED"));
                    return self.newest(group, &locked).map_err(|error| match error {
                        Newest::Resolve(source) => FetchError::NoNewest {
                            name,
                            version,
                            tried,
                            source,
                        },
                        Newest::Fetch(error) => *error,
                    });
                }
                Err(error) => return Err(error),
            }
        }
        Ok(fetched)
    }

    /// Fetches one locked file. If the policy is [`Policy::AllowNewest`] and the file is no longer available, resolves
    /// its group again and returns the file that replaces it.
    ///
    /// # Errors
    /// [`FetchError`] if neither the file nor an allowed replacement can be fetched.
    pub fn fetch(&self, entry: &Entry) -> Result<Fetched, FetchError> {
        let error = match self.locked(entry) {
            Ok(path) => {
                return Ok(Fetched {
                    path,
                    entry: entry.clone(),
                    substituted: None,
                });
            }
            Err(error) => error,
        };
        let (FetchError::Gone { .. }, Policy::AllowNewest, Some(group)) =
            (&error, self.options.policy, entry.groups.first())
        else {
            return Err(error);
        };
        let substituted =
            |fetched: &Fetched| fetched.substituted.as_ref().unwrap_or(&fetched.entry) == entry;
        self.fetch_group(group)?
            .into_iter()
            .find(substituted)
            .ok_or(error)
    }

    fn newest(&self, group: &str, locked: &[Entry]) -> Result<Vec<Fetched>, Newest> {
        let archive = self
            .archive()
            .map_err(|error| Newest::Resolve(Box::new(ResolveError::NoMirror(error))))?;
        // Wheels keep their locked versions, because nobody signs newer ones.
        let requests = self.lock.requests().iter();
        let requests: Vec<_> = requests
            .filter(|request| request.group == group && request.kind == Kind::Debian)
            .cloned()
            .collect();
        let newest = resolve(&archive, &requests, &self.lock)
            .map_err(|error| Newest::Resolve(Box::new(error)))?;
        let wheels = locked.iter().filter(|entry| entry.kind == Kind::Python);
        let newest: Vec<_> = newest.inputs().iter().chain(wheels).cloned().collect();
        let mut fetched = Vec::new();
        for (entry, substituted) in pair(locked, &newest) {
            let path = self
                .locked(&entry)
                .map_err(|error| Newest::Fetch(Box::new(error)))?;
            if let Some(old) = &substituted {
                let line = format!(
                    "unlocked: {} {} instead of {} {}",
                    entry.name, entry.version, old.name, old.version
                );
                self.reporter.note(&line);
            }
            fetched.push(Fetched {
                path,
                entry,
                substituted,
            });
        }
        Ok(fetched)
    }

    /// Returns the path of the file with exactly the locked hash; downloads it if it is not in the cache.
    fn locked(&self, entry: &Entry) -> Result<PathBuf, FetchError> {
        let cache = |source| FetchError::Cache {
            name: entry.name.clone(),
            source,
        };
        if let Some(path) = self
            .cache
            .lookup(&entry.sha256, entry.size)
            .map_err(cache)?
        {
            return Ok(path);
        }
        let _guard = self.cache.exclusive(&*self.reporter).map_err(cache)?;
        // Another process may have fetched the file while this one waited for the lock.
        if let Some(path) = self
            .cache
            .lookup(&entry.sha256, entry.size)
            .map_err(cache)?
        {
            return Ok(path);
        }
        match (entry.kind, &entry.suite) {
            (Kind::Python, _) => {
                pip::fetch(&self.cache, entry, &*self.reporter).map_err(|source| {
                    FetchError::Python {
                        name: entry.name.clone(),
                        version: entry.version.clone(),
                        source: Box::new(source),
                    }
                })
            }
            (Kind::Debian, suite) => self.debian(entry, suite.as_deref().unwrap_or_default()),
        }
    }

    fn debian(&self, entry: &Entry, suite: &str) -> Result<PathBuf, FetchError> {
        let mut tried = Vec::new();
        let archive = match self.archive() {
            Ok(archive) => archive,
            Err(error) => {
                tried.push(error.to_string());
                return Err(gone(entry, tried));
            }
        };
        for base in archive.mirrors.bases(suite) {
            if let Some(path) = self.attempt(
                &archive.http,
                &format!("{base}/{}", entry.path),
                entry,
                &mut tried,
            )? {
                return Ok(path);
            }
        }
        if tried.is_empty() {
            tried.push(format!("no mirror carries suite {suite}"));
        }
        // The snapshot archive is looked up last, because most machines never need it.
        let template = match archive.snapshot_template(suite) {
            Ok(Some(template)) => Some(template),
            Ok(None) => archive.mirrors.snapshot().map(str::to_owned),
            Err(error) => {
                tried.push(error.to_string());
                archive.mirrors.snapshot().map(str::to_owned)
            }
        };
        let id = self
            .lock
            .release(suite)
            .and_then(|release| date::snapshot_id(&release.date));
        match (template, id) {
            (Some(template), Some(id)) => {
                let base = template.replace("@SNAPSHOTID@", &id);
                let url = format!("{}/{}", base.trim_end_matches('/'), entry.path);
                if let Some(path) = self.attempt(&archive.http, &url, entry, &mut tried)? {
                    return Ok(path);
                }
            }
            _ => tried.push(format!(
                "the Release file of {suite} names no snapshot archive"
            )),
        }
        Err(gone(entry, tried))
    }

    /// Tries one source. Returns `None` if the source does not have the file, and adds the reason to `tried`.
    fn attempt(
        &self,
        http: &Http,
        url: &str,
        entry: &Entry,
        tried: &mut Vec<String>,
    ) -> Result<Option<PathBuf>, FetchError> {
        let task = self.reporter.start(
            &format!("{} {}", entry.name, entry.version),
            Some(entry.size),
        );
        let part = self.cache.part(&entry.sha256);
        let fatal = |source| FetchError::Cache {
            name: entry.name.clone(),
            source,
        };
        // Two passes: a partial file may come from another mirror or version, so a mismatch after resuming is followed
        // by one complete download from this source.
        for resumed in [part.exists(), false] {
            match http.download(url, entry.size, &part, &*task) {
                Ok(()) => {}
                Err(crate::HttpError::Store { source, .. }) => return Err(fatal(source)),
                Err(error) => {
                    tried.push(describe(&error));
                    return Ok(None);
                }
            }
            match self.cache.insert(&part, url, &entry.sha256, entry.size) {
                Ok(path) => {
                    task.finish("fetched");
                    return Ok(Some(path));
                }
                Err(CacheError::Hash { .. } | CacheError::Size { .. }) if resumed => {}
                Err(error @ (CacheError::Hash { .. } | CacheError::Size { .. })) => {
                    tried.push(error.to_string());
                    return Ok(None);
                }
                Err(source) => return Err(fatal(source)),
            }
        }
        Ok(None)
    }

    fn archive(&self) -> Result<Archive, MirrorError> {
        Ok(Archive {
            http: self.http.get_or_init(Http::new).clone(),
            mirrors: self.mirrors.clone()?,
            cache: self.cache.clone(),
            keyring: self.options.keyring.clone(),
            now: self.options.now,
            expired_tolerance: self.options.expired_tolerance,
            reporter: Arc::clone(&self.reporter),
        })
    }

    #[cfg(test)]
    pub(crate) fn with_http(self, http: Http) -> Self {
        Self {
            http: OnceLock::from(http),
            ..self
        }
    }
}

enum Newest {
    Resolve(Box<ResolveError>),
    Fetch(Box<FetchError>),
}

/// Pairs each new entry with the locked entry that it replaces. At least one is marked unless the files are the same.
fn pair(locked: &[Entry], newest: &[Entry]) -> Vec<(Entry, Option<Entry>)> {
    let dropped: Vec<&Entry> = locked
        .iter()
        .filter(|old| !newest.iter().any(|new| new.sha256 == old.sha256))
        .collect();
    let replaced = |new: &Entry| {
        let same_name = dropped
            .iter()
            .find(|old| old.name == new.name)
            .or(dropped.first());
        same_name.copied().or(locked.first()).cloned()
    };
    let is_locked = |new: &Entry| locked.iter().any(|old| old.sha256 == new.sha256);
    let mut pairs: Vec<_> = newest
        .iter()
        .map(|new| {
            (
                new.clone(),
                if is_locked(new) { None } else { replaced(new) },
            )
        })
        .collect();
    // A group that has only lost a file differs from the locked group, too.
    if let (Some(first), Some(old)) = (pairs.first_mut(), dropped.first())
        && newest.iter().all(is_locked)
    {
        first.1 = Some((*old).clone());
    }
    pairs
}

fn gone(entry: &Entry, tried: Vec<String>) -> FetchError {
    FetchError::Gone {
        name: entry.name.clone(),
        version: entry.version.clone(),
        tried,
    }
}

#[cfg(test)]
#[path = "fetch_tests.rs"]
mod tests;
