//! Published documents that are read from files: manifests, tables and collateral.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use cocoon_measurements::manifest::MAX_ENVELOPE_LEN;
use cocoon_protocol::bytes::Hex32;
use cocoon_protocol::manifest::{MAX_MANIFEST_LEN, Manifest, SnpLaunch, TdxPlatform, manifest_id};
use serde::Serialize;

use super::{BYTES, Document, JSON};
use crate::collateral::store::{Entry, Store};
use crate::daemon::api::View;
use crate::tables;
use crate::update::Deployment;
use crate::web::Cache;

/// Largest file of tables or collateral that is published, in bytes.
const MAX_FILE: usize = 8 << 20;
/// Largest number of collateral entries that are listed.
const MAX_ENTRIES: usize = 1024;

/// Returns the path of a deployment's manifest, or of its signatures.
pub(super) fn path(deployment: &Deployment, signatures: bool) -> PathBuf {
    let own = || deployment.image.join("manifest.json");
    let mut path = deployment
        .manifest
        .clone()
        .unwrap_or_else(own)
        .into_os_string();
    if signatures {
        path.push(".dsse");
    }
    path.into()
}

/// Returns the manifest that an appliance runs with, or would run with if it is stopped.
fn own(view: &View) -> Option<Vec<u8>> {
    let running = view.report.as_ref();
    let running = running.and_then(|report| report.manifest_id.as_deref());
    let Some(id) = running else {
        return read(&path(&view.deployment, false), MAX_MANIFEST_LEN);
    };
    // The VM's own copy is used: the one in the image folder may have been replaced since the start.
    let bytes = read(&view.folder.join("manifest.json"), MAX_MANIFEST_LEN)?;
    (manifest_id(&bytes).to_string() == id).then_some(bytes)
}

/// Returns the manifest that an appliance runs, or would run, or its signatures. Signatures count only while the file
/// beside them is that same manifest.
pub(super) fn current(view: &View, signatures: bool, cache: Cache) -> Option<Document> {
    let mut bytes = own(view)?;
    if signatures {
        let beside = read(&path(&view.deployment, false), MAX_MANIFEST_LEN)?;
        if beside != bytes {
            return None;
        }
        bytes = read(&path(&view.deployment, true), MAX_ENVELOPE_LEN)?;
    }
    Some(Document {
        kind: JSON,
        bytes,
        cache,
    })
}

/// Returns the manifest of the host if all its appliances have the same one.
pub(super) fn only_manifest(views: &[View], signatures: bool) -> Option<Document> {
    let (first, rest) = views.split_first()?;
    let same = |view: &View| view.deployment.manifest_id == first.deployment.manifest_id;
    if !rest.iter().all(same) {
        return None;
    }
    current(first, signatures, Cache::Seconds(super::CHANGES))
}

/// Returns `ID.json` or `ID.json.dsse` for a manifest that an appliance runs or ran before.
pub(super) fn manifest(views: &[View], name: &str) -> Option<Document> {
    let (id, signatures) = match name.strip_suffix(".json.dsse") {
        Some(id) => (id, true),
        None => (name.strip_suffix(".json")?, false),
    };
    let id: Hex32 = id.parse().ok()?;
    let mut deployments = views
        .iter()
        .flat_map(|view| [Some(&view.deployment), view.previous.as_ref()])
        .flatten()
        .filter(|deployment| deployment.manifest_id == Some(id));
    let deployment = deployments.next()?;
    let bytes = read(&path(deployment, false), MAX_MANIFEST_LEN)?;
    // The name promises a digest: a file that was edited since is no longer published under it.
    if manifest_id(&bytes) != id {
        return None;
    }
    Some(match signatures {
        false => Document {
            kind: JSON,
            bytes,
            cache: Cache::Forever,
        },
        // Signatures may be added later, so they are not cached for ever.
        true => Document {
            kind: JSON,
            bytes: read(&path(deployment, true), MAX_ENVELOPE_LEN)?,
            cache: Cache::Seconds(super::CHANGES),
        },
    })
}

/// An appliance's machine and the reference values that its manifest lists for it.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Platform {
    tee: String,
    simulated: bool,
    vcpus: u16,
    memory_mib: u32,
    manifest_id: Hex32,
    /// TDX: listed platforms with this memory size; the machine may be any of them.
    tdx: Vec<TdxPlatform>,
    /// SEV-SNP: listed launch digests for this number of vCPUs.
    snp: Vec<SnpLaunch>,
}

/// Returns `platform.json` of an appliance.
pub(super) fn platform(view: &View) -> Option<Platform> {
    let bytes = own(view)?;
    let manifest = Manifest::parse(&bytes).ok()?;
    let tee = view.tee.strip_prefix("simulated-").unwrap_or(&view.tee);
    let (mut tdx, mut snp) = (manifest.tdx.platforms, manifest.snp.launch);
    tdx.retain(|shape| tee == "tdx" && shape.memory_mib == u64::from(view.memory_mib));
    snp.retain(|launch| tee == "sev-snp" && launch.vcpus == u32::from(view.vcpus));
    Some(Platform {
        tee: tee.to_owned(),
        simulated: tee != view.tee,
        vcpus: view.vcpus,
        memory_mib: view.memory_mib,
        manifest_id: manifest_id(&bytes),
        tdx,
        snp,
    })
}

/// Returns the folder in which `cocoon-host tables --out` leaves an appliance's tables for publication.
pub(super) fn tables_of(state: &Path, name: &str) -> PathBuf {
    state.join("tables").join(name)
}

pub(super) fn table(state: &Path, views: &[View], name: &str, file: &str) -> Option<Document> {
    let known = tables::FILES.contains(&file) && views.iter().any(|view| view.name == name);
    let bytes = known.then(|| read(&tables_of(state, name).join(file), MAX_FILE))??;
    Some(Document {
        kind: BYTES,
        bytes,
        cache: Cache::Seconds(super::CHANGES),
    })
}

/// Returns the collateral entries: what each object is for and when it was fetched.
pub(super) fn entries(folder: &Path) -> Vec<Entry> {
    let mut entries = Store::reading(folder).entries();
    entries.truncate(MAX_ENTRIES);
    entries
}

/// Returns the digests of the collateral entries, sorted and without duplicates.
pub(super) fn digests(folder: &Path) -> Vec<Hex32> {
    let mut digests: Vec<Hex32> = entries(folder).iter().map(|entry| entry.digest).collect();
    digests.sort_by_key(|digest| digest.0);
    digests.dedup();
    digests
}

/// Returns the collateral object with this digest, if its bytes still match.
pub(super) fn object(folder: &Path, digest: &str) -> Option<Document> {
    let digest: Hex32 = digest.parse().ok()?;
    let bytes = read(&folder.join("objects").join(digest.to_string()), MAX_FILE)?;
    (Hex32::sha256(&bytes) == digest).then_some(Document {
        kind: BYTES,
        bytes,
        cache: Cache::Forever,
    })
}

/// Returns the contents of `path` if it is a regular file of at most `limit` bytes.
pub(super) fn read(path: &Path, limit: usize) -> Option<Vec<u8>> {
    let file = File::open(path).ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(limit as u64 + 1).read_to_end(&mut bytes).ok()?;
    (bytes.len() <= limit).then_some(bytes)
}
