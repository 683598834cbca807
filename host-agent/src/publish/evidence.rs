//! `evidence.json`: what a guest shows, asked for at most once in a while, however many ask us.

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

/// How long an answer is shown before the guest is asked again.
const KEPT: Duration = Duration::from_secs(300);
/// How long a guest is left alone that did not answer.
const LEFT_ALONE: Duration = Duration::from_secs(30);
/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a guest showed, with all that its evidence commits to: enough to judge it offline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Published {
    /// 1.
    pub version: u16,
    /// Which run of the appliance it is of.
    pub run: u64,
    /// Seconds since 1970 on this host's clock.
    pub time: u64,
    /// SHA-256 of the SubjectPublicKeyInfo of the guest's certificate.
    pub leaf_spki_sha256: Hex32,
    /// The exporter of the host's own, finished session, which the evidence is bound to. Nothing else was said over it.
    pub exporter: Hex32,
    /// The document, with the nonce in it.
    pub document: document::Document,
}

/// What is shown to come.
pub type Asking = Pin<Box<dyn Future<Output = Result<Shown, GuestError>> + Send>>;

/// Who asks guests for their evidence.
pub trait Showing: Send + Sync {
    /// Asks the guest at this address.
    fn ask(&self, guest: SocketAddr) -> Asking;
}

/// Over TLS, as clients do.
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

/// One appliance's, for its last run that was asked.
struct Kept {
    of: Of,
    at: Instant,
    found: Option<Vec<u8>>,
}

/// Which VM it is: runs are counted in each of an appliance's two places.
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

    /// Of an appliance that serves; one question to it at a time, which goes on when whoever put it has left.
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
            // The guest was asked, whoever hears the answer: leaving early must not let anybody ask again at once.
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
