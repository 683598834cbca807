//! The error of reading a suite of the Debian archive.

use std::path::PathBuf;

use crate::{CacheError, HttpError, PackagesError, SignatureError};

/// Why a suite cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// There is no keyring on this machine.
    #[error(
        "no Debian archive keyring (looked for {}): apt install debian-archive-keyring, or name one with --keyring FILE",
        list(looked_for)
    )]
    NoKeyring {
        /// Paths tried.
        looked_for: Vec<PathBuf>,
    },
    /// No base address is known for this suite.
    #[error("no mirror carries suite {suite}: name one with --mirror URL")]
    NoMirror {
        /// Name of the suite.
        suite: String,
    },
    /// No mirror delivered the document.
    #[error("cannot fetch the {document} of suite {suite}")]
    Fetch {
        /// InRelease or package index.
        document: &'static str,
        /// Name of the suite.
        suite: String,
        /// Cause at the last mirror.
        #[source]
        source: Box<HttpError>,
    },
    /// The signature is not valid, or the keyring cannot be used.
    #[error("the InRelease of suite {suite} is not signed by Debian's archive key")]
    Signature {
        /// Name of the suite.
        suite: String,
        /// Underlying error.
        #[source]
        source: SignatureError,
    },
    /// A field of InRelease is missing or not valid.
    #[error("the InRelease of suite {suite}: field {field} is missing or not valid ({found:?})")]
    Field {
        /// Name of the suite.
        suite: String,
        /// Name of the field.
        field: &'static str,
        /// Value found.
        found: String,
    },
    /// The Release file lists no index of this component.
    #[error("suite {suite} has no component {component} for amd64")]
    NoIndex {
        /// Name of the suite.
        suite: String,
        /// Component, such as `non-free`.
        component: String,
    },
    /// The Release file is past its Valid-Until by more than the tolerance.
    #[error(
        "the InRelease of suite {suite} expired {days} days ago: the mirror is stale, or someone replays an old one; try another with --mirror URL"
    )]
    Expired {
        /// Name of the suite.
        suite: String,
        /// Days since Valid-Until.
        days: u64,
    },
    /// The Release file is older than the one from which the lock was made.
    #[error(
        "the InRelease of suite {suite} is of {found}, the lock's of {locked}: the mirror is stale, or someone replays an old one; try another with --mirror URL"
    )]
    Older {
        /// Name of the suite.
        suite: String,
        /// Date of the Release file.
        found: String,
        /// Date of the locked Release file.
        locked: String,
    },
    /// The index does not have the signed hash, or cannot be decompressed.
    #[error("the package index of suite {suite} is damaged: {problem}")]
    Index {
        /// Name of the suite.
        suite: String,
        /// Description of the problem.
        problem: String,
    },
    /// The index cannot be parsed.
    #[error("the package index of suite {suite} does not parse")]
    Packages {
        /// Name of the suite.
        suite: String,
        /// Underlying error.
        #[source]
        source: PackagesError,
    },
    /// The index cannot be stored in the cache, or read from it.
    #[error("cannot keep the package index of suite {suite}")]
    Cache {
        /// Name of the suite.
        suite: String,
        /// Underlying error.
        #[source]
        source: CacheError,
    },
}

fn list(paths: &[PathBuf]) -> String {
    paths
        .iter()
        .map(|path| path.display().to_string())
        .collect::<Vec<_>>()
        .join(", ")
}
