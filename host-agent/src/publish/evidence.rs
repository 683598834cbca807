//! `evidence.json`: what a guest shows, asked for at most once in a while, however many ask us.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cocoon_protocol::bytes::Hex32;
use cocoon_protocol::document;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
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
    kept: Mutex<HashMap<String, Kept>>,
}

/// One appliance's, for its last run that was asked.
struct Kept {
    run: u64,
    guest: SocketAddr,
    at: Instant,
    found: Option<Vec<u8>>,
}

impl Kept {
    fn counts(&self, run: u64, guest: SocketAddr) -> bool {
        let life = if self.found.is_some() {
            KEPT
        } else {
            LEFT_ALONE
        };
        self.run == run && self.guest == guest && self.at.elapsed() < life
    }
}

impl Evidence {
    pub(super) fn new(showing: Arc<dyn Showing>) -> Self {
        Self {
            showing,
            kept: Mutex::default(),
        }
    }

    /// Of an appliance that serves; one question at a time, over all appliances.
    pub(super) async fn of(&self, view: &View) -> Option<Document> {
        let report = view.report.as_ref()?;
        let (run, guest) = (view.life.run, report.guest?);
        let mut kept = self.kept.lock().await;
        if !kept
            .get(&view.name)
            .is_some_and(|kept| kept.counts(run, guest))
        {
            let found = self.ask(run, guest).await;
            let at = Instant::now();
            let new = Kept {
                run,
                guest,
                at,
                found,
            };
            kept.insert(view.name.clone(), new);
        }
        let bytes = kept.get(&view.name)?.found.clone()?;
        Some(Document {
            bytes,
            ..json(&(), super::CHANGES)
        })
    }

    async fn ask(&self, run: u64, guest: SocketAddr) -> Option<Vec<u8>> {
        let shown = timeout(PATIENCE, self.showing.ask(guest))
            .await
            .ok()?
            .ok()?;
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let published = Published {
            version: 1,
            run,
            time: since.map_or(0, |since| since.as_secs()),
            leaf_spki_sha256: shown.leaf_spki_sha256,
            exporter: shown.fresh.exporter,
            document: shown.document,
        };
        serde_json::to_vec(&published).ok()
    }
}
