//! `index.json`: lists every document of this host with its digest.

use cocoon_protocol::bytes::Hex32;
use serde::{Deserialize, Serialize};

use super::{Document, ROOT, Sources, files, json};
use crate::daemon::api::View;
use crate::tables;
use crate::web::Cache;

/// Version of the index schema.
const VERSION: u16 = 1;

/// Contents of `index.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Index {
    /// Schema version, always 1.
    pub version: u16,
    /// Appliances of this host.
    pub appliances: Vec<Listed>,
    /// Digests of the vendors' collateral, served as `collateral/DIGEST`.
    pub collateral: Vec<Hex32>,
}

/// An appliance in the index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listed {
    /// Name of the appliance.
    pub name: String,
    /// Port of its public listener. The address is left out: clients know the host by its name.
    pub port: u16,
    /// `tdx`, `sev-snp`, `simulated-tdx` or `simulated-sev-snp`.
    pub tee: String,
    /// Whether the appliance serves now.
    pub serves: bool,
    /// Identity of its manifest; `None` if the manifest cannot be read.
    pub manifest_id: Option<Hex32>,
    /// Release that the manifest names.
    pub release: Option<u64>,
    /// Documents of the appliance.
    pub documents: Vec<Named>,
}

/// A document in the index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Named {
    /// Path of the document on this host.
    pub path: String,
    /// SHA-256 of its current bytes; `null` for evidence, which is fetched on request.
    pub sha256: Option<Hex32>,
    /// Current length in bytes; `null` for evidence.
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
