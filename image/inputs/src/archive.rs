//! Reads one suite of the Debian archive: verifies its InRelease file and dates, and fetches the Packages indices
//! listed there.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::archive_error::ArchiveError;
use crate::lock::MAIN;
use crate::openpgp::{self, Signed};
use crate::report::Reporter;
use crate::{Cache, CacheError, Digest, Http, Mirrors, Release, date};

const MAX_INRELEASE_BYTES: u64 = 4 << 20;
const MAX_PACKAGES_XZ_BYTES: u64 = 64 << 20;
const MAX_PACKAGES_BYTES: u64 = 512 << 20;

/// The keys that may sign a Release file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keyring {
    paths: Vec<PathBuf>,
}

/// Everything needed to read the Debian archive.
#[derive(Clone)]
pub struct Archive {
    /// HTTP client.
    pub http: Http,
    /// Base addresses of the archive.
    pub mirrors: Mirrors,
    /// Cache that keeps the package indices between runs, by their digests.
    pub cache: Cache,
    /// Keys that may sign a Release file.
    pub keyring: Keyring,
    /// Current time in seconds since 1970. A field, so that tests can choose it.
    pub now: u64,
    /// How long a Release file is still accepted after its Valid-Until; each such case is reported.
    pub expired_tolerance: Duration,
    /// Receives the progress of downloads and notes about tolerated expiries.
    pub reporter: Arc<dyn Reporter>,
}

impl Keyring {
    /// The keyring installed by Debian's package `debian-archive-keyring`.
    #[must_use]
    pub fn debian() -> Self {
        let names = ["debian-archive-keyring.gpg", "debian-archive-keyring.pgp"];
        Self {
            paths: names
                .map(|name| Path::new("/usr/share/keyrings").join(name))
                .to_vec(),
        }
    }

    /// The keyring in this file, binary or armoured.
    #[must_use]
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self {
            paths: vec![path.into()],
        }
    }

    fn read(&self) -> Result<Vec<u8>, ArchiveError> {
        let found = self.paths.iter().find_map(|path| std::fs::read(path).ok());
        found.ok_or_else(|| ArchiveError::NoKeyring {
            looked_for: self.paths.clone(),
        })
    }
}

/// A verified suite with the texts of its package indices by component.
pub(crate) struct Suite {
    pub release: Release,
    pub packages: BTreeMap<String, String>,
}

/// One package index of a suite, as InRelease lists it.
struct Index {
    /// Folder relative to the suite's folder, such as `main/binary-amd64`.
    folder: String,
    sha256: Digest,
    size: u64,
}

/// A verified InRelease file.
#[derive(Debug)]
pub(crate) struct InRelease {
    base: String,
    sha256: Digest,
    date: String,
    text: String,
}

impl Archive {
    /// Fetches and verifies the InRelease file of `suite`, then reads the package indices of `main` and of
    /// `components`. Refuses an InRelease that is older than the `locked` one.
    pub(crate) fn suite(
        &self,
        suite: &str,
        components: &BTreeSet<&str>,
        locked: Option<&Release>,
    ) -> Result<Suite, ArchiveError> {
        let inrelease = self.inrelease(suite, locked)?;
        self.check_dates(suite, &inrelease)?;
        // All indices are taken from this one InRelease: mirrors in different states would give indices that do not
        // match.
        let main = self.index(suite, MAIN, &inrelease)?;
        let mut packages = BTreeMap::from([(MAIN.to_owned(), main.1)]);
        let mut others = BTreeMap::new();
        for component in components.iter().filter(|component| **component != MAIN) {
            let (sha256, text) = self.index(suite, component, &inrelease)?;
            others.insert((*component).to_owned(), sha256);
            packages.insert((*component).to_owned(), text);
        }
        let release = Release {
            suite: suite.to_owned(),
            date: inrelease.date,
            inrelease_sha256: inrelease.sha256,
            packages_sha256: main.0,
            components: others,
        };
        Ok(Suite { release, packages })
    }

