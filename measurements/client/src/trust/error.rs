//! Errors of trust settings, and the verdict for a manifest that is not trusted.

use std::path::PathBuf;

use cocoon_measurements::manifest::{ManifestRefusal, TrustedManifest};
use cocoon_measurements::verdict::Verdict;
use cocoon_protocol::bytes::Hex32;

use super::{RootError, TrustFileError};

/// Why flags and files do not yield settings.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// A file cannot be read.
    #[error("cannot read {what} {path}")]
    Read {
        /// What the file is for.
        what: &'static str,
        /// Path of the file.
        path: PathBuf,
        /// Error of the operating system.
        #[source]
        source: std::io::Error,
    },
    /// A file is larger than such a file may be.
    #[error("{what} {path} is larger than {limit} bytes: it is some other file")]
    TooLarge {
        /// What the file is for.
        what: &'static str,
        /// Path of the file.
        path: PathBuf,
        /// Largest allowed size, in bytes.
        limit: usize,
    },
    /// A published manifest cannot be fetched.
    #[error("cannot fetch the manifest {url}: {why}")]
    Fetch {
        /// URL of the manifest.
        url: String,
        /// Why it cannot be fetched.
        why: String,
    },
    /// A signer is neither a key nor a file that contains one.
    #[error(
        "`{0}` is no signer: give 64 hexadecimal digits in lower case, or a file that holds them"
    )]
    Signer(String),
    /// The trust file, the policy file or the memory of releases is not usable.
    #[error(transparent)]
    File(#[from] TrustFileError),
    /// A development root is not usable.
    #[error("{path} is not usable as --trust-root")]
    Root {
        /// Path of the file.
        path: PathBuf,
        /// Why the file is not usable.
        #[source]
        source: RootError,
    },
    /// The manifest is not trusted.
    #[error("manifest {path} does not count")]
    Manifest {
        /// Path or URL of the manifest.
        path: PathBuf,
        /// SHA-256 of the manifest.
        id: Hex32,
        /// Why the manifest is not trusted.
        #[source]
        source: Box<ManifestRefusal>,
        /// Advice that replaces the refusal's own: after a rollback, it says where the release
        /// floor comes from.
        advice: Option<Box<str>>,
    },
}

impl TrustError {
    /// Returns the verdict if the manifest was refused, which counts as a rejection. All other
    /// errors are errors of usage.
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

    /// Returns the verdict if it also applies to `manifest`: because that is the manifest that was
    /// refused, or because its release is below the same floor.
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
