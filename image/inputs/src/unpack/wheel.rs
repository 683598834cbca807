//! Python wheels: one member by the end of its name.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::deb::Limits;
use super::tree::TreeError;

/// Why a wheel's member cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum WheelError {
    /// The wheel cannot be opened.
    #[error("cannot open {path}")]
    Open {
        /// Wheel.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// Not a zip file, or a damaged one.
    #[error("{path} is not a readable wheel")]
    Zip {
        /// Wheel.
        path: PathBuf,
        /// Cause.
        #[source]
        source: zip::result::ZipError,
    },
    /// None or several members match.
    #[error("{path} has {found} members that end in {suffix:?}, expected one")]
    Members {
        /// Wheel.
        path: PathBuf,
        /// End of the name.
        suffix: String,
        /// How many.
        found: usize,
    },
    /// The member is larger than allowed, or than it says.
    #[error("{member} in {path} has more than {limit} bytes")]
    TooLarge {
        /// Wheel.
        path: PathBuf,
        /// Member.
        member: String,
        /// Bound.
        limit: u64,
    },
    /// More members than allowed.
    #[error("{path} has more than {} members", limits.members)]
    TooMany {
        /// Wheel.
        path: PathBuf,
        /// Bounds.
        limits: Limits,
    },
    /// All members together are larger than allowed.
    #[error("{path} unpacks to more than {} bytes", limits.bytes)]
    Unbounded {
        /// Wheel.
        path: PathBuf,
        /// Bounds.
        limits: Limits,
    },
    /// A member's path, or writing to it, was refused.
    #[error("cannot unpack {path}")]
    Tree {
        /// Wheel.
        path: PathBuf,
        /// Cause.
        #[source]
        source: TreeError,
    },
    /// Decompression, checksum, or the output failed.
    #[error("cannot extract {member} from {path}")]
    Extract {
        /// Wheel.
        path: PathBuf,
        /// Member.
        member: String,
        /// Cause.
        #[source]
        source: io::Error,
    },
}

/// The bytes of the one member whose name ends in `suffix`, at most `limit` of them.
///
/// # Errors
/// [`WheelError`].
pub fn wheel_file(wheel: &Path, suffix: &str, limit: u64) -> Result<Vec<u8>, WheelError> {
    let mut bytes = Vec::new();
    wheel_file_into(wheel, suffix, limit, &mut bytes)?;
    Ok(bytes)
}

/// Copies the one member whose name ends in `suffix` to `out`; returns its length.
///
/// # Errors
/// [`WheelError`]; `out` may then hold a part.
pub fn wheel_file_into(
    wheel: &Path,
    suffix: &str,
    limit: u64,
    out: &mut impl Write,
) -> Result<u64, WheelError> {
    let path = wheel.to_owned();
    let file = File::open(wheel).map_err(|source| WheelError::Open {
        path: path.clone(),
        source,
    })?;
    let zip_error = |source| WheelError::Zip {
        path: path.clone(),
        source,
    };
    let mut archive = zip::ZipArchive::new(io::BufReader::new(file)).map_err(zip_error)?;
    let names: Vec<String> = archive
        .file_names()
        .filter(|name| name.ends_with(suffix))
        .map(str::to_owned)
        .collect();
    let [name] = names.as_slice() else {
        return Err(WheelError::Members {
            path,
            suffix: suffix.to_owned(),
            found: names.len(),
        });
    };
    let member = archive.by_name(name).map_err(zip_error)?;
    let too_large = || WheelError::TooLarge {
        path: path.clone(),
        member: name.clone(),
        limit,
    };
    if member.size() > limit {
        return Err(too_large());
    }
    // The directory's size may lie: read one byte past the bound.
    let copied =
        io::copy(&mut io::Read::take(member, limit.saturating_add(1)), out).map_err(|source| {
            WheelError::Extract {
                path: path.clone(),
                member: name.clone(),
                source,
            }
        })?;
    if copied > limit {
        Err(too_large())
    } else {
        Ok(copied)
    }
}

#[cfg(test)]
#[path = "wheel_tests.rs"]
mod tests;
