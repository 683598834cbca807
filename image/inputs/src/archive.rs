//! One suite of the Debian archive: InRelease, its signature, its dates, and the Packages index it vouches for.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::archive_error::ArchiveError;
use crate::openpgp::{self, Signed};
use crate::report::Reporter;
use crate::{Cache, CacheError, Digest, Http, Mirrors, Release, date};

const MAX_INRELEASE_BYTES: u64 = 4 << 20;
const MAX_PACKAGES_XZ_BYTES: u64 = 64 << 20;
const MAX_PACKAGES_BYTES: u64 = 512 << 20;
/// The only index that is used.
const INDEX: &str = "main/binary-amd64/Packages.xz";

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

/// A verified suite with the text of its index.
pub(crate) struct Suite {
    pub release: Release,
    pub packages: String,
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
    /// Fetches and verifies InRelease and index of `suite`.
    pub(crate) fn suite(&self, suite: &str) -> Result<Suite, ArchiveError> {
        let inrelease = self.inrelease(suite)?;
        self.check_dates(suite, &inrelease)?;
        let (sha256, size) = index_hash(suite, &inrelease.text)?;
        let path = match self
            .cache
            .lookup(&sha256, size)
            .map_err(cache_error(suite))?
        {
            Some(path) => path,
            None => self.fetch_index(suite, &inrelease, &sha256, size)?,
        };
        let task = self
            .reporter
            .start(&format!("reading the index of {suite}"), None);
        let packages = decompress(suite, &path)?;
        task.finish(&format!("dated {}", inrelease.date));
        let release = Release {
            suite: suite.to_owned(),
            date: inrelease.date,
            inrelease_sha256: inrelease.sha256,
            packages_sha256: sha256,
        };
        Ok(Suite { release, packages })
    }

    /// Where the suite's own, signed Release file says that old files are; `None` if it does not say.
    pub(crate) fn snapshot_template(&self, suite: &str) -> Result<Option<String>, ArchiveError> {
        let inrelease = self.inrelease(suite)?;
        let named = field(&inrelease.text, "Snapshots").filter(|url| url.contains("@SNAPSHOTID@"));
        Ok(named.map(str::to_owned))
    }

    fn inrelease(&self, suite: &str) -> Result<InRelease, ArchiveError> {
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
                Ok(bytes) => match self.verified(suite, base, &bytes, &keys) {
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
        sha256: &Digest,
        size: u64,
    ) -> Result<PathBuf, ArchiveError> {
        let dir = format!("{}/dists/{suite}", inrelease.base);
        // By hash first: the plain name changes under our feet when the mirror updates.
        let by_hash = format!("{dir}/main/binary-amd64/by-hash/SHA256/{sha256}");
        let _guard = self
            .cache
            .exclusive(&*self.reporter)
            .map_err(cache_error(suite))?;
        let task = self
            .reporter
            .start(&format!("package index of {suite}"), Some(size));
        let part = self.cache.part(sha256);
        let mut result = self.http.download(&by_hash, size, &part, &*task);
        if result.is_err() {
            result = self
                .http
                .download(&format!("{dir}/{INDEX}"), size, &part, &*task);
        }
        result.map_err(|source| ArchiveError::Fetch {
            document: "package index",
            suite: suite.to_owned(),
            source: Box::new(source),
        })?;
        task.finish("fetched");
        self.cache
            .insert(&part, INDEX, sha256, size)
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

/// Digest and size that the SHA256 section names for the index.
fn index_hash(suite: &str, text: &str) -> Result<(Digest, u64), ArchiveError> {
    let section = text
        .lines()
        .skip_while(|line| line.trim_end() != "SHA256:")
        .skip(1)
        .take_while(|line| line.starts_with(' '));
    for line in section {
        let mut words = line.split_whitespace();
        if let (Some(hash), Some(size), Some(INDEX)) = (words.next(), words.next(), words.next()) {
            let hash = Digest::parse(hash).map_err(|_| bad_field(suite, "SHA256", line))?;
            let size = size
                .parse()
                .ok()
                .filter(|size| (1..=MAX_PACKAGES_XZ_BYTES).contains(size));
            return Ok((hash, size.ok_or_else(|| bad_field(suite, "SHA256", line))?));
        }
    }
    Err(bad_field(suite, "SHA256", ""))
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
