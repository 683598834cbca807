//! Why a suite of the archive cannot be read.

use std::path::PathBuf;

use crate::{CacheError, HttpError, PackagesError, SignatureError};

/// Why a suite cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// No keyring on this machine.
    #[error(
        "no Debian archive keyring (looked for {}): apt install debian-archive-keyring, or name one with --keyring FILE",
        list(looked_for)
    )]
    NoKeyring {
        /// Paths tried.
        looked_for: Vec<PathBuf>,
    },
    /// No base address for this suite.
    #[error("no mirror carries suite {suite}: name one with --mirror URL")]
    NoMirror {
        /// Suite.
        suite: String,
    },
    /// Could not be fetched from any mirror.
    #[error("cannot fetch the {document} of suite {suite}")]
    Fetch {
        /// InRelease or index.
        document: &'static str,
        /// Suite.
        suite: String,
        /// Cause at the last mirror.
        #[source]
        source: Box<HttpError>,
    },
    /// Signature, or its keyring, refused.
    #[error("the InRelease of suite {suite} is not signed by Debian's archive key")]
    Signature {
        /// Suite.
        suite: String,
        /// Cause.
        #[source]
        source: SignatureError,
    },
    /// A field is missing or wrong.
    #[error("the InRelease of suite {suite}: field {field} is missing or not valid ({found:?})")]
    Field {
        /// Suite.
        suite: String,
        /// Field.
        field: &'static str,
        /// What stands there.
        found: String,
    },
    /// The Release file names no index of a component.
    #[error("suite {suite} has no component {component} for amd64")]
    NoIndex {
        /// Suite.
        suite: String,
        /// Component, such as `non-free`.
        component: String,
    },
    /// Older than allowed.
    #[error(
        "the InRelease of suite {suite} expired {days} days ago: the mirror is stale, or someone replays an old one; try another with --mirror URL"
    )]
    Expired {
        /// Suite.
        suite: String,
        /// Days since Valid-Until.
        days: u64,
    },
    /// Older than the one that the lock was made from.
    #[error(
        "the InRelease of suite {suite} is of {found}, the lock's of {locked}: the mirror is stale, or someone replays an old one; try another with --mirror URL"
    )]
    Older {
        /// Suite.
        suite: String,
        /// Its date.
        found: String,
        /// The lock's.
        locked: String,
    },
    /// The index has not the signed hash, or does not decompress.
    #[error("the package index of suite {suite} is damaged: {problem}")]
    Index {
        /// Suite.
        suite: String,
        /// What is wrong.
        problem: String,
    },
    /// The index does not parse.
    #[error("the package index of suite {suite} does not parse")]
    Packages {
        /// Suite.
        suite: String,
        /// Cause.
        #[source]
        source: PackagesError,
    },
    /// The cache failed.
    #[error("cannot keep the package index of suite {suite}")]
    Cache {
        /// Suite.
        suite: String,
        /// Cause.
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
