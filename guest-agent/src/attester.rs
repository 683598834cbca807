//! Produces attestation documents for bindings: once at boot, then for sessions, with one TEE call at a time. Sessions that
//! wait during a call share the next one, over a Merkle root of their bindings.
//!
//! All limits apply before the TEE is called: a bounded queue here, attempts per connection in [`crate::api`]. Requests
//! whose client has gone, or that waited too long, are left out of the call.

use std::sync::Arc;
use std::time::Duration;

use cocoon_protocol::batch::{self, Batch, Shared};
use cocoon_protocol::binding::{self, Claims, Freshness};
use cocoon_protocol::bytes::{Blob, Hex32};
use cocoon_protocol::document::{
    Collateral, DOCUMENT_VERSION, Document, Evidence, Kind, MAX_BOOT_DOCUMENT_LEN, MAX_DOCUMENT_LEN,
};
use cocoon_protocol::pieces::{MAX_PIECES_LEN, Pieces};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};

use crate::gpu::gate::Proven;
use crate::gpu::{Gate, GateError};
use crate::tee::{Tee, TeeError, check_asked};

/// Sessions that may wait for evidence at once, equal to the number that one call serves.
pub const QUEUE: usize = batch::MAX_LEAVES;
/// How long a session waits for its evidence.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Why there is no attestation document.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AttestError {
    /// The TEE returned no evidence.
    #[error("cannot collect evidence")]
    Tee(#[source] Arc<TeeError>),
    /// The GPUs returned no evidence, or it did not verify.
    #[error("cannot collect evidence of the GPUs")]
    Gpus(#[source] GateError),
    /// The launch measured another configuration than the host sent.
    #[error("the host's configuration is not the one that the launch measured")]
    Configuration,
    /// The document is longer than verifiers accept.
    #[error("attestation document of {found} bytes exceeds the limit of {limit}")]
    TooLong {
        /// Length of the document in bytes.
        found: usize,
        /// Limit in bytes.
        limit: usize,
    },
    /// The collateral is larger than clients fetch.
    #[error(
        "the host's collateral has {found} bytes, more than the {MAX_PIECES_LEN} that clients fetch"
    )]
    Collateral {
        /// Size of the collateral in bytes.
        found: usize,
    },
    /// The queue of sessions is full.
    #[error("{QUEUE} sessions are waiting for evidence")]
    Busy,
    /// The session missed its deadline.
    #[error("evidence took longer than {} s", DEADLINE.as_secs())]
    Late,
}

/// A boot document, which proves that evidence for the boot's keys exists. Only [`boot`] creates it.
pub struct BootEvidence {
    leaf_spki_sha256: Hex32,
    document: Vec<u8>,
    evidence: Evidence,
}

impl BootEvidence {
    /// Returns the SHA-256 of the leaf key's SubjectPublicKeyInfo, to which the evidence commits.
    pub fn leaf_spki_sha256(&self) -> Hex32 {
        self.leaf_spki_sha256
    }

    /// Returns the CPU evidence without its event log. It shows which collateral is needed.
    pub fn evidence(&self) -> &Evidence {
        &self.evidence
    }

    /// Returns the document as JSON, for the certificate.
    pub fn document(&self) -> &[u8] {
        &self.document
    }
}

/// Contents that all documents of this boot share.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Claims that the evidence binds.
    pub claims: Claims,
    /// Canonical bytes of the operator's configuration.
    pub config: Blob,
}

/// Collects evidence for the boot binding. Blocks.
pub fn boot(tee: &dyn Tee, identity: &Identity) -> Result<BootEvidence, AttestError> {
    let data = binding::report_data(&binding::boot(&identity.claims));
    let wrap = |error| AttestError::Tee(Arc::new(error));
    let mut evidence = tee.report(&data).map_err(wrap)?;
    if check_asked(&evidence, tee.kind(), &data).map_err(wrap)? != identity.claims.config_digest {
        return Err(AttestError::Configuration);
    }
    if let Evidence::Tdx { event_log, .. } = &mut evidence {
        // Keeps the certificate small; session documents contain the log.
        *event_log = Blob::default();
    }
    let document = document(identity, Kind::Boot, evidence);
    Ok(BootEvidence {
        leaf_spki_sha256: identity.claims.leaf_spki_sha256,
        document: encode(&document, MAX_BOOT_DOCUMENT_LEN)?,
        evidence: document.evidence,
    })
}

