//! Why a lock file is refused.

use crate::lock::FORMAT;

/// Why a lock file was refused.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Not TOML, a missing field, or an unknown one.
    #[error("cannot parse the lock file")]
    Syntax(#[source] Box<toml::de::Error>),
    /// Written by another version of this program.
    #[error("the lock file has format {found}, this program reads {FORMAT}")]
    Format {
        /// Format in the file.
        found: u32,
    },
    /// The same package twice in one group.
    #[error("{name} stands twice in group {group} of the lock file")]
    Duplicate {
        /// Package.
        name: String,
        /// Group.
        group: String,
    },
    /// Two releases for one suite.
    #[error("suite {suite} has two [[release]] tables in the lock file")]
    DuplicateRelease {
        /// Suite.
        suite: String,
    },
    /// A field with a value that cannot be right.
    #[error("{table} {name} of the lock file: {problem}")]
    Field {
        /// Table.
        table: &'static str,
        /// Entry's or request's name.
        name: String,
        /// What is wrong.
        problem: String,
    },
}
