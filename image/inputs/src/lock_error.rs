//! The error of reading a lock file.

use crate::lock::FORMAT;

/// Why a lock file was refused.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// The file is not TOML, or has a missing or unknown field.
    #[error("cannot parse the lock file")]
    Syntax(#[source] Box<toml::de::Error>),
    /// The file has another version of the format.
    #[error("the lock file has format {found}, this program reads {FORMAT}")]
    Format {
        /// Version of the format in the file.
        found: u32,
    },
    /// One group contains the same package twice.
    #[error("{name} stands twice in group {group} of the lock file")]
    Duplicate {
        /// Name of the package.
        name: String,
        /// Name of the group.
        group: String,
    },
    /// One suite has two releases.
    #[error("suite {suite} has two [[release]] tables in the lock file")]
    DuplicateRelease {
        /// Name of the suite.
        suite: String,
    },
    /// A field has a value that is not valid.
    #[error("{table} {name} of the lock file: {problem}")]
    Field {
        /// Name of the table.
        table: &'static str,
        /// Name of the input or request, or suite of the release.
        name: String,
        /// Description of the problem.
        problem: String,
    },
}
