//! Why a locked file cannot be had, and how a failed source is told.

use crate::{CacheError, HttpError, PipError, ResolveError};

/// Why a locked file cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The lock has no such group.
    #[error("the lock file names nothing in group {group:?}")]
    NoGroup {
        /// Group.
        group: String,
    },
    /// No source has it, and a release takes nothing else.
    #[error("{name} {version} is nowhere to be had: {}. If the archive has moved on, refresh the lock with `cocoon-image lock --update`", tried.join("; "))]
    Gone {
        /// Package.
        name: String,
        /// Version.
        version: String,
        /// Each source with its failure.
        tried: Vec<String>,
    },
    /// No source has it, and the newest cannot be had either.
    #[error("{name} {version} is nowhere to be had ({}), and its newest version cannot be found", tried.join("; "))]
    NoNewest {
        /// Package.
        name: String,
        /// Version.
        version: String,
        /// Each source with its failure.
        tried: Vec<String>,
        /// Why the newest cannot be found.
        #[source]
        source: Box<ResolveError>,
    },
    /// pip failed.
    #[error("cannot fetch Python package {name} {version}")]
    Python {
        /// Package.
        name: String,
        /// Version.
        version: String,
        /// Cause.
        #[source]
        source: Box<PipError>,
    },
    /// The cache failed.
    #[error("the cache failed for {name}")]
    Cache {
        /// Package.
        name: String,
        /// Cause.
        #[source]
        source: CacheError,
    },
}

/// One line with the causes, because `tried` collects several failures and an error has one source.
pub(crate) fn describe(error: &HttpError) -> String {
    let mut line = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        line = format!("{line}: {next}");
        cause = next.source();
    }
    line
}