/// Returns the nonce for the GPUs at boot, when the claims cannot contain the GPUs' keys yet.
pub fn boot_gpu_nonce(claims: &Claims) -> Hex32 {
    binding::gpu_nonce(&binding::boot(claims))
}

/// Queue of sessions in front of the TEE and the GPUs. Clones share the queue.
#[derive(Clone)]
pub struct Attester {
    queue: mpsc::Sender<Job>,
    model_digest: Hex32,
    gpus: Option<Arc<Gate>>,
}

/// Answer to a session's attestation request.
#[derive(Clone, Debug)]
pub struct Shown {
    /// The document as JSON, which names its collateral by digest.
    pub document: Vec<u8>,
    /// The named collateral, sent when the client requests it.
    pub collateral: Arc<Pieces>,
}

struct Job {
    fresh: Freshness,
    until: Instant,
    answer: oneshot::Sender<Result<Shown, AttestError>>,
}

impl Attester {
    /// Starts the task that calls the TEE, on a machine without GPUs.
    pub fn start(
        tee: Arc<dyn Tee>,
        identity: Identity,
        collateral: watch::Receiver<Option<Collateral>>,
    ) -> Self {
        Self::with_gpus(tee, None, identity, collateral)
    }

    /// Starts the task that calls the TEE and, if there are any, the GPUs. Every session's document includes their evidence.
    pub fn with_gpus(
        tee: Arc<dyn Tee>,
        gpus: Option<Arc<Gate>>,
        identity: Identity,
        collateral: watch::Receiver<Option<Collateral>>,
    ) -> Self {
        let gate = gpus.clone();
        let (queue, mut jobs) = mpsc::channel(QUEUE);
        let model_digest = identity.claims.model_digest;
        tokio::spawn(async move {
            while let Some(first) = jobs.recv().await {
                let waiting = gather(first, &mut jobs);
                if waiting.is_empty() {
                    continue;
                }
                let (tee, gpus, identity) = (Arc::clone(&tee), gate.clone(), identity.clone());
                let stapled = collateral.borrow().clone();
                let (fresh, answers): (Vec<_>, Vec<_>) = waiting
                    .into_iter()
                    .map(|job| (job.fresh, job.answer))
                    .unzip();
                let made = tokio::task::spawn_blocking(move || {
                    sessions((&*tee, gpus.as_deref()), identity, &fresh, stapled)
                })
                .await;
                // Clients may be gone. In the appliance a panic ends the machine and never reaches this line. Where panics
                // unwind, the answers are dropped and sessions end with `Late`.
                for (answer, made) in answers.into_iter().zip(made.into_iter().flatten()) {
                    let _ = answer.send(made);
                }
            }
        });
        Self {
            queue,
            model_digest,
            gpus,
        }
    }

    /// Returns the GPUs whose evidence the documents include.
    pub fn gpus(&self) -> Option<&Arc<Gate>> {
        self.gpus.as_ref()
    }

    /// Returns the model digest of every document.
    pub fn model_digest(&self) -> Hex32 {
        self.model_digest
    }

    /// Returns the number of sessions that wait for the next call.
    pub fn waiting(&self) -> usize {
        self.queue.max_capacity() - self.queue.capacity()
    }

    /// Returns the document of one session.
    pub async fn session(&self, fresh: Freshness) -> Result<Shown, AttestError> {
        let until = Instant::now() + DEADLINE;
        let (answer, made) = oneshot::channel();
        self.queue
            .try_send(Job {
                fresh,
                until,
                answer,
            })
            .map_err(|_| AttestError::Busy)?;
        match timeout_at(until, made).await {
            Ok(Ok(made)) => made,
            Ok(Err(_)) | Err(_) => Err(AttestError::Late),
        }
    }
}

