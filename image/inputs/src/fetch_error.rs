//! The error of fetching a locked file, and the description of failed sources.

use crate::{CacheError, HttpError, PipError, ResolveError};

/// Why a locked file cannot be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The lock has no such group.
    #[error("the lock file names nothing in group {group:?}")]
    NoGroup {
        /// Name of the group.
        group: String,
    },
    /// No source has the locked file, and the policy allows no other.
    #[error("{name} {version} is nowhere to be had: {}. If the archive has moved on, refresh the lock with `cocoon-image lock --update`", tried.join("; "))]
    Gone {
        /// Name of the package.
        name: String,
        /// Version of the package.
        version: String,
        /// Each source tried, with its failure.
        tried: Vec<String>,
    },
    /// No source has the locked file, and its group cannot be resolved again.
    #[error("{name} {version} is nowhere to be had ({}), and its newest version cannot be found", tried.join("; "))]
    NoNewest {
        /// Name of the package.
        name: String,
        /// Version of the package.
        version: String,
        /// Each source tried, with its failure.
        tried: Vec<String>,
        /// Why the newest version cannot be found.
        #[source]
        source: Box<ResolveError>,
    },
    /// pip could not download the wheel.
    #[error("cannot fetch Python package {name} {version}")]
    Python {
        /// Name of the package.
        name: String,
        /// Version of the package.
        version: String,
        /// Underlying error.
        #[source]
        source: Box<PipError>,
    },
    /// The cache failed while the file was fetched.
    #[error("the cache failed for {name}")]
    Cache {
        /// Name of the package.
        name: String,
        /// Underlying error.
        #[source]
        source: CacheError,
    },
}

/// Describes an error with its causes in one line: `tried` collects several failures, whereas an error has only one
/// source.
pub(crate) fn describe(error: &HttpError) -> String {
    let mut line = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        line = format!("{line}: {next}");
        cause = next.source();
    }
    line
}
