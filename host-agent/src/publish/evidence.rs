//! `evidence.json`: a guest's evidence, requested at most once per interval however many clients ask the host.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use cocoon_protocol::bytes::Hex32;
use cocoon_protocol::document;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex as Turns;
use tokio::time::timeout;

use super::{Document, json};
use crate::attest::{GuestError, Shown, show};
use crate::daemon::api::View;

/// How long evidence is served from memory before the guest is asked again.
const KEPT: Duration = Duration::from_secs(300);
/// How long a guest that failed to answer is not asked again.
const LEFT_ALONE: Duration = Duration::from_secs(30);
/// How long a guest may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A guest's attestation document with everything that its evidence is bound to: enough to appraise it offline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Published {
    /// Schema version, always 1.
    pub version: u16,
    /// Run of the appliance that the evidence belongs to.
    pub run: u64,
    /// Time of the evidence, in seconds since 1970 on this host's clock.
    pub time: u64,
    /// SHA-256 of the SubjectPublicKeyInfo of the guest's certificate.
    pub leaf_spki_sha256: Hex32,
    /// TLS exporter of the host's session with the guest, to which the evidence is bound. The session is over and
    /// carried nothing else.
    pub exporter: Hex32,
    /// The attestation document, including the nonce.
    pub document: document::Document,
}

/// A pending request for a guest's evidence.
pub type Asking = Pin<Box<dyn Future<Output = Result<Shown, GuestError>> + Send>>;

/// Requests evidence from guests.
pub trait Showing: Send + Sync {
    /// Requests the evidence of the guest at this address.
    fn ask(&self, guest: SocketAddr) -> Asking;
}

/// Requests evidence over TLS, as clients do.
#[derive(Debug, Clone, Copy, Default)]
pub struct OverTls;

impl Showing for OverTls {
    fn ask(&self, guest: SocketAddr) -> Asking {
        Box::pin(show(guest))
    }
}

pub(super) struct Evidence {
    showing: Arc<dyn Showing>,
    kept: Mutex<HashMap<String, Arc<Turns<Option<Kept>>>>>,
}

/// The latest answer of one appliance, or its failure to answer.
struct Kept {
    of: Of,
    at: Instant,
    found: Option<Vec<u8>>,
}

/// Identifies a VM. The run number alone does not: each of an appliance's two slots counts its own runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Of {
    run: u64,
    supervisor: u32,
    guest: SocketAddr,
}

impl Kept {
    fn counts(&self, of: Of) -> bool {
        let life = if self.found.is_some() {
            KEPT
        } else {
            LEFT_ALONE
        };
        self.of == of && self.at.elapsed() < life
    }
}

impl Evidence {
    pub(super) fn new(showing: Arc<dyn Showing>) -> Self {
        Self {
            showing,
            kept: Mutex::default(),
        }
    }

    /// Returns the evidence of a serving appliance. Each guest gets one request at a time, which continues even if the
    /// requester leaves.
    pub(super) async fn of(&self, view: &View) -> Option<Document> {
        let report = view.report.as_ref()?;
        let of = Of {
            run: view.life.run,
            supervisor: report.pid,
            guest: report.guest?,
        };
        let turns = {
            let mut all = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(all.entry(view.name.clone()).or_default())
        };
        let mut kept = turns.lock_owned().await;
        if !kept.as_ref().is_some_and(|kept| kept.counts(of)) {
            let asking = self.showing.ask(of.guest);
            // The request runs as its own task: a client that disconnects early must not let the next one ask the guest
            // again at once.
            let asked = tokio::spawn(async move {
                let found = published(of.run, asking).await;
                let at = Instant::now();
                *kept = Some(Kept { of, at, found });
                kept
            });
            kept = asked.await.ok()?;
        }
        let bytes = kept.as_ref()?.found.clone()?;
        Some(Document {
            bytes,
            ..json(&(), super::CHANGES)
        })
    }
}

async fn published(run: u64, asking: Asking) -> Option<Vec<u8>> {
    let shown = timeout(PATIENCE, asking).await.ok()?.ok()?;
    let published = Published {
        version: 1,
        run,
        time: crate::collateral::keeper::clock(),
        leaf_spki_sha256: shown.leaf_spki_sha256,
        exporter: shown.fresh.exporter,
        document: shown.document,
    };
    serde_json::to_vec(&published).ok()
}