    /// Returns the digest and the text of one index, from the cache if it is there.
    fn index(
        &self,
        suite: &str,
        component: &str,
        inrelease: &InRelease,
    ) -> Result<(Digest, String), ArchiveError> {
        let index = Index::named(suite, component, &inrelease.text)?;
        let path = match self
            .cache
            .lookup(&index.sha256, index.size)
            .map_err(cache_error(suite))?
        {
            Some(path) => path,
            None => self.fetch_index(suite, inrelease, &index)?,
        };
        let task = self
            .reporter
            .start(&format!("reading the index of {suite} {component}"), None);
        let packages = decompress(suite, &path)?;
        task.finish(&format!("dated {}", inrelease.date));
        Ok((index.sha256, packages))
    }

    /// Returns the address template of the snapshot archive that the suite's signed Release file names, if it names
    /// one.
    pub(crate) fn snapshot_template(&self, suite: &str) -> Result<Option<String>, ArchiveError> {
        // The Release file may be of any age: whatever is fetched from the snapshot archive must have the locked hash.
        let inrelease = self.inrelease(suite, None)?;
        let named = field(&inrelease.text, "Snapshots").filter(|url| url.contains("@SNAPSHOTID@"));
        Ok(named.map(str::to_owned))
    }

    fn inrelease(&self, suite: &str, locked: Option<&Release>) -> Result<InRelease, ArchiveError> {
        let keys =
            openpgp::keyring(&self.keyring.read()?).map_err(|source| ArchiveError::Signature {
                suite: suite.to_owned(),
                source,
            })?;
        let mut last = ArchiveError::NoMirror {
            suite: suite.to_owned(),
        };
        for base in self.mirrors.bases(suite) {
            let url = format!("{base}/dists/{suite}/InRelease");
            match self.http.get(&url, MAX_INRELEASE_BYTES) {
                Ok(bytes) => match self
                    .verified(suite, base, &bytes, &keys)
                    .and_then(|inrelease| inrelease.not_older(suite, locked))
                {
                    Ok(inrelease) => return Ok(inrelease),
                    Err(error) => last = error,
                },
                Err(source) => {
                    last = ArchiveError::Fetch {
                        document: "InRelease",
                        suite: suite.to_owned(),
                        source: Box::new(source),
                    }
                }
            }
        }
        Err(last)
    }

    fn verified(
        &self,
        suite: &str,
        base: &str,
        bytes: &[u8],
        keys: &[pgp::composed::SignedPublicKey],
    ) -> Result<InRelease, ArchiveError> {
        let Signed { text, .. } =
            openpgp::verify(bytes, keys, self.now).map_err(|source| ArchiveError::Signature {
                suite: suite.to_owned(),
                source,
            })?;
        // A mirror must not present one suite as another: the same keys sign sid.
        let named = field(&text, "Codename").unwrap_or_default();
        if named != suite && field(&text, "Suite") != Some(suite) {
            return Err(bad_field(suite, "Codename", named));
        }
        let date = field(&text, "Date").unwrap_or_default().to_owned();
        if date::parse(&date).is_none() {
            return Err(bad_field(suite, "Date", &date));
        }
        Ok(InRelease {
            base: base.to_owned(),
            sha256: Digest::of(bytes),
            date,
            text,
        })
    }

    fn check_dates(&self, suite: &str, inrelease: &InRelease) -> Result<(), ArchiveError> {
        // Release files of stable suites have no Valid-Until.
        let Some(text) = field(&inrelease.text, "Valid-Until") else {
            return Ok(());
        };
        let until = date::parse(text).ok_or_else(|| bad_field(suite, "Valid-Until", text))?;
        let late = self.now.saturating_sub(until);
        if late == 0 {
            return Ok(());
        }
        let days = late / 86_400;
        if late > self.expired_tolerance.as_secs() {
            return Err(ArchiveError::Expired {
                suite: suite.to_owned(),
                days,
            });
        }
        self.reporter.note(&format!("the InRelease of suite {suite} expired {days} days ago; taken, as it is within the tolerance"));
        Ok(())
    }

