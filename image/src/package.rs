//! Debian packages that were fetched: read from the cache, and unpacked.

use cocoon_inputs::unpack::{self, Limits, Tree, UnpackError};
use cocoon_inputs::{CacheError, Fetched};
use thiserror::Error;

/// Why nothing can be taken from a package.
#[derive(Debug, Error)]
pub enum PackageError {
    /// Changed in the cache.
    #[error("cannot read {name} from the cache")]
    Cache {
        /// Package.
        name: String,
        /// Why.
        #[source]
        source: CacheError,
    },
    /// Not to be unpacked.
    #[error("cannot unpack {name}")]
    Unpack {
        /// Package.
        name: String,
        /// Why.
        #[source]
        source: UnpackError,
    },
}

impl PackageError {
    /// Of `package`, for which unpacking has failed with the error.
    pub fn unpack(package: &Fetched) -> impl FnOnce(UnpackError) -> Self {
        |source| Self::Unpack {
            name: package.entry.name.clone(),
            source,
        }
    }
}

/// Its bytes, which are those that were fetched.
///
/// # Errors
/// [`PackageError::Cache`].
pub fn read(package: &Fetched) -> Result<Vec<u8>, PackageError> {
    package.read().map_err(|source| PackageError::Cache {
        name: package.entry.name.clone(),
        source,
    })
}

/// Its files and links for which `keep` holds.
///
/// # Errors
/// [`PackageError`].
pub fn unpacked(package: &Fetched, keep: impl Fn(&str) -> bool) -> Result<Tree, PackageError> {
    let tree = unpack::unpack_deb(&read(package)?, Limits::default(), keep);
    tree.map_err(PackageError::unpack(package))
}