/// Returns `first` and waiting jobs, up to a full batch, without those whose client has gone or whose deadline passed.
fn gather(first: Job, jobs: &mut mpsc::Receiver<Job>) -> Vec<Job> {
    let now = Instant::now();
    let behind = std::iter::from_fn(|| jobs.try_recv().ok());
    let wanted = |job: &Job| !job.answer.is_closed() && now < job.until;
    std::iter::once(first)
        .chain(behind)
        .filter(wanted)
        .take(batch::MAX_LEAVES)
        .collect()
}

/// Produces the documents of all sessions with one call, in order. A failure of the call applies to all sessions.
fn sessions(
    sources: (&dyn Tee, Option<&Gate>),
    identity: Identity,
    fresh: &[Freshness],
    collateral: Option<Collateral>,
) -> Vec<Result<Shown, AttestError>> {
    collect(sources, identity, fresh, collateral)
        .unwrap_or_else(|error| fresh.iter().map(|_| Err(error.clone())).collect())
}

/// Collects GPU evidence first and then CPU evidence, which commits to the GPU evidence.
fn collect(
    (tee, gpus): (&dyn Tee, Option<&Gate>),
    mut identity: Identity,
    fresh: &[Freshness],
    collateral: Option<Collateral>,
) -> Result<Vec<Result<Shown, AttestError>>, AttestError> {
    // The nonce for the GPUs cannot depend on their answer.
    identity.claims.gpu_section_digest = Hex32::ZERO;
    let mut shared = share(&identity.claims, fresh)?;
    let mut paths = Vec::new();
    let proven = match gpus {
        Some(gate) => {
            let proven = gate
                .evidence(&shared.gpu_nonce)
                .map_err(AttestError::Gpus)?;
            identity.claims.gpu_section_digest = proven.section.digest();
            let asked = std::mem::replace(&mut shared, share(&identity.claims, fresh)?);
            let path = |place: Option<Batch>| place.map_or_else(Vec::new, |place| place.path);
            paths = asked.places.into_iter().map(path).collect();
            Some(proven)
        }
        None => None,
    };
    let evidence = tee.report(&shared.report_data);
    let evidence = evidence.map_err(|error| AttestError::Tee(Arc::new(error)))?;
    let mut document = document(&identity, Kind::Session, evidence);
    document.collateral = collateral;
    if let Some(Proven {
        section,
        collateral,
    }) = proven
    {
        (document.gpu, document.gpu_collateral) = (Some(section), collateral);
    }
    let collateral = Arc::new(document.name_collateral());
    if collateral.encoded_len() > MAX_PIECES_LEN {
        let found = collateral.encoded_len();
        return Err(AttestError::Collateral { found });
    }
    let mut paths = paths.into_iter();
    let own = |(fresh, place): (&Freshness, Option<Batch>)| {
        document.nonce = fresh.nonce;
        document.batch = place;
        if let Some(section) = &mut document.gpu {
            section.path = paths.next().unwrap_or_default();
        }
        Ok(Shown {
            document: encode(&document, MAX_DOCUMENT_LEN)?,
            collateral: Arc::clone(&collateral),
        })
    };
    Ok(fresh.iter().zip(shared.places).map(own).collect())
}

/// Combines the sessions' bindings. Fails only for an empty or oversized batch, which never gets here.
fn share(claims: &Claims, fresh: &[Freshness]) -> Result<Shared, AttestError> {
    let own = |fresh| binding::session(claims, fresh);
    batch::share(&fresh.iter().map(own).collect::<Vec<_>>()).ok_or(AttestError::Busy)
}

/// Returns a document with a zero nonce and without collateral.
fn document(identity: &Identity, kind: Kind, evidence: Evidence) -> Document {
    Document {
        version: DOCUMENT_VERSION,
        kind,
        claims: identity.claims.clone(),
        nonce: Hex32::ZERO,
        evidence,
        config: identity.config.clone(),
        collateral: None,
        batch: None,
        gpu: None,
        gpu_collateral: None,
        named: None,
    }
}

fn encode(document: &Document, limit: usize) -> Result<Vec<u8>, AttestError> {
    let json = document.to_json();
    if json.len() > limit {
        return Err(AttestError::TooLong {
            found: json.len(),
            limit,
        });
    }
    Ok(json)
}