    fn fetch_index(
        &self,
        suite: &str,
        inrelease: &InRelease,
        index: &Index,
    ) -> Result<PathBuf, ArchiveError> {
        let Index {
            folder,
            sha256,
            size,
        } = index;
        let dir = format!("{}/dists/{suite}/{folder}", inrelease.base);
        // The by-hash path is tried first: the file under the plain name changes when the mirror is updated.
        let by_hash = format!("{dir}/by-hash/SHA256/{sha256}");
        let plain = format!("{dir}/Packages.xz");
        let _guard = self
            .cache
            .exclusive(&*self.reporter)
            .map_err(cache_error(suite))?;
        let task = self
            .reporter
            .start(&format!("package index of {suite}"), Some(*size));
        let part = self.cache.part(sha256);
        let mut result = self.http.download(&by_hash, *size, &part, &*task);
        if result.is_err() {
            result = self.http.download(&plain, *size, &part, &*task);
        }
        result.map_err(|source| ArchiveError::Fetch {
            document: "package index",
            suite: suite.to_owned(),
            source: Box::new(source),
        })?;
        task.finish("fetched");
        self.cache
            .insert(&part, &plain, sha256, *size)
            .map_err(|error| match error {
                CacheError::Hash { .. } | CacheError::Size { .. } => ArchiveError::Index {
                    suite: suite.to_owned(),
                    problem: error.to_string(),
                },
                source => ArchiveError::Cache {
                    suite: suite.to_owned(),
                    source,
                },
            })
    }
}

impl InRelease {
    /// Refuses a Release file that is older than the `locked` one. Release files of stable suites never expire, so a
    /// replayed old one, with its known vulnerabilities, would otherwise be accepted for ever.
    fn not_older(self, suite: &str, locked: Option<&Release>) -> Result<Self, ArchiveError> {
        match locked {
            Some(locked) if date::parse(&self.date) < date::parse(&locked.date) => {
                Err(ArchiveError::Older {
                    suite: suite.to_owned(),
                    found: self.date,
                    locked: locked.date.clone(),
                })
            }
            _ => Ok(self),
        }
    }
}

impl Index {
    /// Reads the entry of a component's index from the SHA256 section of a Release file.
    fn named(suite: &str, component: &str, text: &str) -> Result<Self, ArchiveError> {
        let folder = format!("{component}/binary-amd64");
        let path = format!("{folder}/Packages.xz");
        let section = text
            .lines()
            .skip_while(|line| line.trim_end() != "SHA256:")
            .skip(1)
            .take_while(|line| line.starts_with(' '));
        for line in section {
            let mut words = line.split_whitespace();
            let (Some(hash), Some(size), Some(name)) = (words.next(), words.next(), words.next())
            else {
                continue;
            };
            if name != path {
                continue;
            }
            let sha256 = Digest::parse(hash).map_err(|_| bad_field(suite, "SHA256", line))?;
            let size = size
                .parse()
                .ok()
                .filter(|size| (1..=MAX_PACKAGES_XZ_BYTES).contains(size))
                .ok_or_else(|| bad_field(suite, "SHA256", line))?;
            return Ok(Self {
                folder,
                sha256,
                size,
            });
        }
        Err(ArchiveError::NoIndex {
            suite: suite.to_owned(),
            component: component.to_owned(),
        })
    }
}

fn decompress(suite: &str, path: &Path) -> Result<String, ArchiveError> {
    let damaged = |problem: String| ArchiveError::Index {
        suite: suite.to_owned(),
        problem,
    };
    let file = std::fs::File::open(path).map_err(|error| damaged(error.to_string()))?;
    let mut text = String::new();
    let mut reader =
        lzma_rust2::XzReader::new(std::io::BufReader::new(file), true).take(MAX_PACKAGES_BYTES + 1);
    reader
        .read_to_string(&mut text)
        .map_err(|error| damaged(error.to_string()))?;
    if text.len() as u64 > MAX_PACKAGES_BYTES {
        return Err(damaged(format!(
            "it unpacks to more than {MAX_PACKAGES_BYTES} bytes"
        )));
    }
    Ok(text)
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim)
}

fn bad_field(suite: &str, field: &'static str, found: &str) -> ArchiveError {
    ArchiveError::Field {
        suite: suite.to_owned(),
        field,
        found: found.chars().take(120).collect(),
    }
}

fn cache_error(suite: &str) -> impl FnOnce(CacheError) -> ArchiveError {
    let suite = suite.to_owned();
    move |source| ArchiveError::Cache { suite, source }
}
