//! Why flags and files amount to no settings, and the verdict for a manifest that does not count.

use std::path::PathBuf;

use cocoon_measurements::manifest::{ManifestRefusal, TrustedManifest};
use cocoon_measurements::verdict::Verdict;
use cocoon_protocol::bytes::Hex32;

use super::{RootError, TrustFileError};

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// A file cannot be read.
    #[error("cannot read {what} {path}")]
    Read {
        /// What the file is for.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// From the operating system.
        #[source]
        source: std::io::Error,
    },
    /// A file is far too large for what it should be.
    #[error("{what} {path} is larger than {limit} bytes: it is some other file")]
    TooLarge {
        /// What the file is for.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Bytes allowed.
        limit: usize,
    },
    /// A manifest cannot be had from where it is published.
    #[error("cannot fetch the manifest {url}: {why}")]
    Fetch {
        /// Where.
        url: String,
        /// Why not.
        why: String,
    },
    /// A signer is neither a key nor a file with one.
    #[error(
        "`{0}` is no signer: give 64 hexadecimal digits in lower case, or a file that holds them"
    )]
    Signer(String),
    /// The trust file.
    #[error(transparent)]
    File(#[from] TrustFileError),
    /// A development root.
    #[error("{path} is not usable as --trust-root")]
    Root {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: RootError,
    },
    /// The manifest does not count.
    #[error("manifest {path} does not count")]
    Manifest {
        /// The file.
        path: PathBuf,
        /// SHA-256 of what is in it.
        id: Hex32,
        /// Why.
        #[source]
        source: Box<ManifestRefusal>,
        /// What to do, where these settings know better than the refusal: of a rollback, whose floor it is.
        advice: Option<Box<str>>,
    },
}

impl TrustError {
    /// A refused manifest is a rejection with its own verdict; everything else about settings is usage.
    pub fn verdict(&self) -> Option<Verdict> {
        let Self::Manifest { source, advice, .. } = self else {
            return None;
        };
        let mut verdict = Verdict::from(&**source);
        if let (Some(advice), Some(check)) = (advice, verdict.checks.first_mut()) {
            check.advice = Some(advice.to_string());
        }
        Some(verdict)
    }

    /// The verdict, where what it says holds of `manifest`, too: it is the one that was refused, or below the same floor.
    pub(super) fn refusal_of(&self, manifest: &TrustedManifest) -> Option<Verdict> {
        let Self::Manifest { id, source, .. } = self else {
            return None;
        };
        let rolled_back = match &**source {
            ManifestRefusal::ReleaseFloor { floor, .. } => manifest.release < *floor,
            _ => false,
        };
        (*id == manifest.id() || rolled_back).then(|| self.verdict())?
    }
}
