//! Predicts what clients will say about a guest's evidence.
//!
//! The host requests evidence over the guest's loopback port, as a client would, and appraises it with the client's own
//! functions. The host computes the verdict itself, so it protects nobody: it only tells the operator beforehand.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use cocoon_measurements::appraise::{Presented, appraise};
use cocoon_measurements::manifest::{ManifestRefusal, ManifestTrust, trust};
use cocoon_measurements::verdict::{Class, Outcome, Verdict};
use cocoon_protocol::manifest::{MAX_MANIFEST_LEN, manifest_id};
use tokio::time::timeout;

use crate::collateral::keeper::clock;
use crate::doctor::policy::{PolicyError, PolicyFile};
use crate::text::{chain, plain};

mod guest;

pub use guest::{GuestError, Shown, show};

/// How long a client waits for connection, handshake and document together.
const PATIENCE: Duration = Duration::from_secs(100);

/// A guest whose evidence is to be appraised, and what to appraise it by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Address of the guest's listener on this machine.
    pub guest: SocketAddr,
    /// File of the manifest that the guest publishes.
    pub manifest: PathBuf,
    /// File of the development root, PEM, for simulated evidence.
    pub trust_root: Option<PathBuf>,
    /// File of a client's policy; `None` for the default policy.
    pub policy: Option<PathBuf>,
}

/// A pending appraisal: a sentence for the operator that says why clients accept the evidence, or why they refuse it.
pub type Judging = Pin<Box<dyn Future<Output = Result<String, String>> + Send>>;

/// Appraises the evidence of a VM that an update has started.
pub trait Judge: Send + Sync {
    /// Requests the guest's evidence and appraises it.
    fn judge(&self, asked: Asked) -> Judging;
}

/// Appraises evidence as a client with the given policy would.
#[derive(Debug, Clone, Copy, Default)]
pub struct AsClients;

impl Judge for AsClients {
    fn judge(&self, asked: Asked) -> Judging {
        Box::pin(async move {
            let judged = timeout(PATIENCE, examine(&asked)).await;
            let seconds = PATIENCE.as_secs();
            let late = |_| format!("it showed none within {seconds} seconds");
            let verdict = judged.map_err(late)?.map_err(|error| chain(&error))?;
            let by = match &asked.policy {
                Some(path) => format!(" (policy {})", path.display()),
                None => String::new(),
            };
            match verdict.class {
                Class::Rejected => Err(failures(&verdict) + &by),
                Class::Simulated => Ok(format!("its evidence is accepted as simulated{by}")),
                Class::Confidential => Ok(format!("its evidence is accepted as confidential{by}")),
            }
        })
    }
}

/// Why an appraisal gave no verdict.
#[derive(Debug, thiserror::Error)]
pub enum ExamineError {
    /// A file cannot be read.
    #[error("cannot read {path:?}")]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// The error of the system.
        #[source]
        source: std::io::Error,
    },
    /// The manifest is not accepted.
    #[error(transparent)]
    Manifest(#[from] ManifestRefusal),
    /// The policy file is unusable.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The file of the development root holds no certificate.
    #[error("{path:?} holds no certificate in PEM")]
    Root {
        /// Path of the file.
        path: PathBuf,
    },
    /// The guest gave no evidence.
    #[error(transparent)]
    Guest(#[from] GuestError),
    /// The appraisal panicked.
    #[error("the appraisal broke off")]
    Lost,
}

/// Requests fresh evidence from the guest and appraises it as a client that trusts this manifest would.
///
/// # Errors
/// Fails with [`ExamineError`] if there is no verdict. A verdict that rejects the evidence is not an error.
pub async fn examine(asked: &Asked) -> Result<Verdict, ExamineError> {
    let now = clock();
    let bytes = read(&asked.manifest, MAX_MANIFEST_LEN)?;
    // The update has already checked the signatures; the manifest is pinned, so that only the evidence matters here.
    let file = asked.policy.as_deref().map(PolicyFile::load).transpose()?;
    let file = file.unwrap_or_default();
    let believed = ManifestTrust {
        pinned: vec![manifest_id(&bytes)],
        allow_unlocked: true,
        release_floor: file.believed().release_floor,
        ..ManifestTrust::default()
    };
    let manifest = trust(&bytes, None, &believed, now)?;
    let mut policy = file.policy;
    if let Some(path) = &asked.trust_root {
        policy.development_roots = roots(path)?;
    }
    let shown = show(asked.guest).await?;
    let judged = tokio::task::spawn_blocking(move || {
        let Shown {
            document,
            leaf_spki_sha256,
            handshake_gpus,
            fresh,
            ..
        } = shown;
        let presented = Presented {
            document: &document,
            leaf_spki_sha256,
            fresh: Some(fresh),
            handshake_gpus,
        };
        appraise(&presented, &manifest, &policy, now)
    });
    judged.await.map_err(|_| ExamineError::Lost)
}

fn roots(path: &Path) -> Result<Vec<Vec<u8>>, ExamineError> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;
    let pem = read(path, 64 * 1024)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let found = found.unwrap_or_default();
    if found.is_empty() {
        let path = path.to_owned();
        return Err(ExamineError::Root { path });
    }
    Ok(found.into_iter().map(|der| der.to_vec()).collect())
}

fn read(path: &Path, limit: usize) -> Result<Vec<u8>, ExamineError> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(limit as u64 + 1).read_to_end(&mut bytes))
        .map_err(|source| ExamineError::Read {
            path: path.to_owned(),
            source,
        })?;
    Ok(bytes)
}

fn failures(verdict: &Verdict) -> String {
    let failed = verdict
        .checks
        .iter()
        .filter(|check| check.outcome == Outcome::Fail);
    let words = failed.take(3).map(|check| match &check.cause {
        Some(cause) => format!("{}: {cause}", check.title),
        None => check.title.clone(),
    });
    plain(&words.collect::<Vec<_>>().join("; "), 800)
}
