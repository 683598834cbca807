//! One suite of the Debian archive: InRelease, its signature, its dates, and the Packages indices it vouches for.

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

/// Everything needed to read the archive.
#[derive(Clone)]
pub struct Archive {
    /// Client.
    pub http: Http,
    /// Base addresses.
    pub mirrors: Mirrors,
    /// Where indices are kept between runs, by their hash.
    pub cache: Cache,
    /// Keys that may sign.
    pub keyring: Keyring,
    /// Seconds since 1970; an argument so that a test can choose it.
    pub now: u64,
    /// How long past its Valid-Until a Release file is still taken; each such case is reported.
    pub expired_tolerance: Duration,
    /// Told about downloads and tolerated expiries.
    pub reporter: Arc<dyn Reporter>,
}

impl Keyring {
    /// The keyring that Debian's package `debian-archive-keyring` installs.
    #[must_use]
    pub fn debian() -> Self {
        let names = ["debian-archive-keyring.gpg", "debian-archive-keyring.pgp"];
        Self {
            paths: names
                .map(|name| Path::new("/usr/share/keyrings").join(name))
                .to_vec(),
        }
    }

    /// A keyring file, binary or armoured.
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

/// A verified suite with the texts of its indices by component.
pub(crate) struct Suite {
    pub release: Release,
    pub packages: BTreeMap<String, String>,
}

/// One index of a suite, as its InRelease names it.
struct Index {
    /// Below the suite's folder, such as `main/binary-amd64`.
    folder: String,
    sha256: Digest,
    size: u64,
}

/// The verified fields of an InRelease file.
#[derive(Debug)]
pub(crate) struct InRelease {
    base: String,
    sha256: Digest,
    date: String,
    text: String,
}

impl Archive {
    /// Fetches and verifies InRelease of `suite`, not older than the `locked` one, and its indices of `main` and of
    /// `components`.
    pub(crate) fn suite(
        &self,
        suite: &str,
        components: &BTreeSet<&str>,
        locked: Option<&Release>,
    ) -> Result<Suite, ArchiveError> {
        let inrelease = self.inrelease(suite, locked)?;
        self.check_dates(suite, &inrelease)?;
        // An old mirror's file and a new one's indices would not fit, so that all follow from this one text.
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

    /// Digest and text of one index.
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

    /// Where the suite's own, signed Release file says that old files are; `None` if it does not say.
    pub(crate) fn snapshot_template(&self, suite: &str) -> Result<Option<String>, ArchiveError> {
        // Of any age: what is fetched there has the locked hash.
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
        // A mirror must not pass one suite off as another: sid's packages are signed by the same keys.
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
        // Stable releases carry no Valid-Until.
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
        // By hash first: the plain name changes under our feet when the mirror updates.
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
    /// The same unless it is older than the `locked` one. Releases of stable suites never expire, so an old one, with its
    /// holes, would pass for the newest for ever.
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
    /// What the SHA256 section of a Release file says of a component's index.
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
