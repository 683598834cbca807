//! `index.json`: every document of this host, with its digest.

use cocoon_protocol::bytes::Hex32;
use serde::{Deserialize, Serialize};

use super::{Document, ROOT, Sources, files, json};
use crate::daemon::api::View;
use crate::tables;
use crate::web::Cache;

/// Version of its schema.
const VERSION: u16 = 1;

/// `index.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Index {
    /// 1.
    pub version: u16,
    /// What runs here.
    pub appliances: Vec<Listed>,
    /// Vendors' collateral, by digest: `collateral/DIGEST`.
    pub collateral: Vec<Hex32>,
}

/// An appliance in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// Port of its public listener: its address is for whoever knows this host by name.
    pub port: u16,
    /// `tdx`, `sev-snp`, `simulated-tdx` or `simulated-sev-snp`.
    pub tee: String,
    /// Whether it serves now.
    pub serves: bool,
    /// Identity of its manifest.
    pub manifest_id: Option<Hex32>,
    /// The release that it is of.
    pub release: Option<u64>,
    /// Its documents.
    pub documents: Vec<Named>,
}

/// A document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Named {
    /// Its path on this host.
    pub path: String,
    /// SHA-256 of its bytes now; `null` for evidence, which is fetched when it is asked for.
    pub sha256: Option<Hex32>,
    /// Its length in bytes now.
    pub size: Option<usize>,
}

pub(super) fn index(sources: &Sources, views: &[View]) -> Index {
    Index {
        version: VERSION,
        appliances: views.iter().map(|view| listed(sources, view)).collect(),
        collateral: files::digests(&sources.collateral),
    }
}

fn listed(sources: &Sources, view: &View) -> Listed {
    let short = Cache::Seconds(super::CHANGES);
    let own = |file: &str| format!("{ROOT}appliances/{}/{file}", view.name);
    let mut documents = vec![];
    let mut name = |path: String, found: Option<Document>| {
        if let Some(document) = found {
            documents.push(Named {
                path,
                sha256: Some(Hex32::sha256(&document.bytes)),
                size: Some(document.bytes.len()),
            });
        }
    };
    name(own("manifest.json"), files::current(view, false, short));
    name(own("manifest.json.dsse"), files::current(view, true, short));
    let platform = files::platform(view).map(|platform| json(&platform, super::CHANGES));
    name(own("platform.json"), platform);
    let views = std::slice::from_ref(view);
    for file in tables::FILES {
        let table = files::table(&sources.state, views, &view.name, file);
        name(own(&format!("tables/{file}")), table);
    }
    let report = view.report.as_ref();
    let serves = view.life.state.name() == "serving";
    if serves && report.is_some_and(|report| report.guest.is_some()) {
        documents.push(Named {
            path: own("evidence.json"),
            sha256: None,
            size: None,
        });
    }
    Listed {
        name: view.name.clone(),
        port: report
            .and_then(|report| report.endpoint)
            .map_or(view.listen.port(), |endpoint| endpoint.port()),
        tee: view.tee.clone(),
        serves,
        manifest_id: view.deployment.manifest_id,
        release: view.deployment.release,
        documents,
    }
}
