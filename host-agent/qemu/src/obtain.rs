//! Obtains a QEMU that is new enough: the named one, the system's, or a fetched private copy.

use std::path::Path;
use std::sync::Arc;

use cocoon_inputs::report::Reporter;
use cocoon_inputs::{FetchError, Fetcher, Lock};

use crate::find::{FindError, Qemu, Search, Version, search};
use crate::private::{self, PrivateError};

/// The lock file's group of packages for a private QEMU.
pub const GROUP: &str = "qemu";

/// A QEMU, and why this one is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obtained {
    /// The QEMU to use.
    pub qemu: Qemu,
    /// The reason, as a phrase for the operator: "the system's QEMU 7.2.19 at … is older than 10.0.0: using a private QEMU
    /// 10.0.13".
    pub reason: String,
}

/// Returns the QEMU `named` by the operator, or else the system's, or else a private copy fetched with `fetcher`.
///
/// # Errors
/// [`ObtainError`] if a named program cannot be used or a private copy cannot be made. An unusable QEMU of the system is
/// skipped, and the reason says so.
pub async fn obtain(
    named: Option<&Path>,
    minimum: Version,
    fetcher: Arc<Fetcher>,
    reporter: Arc<dyn Reporter>,
) -> Result<Obtained, ObtainError> {
    let path = std::env::var_os("PATH");
    let because = match search(named, path.as_deref(), minimum).await? {
        Search::Found { qemu, reason } => return Ok(Obtained { qemu, reason }),
        Search::Unusable { reason } => reason,
    };
    let cache = fetcher.cache().root().to_owned();
    let packages =
        tokio::task::spawn_blocking(move || fetcher.fetch_group(GROUP).map_err(Box::new)).await??;
    let qemu = private::open(&cache, packages, reporter).await?;
    let version = qemu.version;
    if version < minimum {
        return Err(ObtainError::PrivateTooOld {
            because,
            version,
            minimum,
        });
    }
    let reason = using(&because, version);
    Ok(Obtained { qemu, reason })
}

/// Returns what [`obtain`] would, as far as this machine has it, without fetching anything. The only private copy
/// considered is that of `lock`, below the folder `cache`.
///
/// # Errors
/// As for [`search`].
pub async fn here(
    named: Option<&Path>,
    minimum: Version,
    lock: &Lock,
    cache: Option<&Path>,
) -> Result<Search, FindError> {
    let path = std::env::var_os("PATH");
    let because = match search(named, path.as_deref(), minimum).await? {
        Search::Unusable { reason } => reason,
        found => return Ok(found),
    };
    let digests = lock.group(GROUP).map(|entry| *entry.sha256.as_bytes());
    let root = cache.and_then(|cache| private::held(cache, digests));
    let copy = match root {
        // A copy that does not run is made again when it is needed.
        Some(root) => private::at(&root).await.ok(),
        None => None,
    };
    Ok(match copy.filter(|qemu| qemu.version >= minimum) {
        Some(qemu) => Search::Found {
            reason: using(&because, qemu.version),
            qemu,
        },
        None => Search::Unusable { reason: because },
    })
}

fn using(because: &str, version: Version) -> String {
    format!("{because}: using a private QEMU {version}")
}

/// Why no QEMU could be obtained.
#[derive(Debug, thiserror::Error)]
pub enum ObtainError {
    /// The named program cannot be used.
    #[error("the QEMU that was named cannot be used")]
    Named(#[from] FindError),
    /// The private copy's packages cannot be fetched.
    #[error("cannot fetch the packages of a private QEMU")]
    Fetch(#[from] Box<FetchError>),
    /// The private copy cannot be made.
    #[error("cannot make a private QEMU")]
    Private(#[from] PrivateError),
    /// The private copy is older than required.
    #[error(
        "{because}, and the private copy is QEMU {version}; install {minimum} or later and name it"
    )]
    PrivateTooOld {
        /// Why the system's QEMU is not used.
        because: String,
        /// Version of the private copy.
        version: Version,
        /// The oldest version that would do.
        minimum: Version,
    },
    /// The fetching thread panicked or was cancelled.
    #[error("fetching was interrupted")]
    Interrupted(#[from] tokio::task::JoinError),
}
