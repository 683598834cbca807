//! Extracts one member of a Python wheel, found by the end of its name.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::deb::Limits;
use super::tree::TreeError;

/// Why a member of a wheel cannot be extracted.
#[derive(Debug, thiserror::Error)]
pub enum WheelError {
    /// The wheel cannot be opened.
    #[error("cannot open {path}")]
    Open {
        /// Path of the wheel.
        path: PathBuf,
        /// Underlying error.
        #[source]
        source: io::Error,
    },
    /// The file is not a zip archive, or is damaged.
    #[error("{path} is not a readable wheel")]
    Zip {
        /// Path of the wheel.
        path: PathBuf,
        /// Underlying error.
        #[source]
        source: zip::result::ZipError,
    },
    /// No member matches, or several do.
    #[error("{path} has {found} members that end in {suffix:?}, expected one")]
    Members {
        /// Path of the wheel.
        path: PathBuf,
        /// End of the name.
        suffix: String,
        /// Number of matching members.
        found: usize,
    },
    /// The member is larger than allowed, whatever size the zip directory states.
    #[error("{member} in {path} has more than {limit} bytes")]
    TooLarge {
        /// Path of the wheel.
        path: PathBuf,
        /// Name of the member.
        member: String,
        /// Bound in bytes.
        limit: u64,
    },
    /// The wheel has more members than allowed.
    #[error("{path} has more than {} members", limits.members)]
    TooMany {
        /// Path of the wheel.
        path: PathBuf,
        /// Bounds that were exceeded.
        limits: Limits,
    },
    /// The kept members together are larger than allowed.
    #[error("{path} unpacks to more than {} bytes", limits.bytes)]
    Unbounded {
        /// Path of the wheel.
        path: PathBuf,
        /// Bounds that were exceeded.
        limits: Limits,
    },
    /// A member's path is refused, or writing to it failed.
    #[error("cannot unpack {path}")]
    Tree {
        /// Path of the wheel.
        path: PathBuf,
        /// Underlying error.
        #[source]
        source: TreeError,
    },
    /// The member cannot be decompressed, its checksum is wrong, or the output cannot be written.
    #[error("cannot extract {member} from {path}")]
    Extract {
        /// Path of the wheel.
        path: PathBuf,
        /// Name of the member.
        member: String,
        /// Underlying error.
        #[source]
        source: io::Error,
    },
}

/// Returns the contents of the one member whose name ends in `suffix`.
///
/// # Errors
/// [`WheelError`] if no or several members match, or the member cannot be read or has more than `limit` bytes.
pub fn wheel_file(wheel: &Path, suffix: &str, limit: u64) -> Result<Vec<u8>, WheelError> {
    let mut bytes = Vec::new();
    wheel_file_into(wheel, suffix, limit, &mut bytes)?;
    Ok(bytes)
}

/// Copies the one member whose name ends in `suffix` to `out`; returns its length in bytes.
///
/// # Errors
/// [`WheelError`] as for [`wheel_file`]; `out` may then contain a part of the member.
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
    // The size in the zip directory may be wrong, so one byte past the bound is read.
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
