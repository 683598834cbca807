//! Reads and unpacks Debian packages that were fetched.

use cocoon_inputs::unpack::{self, Limits, Tree, UnpackError};
use cocoon_inputs::{CacheError, Fetched};
use thiserror::Error;

/// Why a package cannot be read or unpacked.
#[derive(Debug, Error)]
pub enum PackageError {
    /// The file in the cache is missing or was changed.
    #[error("cannot read {name} from the cache")]
    Cache {
        /// Name of the package.
        name: String,
        /// What the cache reported.
        #[source]
        source: CacheError,
    },
    /// The package cannot be unpacked.
    #[error("cannot unpack {name}")]
    Unpack {
        /// Name of the package.
        name: String,
        /// What is wrong with it.
        #[source]
        source: UnpackError,
    },
}

impl PackageError {
    /// Returns a closure for `map_err` on operations that unpack `package`.
    pub fn unpack(package: &Fetched) -> impl FnOnce(UnpackError) -> Self {
        |source| Self::Unpack {
            name: package.entry.name.clone(),
            source,
        }
    }
}

/// Reads the bytes of `package`, and checks that they are still those that were fetched.
///
/// # Errors
/// [`PackageError::Cache`].
pub fn read(package: &Fetched) -> Result<Vec<u8>, PackageError> {
    package.read().map_err(|source| PackageError::Cache {
        name: package.entry.name.clone(),
        source,
    })
}

/// Returns the files and links of `package` whose paths satisfy `keep`.
///
/// # Errors
/// [`PackageError`].
pub fn unpacked(package: &Fetched, keep: impl Fn(&str) -> bool) -> Result<Tree, PackageError> {
    let tree = unpack::unpack_deb(&read(package)?, Limits::default(), keep);
    tree.map_err(PackageError::unpack(package))
}
