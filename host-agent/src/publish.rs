//! What this host publishes under `/.well-known/cocoon/`: manifests with their signatures, the platform values of its
//! appliances, their evidence, and vendors' collateral. `docs/publishing.md` describes the format for readers outside
//! the project.
//!
//! Readers need not trust the host: manifests, evidence and collateral are all authenticated by their signatures. Every
//! document is read on request, within a size limit, and its bytes do not depend on the requester.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::http::request::Parts;

use crate::daemon::api::View;
use crate::web::{Cache, Page, Route};

mod evidence;
mod files;
mod index;

pub use evidence::{Asking, OverTls, Published, Showing};
pub use index::{Index, Listed, Named};

use evidence::Evidence;

/// Path prefix of all published documents.
pub const ROOT: &str = "/.well-known/cocoon/";
/// Cache lifetime of documents that may change, in seconds.
const CHANGES: u32 = 60;

/// Sources from which the documents are made.
pub struct Sources {
    /// Returns the current view of every appliance.
    pub views: Arc<dyn Fn() -> Vec<View> + Send + Sync>,
    /// The daemon's state folder.
    pub state: PathBuf,
    /// The collateral folder, which need not exist.
    pub collateral: PathBuf,
    /// Requests evidence from guests.
    pub showing: Arc<dyn Showing>,
}

/// A document: its media type, its bytes and how long it may be cached.
#[derive(Clone)]
struct Document {
    kind: &'static str,
    bytes: Vec<u8>,
    cache: Cache,
}

const JSON: &str = "application/json";
const BYTES: &str = "application/octet-stream";

/// Returns the routes that serve the published documents.
#[must_use]
pub fn routes(sources: Sources) -> Vec<Route> {
    let publisher = Arc::new(Publisher {
        index: Mutex::default(),
        evidence: Evidence::new(Arc::clone(&sources.showing)),
        sources,
    });
    let answer = move |parts: Parts| {
        let publisher = Arc::clone(&publisher);
        async move { publisher.answer(parts.uri.path()).await }
    };
    let bare = ROOT.trim_end_matches('/');
    vec![
        Route::exact(bare, answer.clone()),
        Route::exact(ROOT, answer.clone()),
        Route::below(ROOT, answer),
    ]
}

struct Publisher {
    /// The latest index and when it was made. It is kept because making one hashes every document.
    index: Mutex<Option<(Instant, Document)>>,
    sources: Sources,
    evidence: Evidence,
}

impl Publisher {
    async fn answer(self: Arc<Self>, path: &str) -> Page {
        let rest = path.strip_prefix(ROOT).unwrap_or_default();
        let parts: Vec<String> = rest.split('/').map(str::to_owned).collect();
        let views = (self.sources.views)();
        let found = match &parts[..] {
            [appliances, name, document]
                if appliances == "appliances" && document == "evidence.json" =>
            {
                let view = views.iter().find(|view| view.name == *name);
                match view {
                    Some(view) => self.evidence.of(view).await,
                    None => None,
                }
            }
            _ => {
                let read = tokio::task::spawn_blocking(move || self.file(&parts, &views));
                read.await.unwrap_or_default()
            }
        };
        let Some(document) = found else {
            return Page::missing();
        };
        // Verifiers may run in pages of other sites, and nothing published here is secret.
        Page::new(document.kind, document.bytes)
            .cached(document.cache)
            .with("access-control-allow-origin", "*")
    }

    /// Returns the index. The lock is held while one is made, so that concurrent requests wait for it instead of making
    /// their own.
    fn index(&self, views: &[View]) -> Document {
        let mut kept = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        let life = Duration::from_secs(CHANGES.into());
        match &*kept {
            Some((at, document)) if at.elapsed() < life => document.clone(),
            _ => {
                let document = json(&index::index(&self.sources, views), CHANGES);
                *kept = Some((Instant::now(), document.clone()));
                document
            }
        }
    }

    fn file(&self, parts: &[String], views: &[View]) -> Option<Document> {
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        match parts[..] {
            [""] | ["index.json"] => Some(self.index(views)),
            ["manifest.json"] => files::only_manifest(views, false),
            ["manifest.json.dsse"] => files::only_manifest(views, true),
            ["manifests", name] => files::manifest(views, name),
            ["appliances", name, rest] => {
                let view = views.iter().find(|view| view.name == name)?;
                match rest {
                    "manifest.json" => files::current(view, false, Cache::Seconds(CHANGES)),
                    "manifest.json.dsse" => files::current(view, true, Cache::Seconds(CHANGES)),
                    "platform.json" => Some(json(&files::platform(view)?, CHANGES)),
                    _ => None,
                }
            }
            ["appliances", name, "tables", file] => {
                files::table(&self.sources.state, views, name, file)
            }
            ["collateral", "entries.json"] => {
                Some(json(&files::entries(&self.sources.collateral), CHANGES))
            }
            ["collateral", digest] => files::object(&self.sources.collateral, digest),
            _ => None,
        }
    }
}

fn json(value: &impl serde::Serialize, seconds: u32) -> Document {
    Document {
        kind: JSON,
        // The values are the host agent's own types, so serialisation cannot fail.
        bytes: serde_json::to_vec_pretty(value).unwrap_or_default(),
        cache: Cache::Seconds(seconds),
    }
}

#[cfg(test)]
mod tests;
