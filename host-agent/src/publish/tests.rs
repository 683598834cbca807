//! Tests of which documents are found, and which are not, in folders like a daemon's.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use cocoon_protocol::bytes::{Hex, Hex32};
use cocoon_protocol::manifest::{
    MANIFEST_VERSION, Manifest, Model, PlatformSource, SnpLaunch, SnpReference, TdxPlatform,
    TdxReference, manifest_id,
};
use tempfile::TempDir;

use super::*;
use crate::attest::GuestError;
use crate::collateral::Dates;
use crate::collateral::store::Store;
use crate::collateral::want::Want;
use crate::lifecycle::{Lifecycle, State};
use crate::update::Deployment;

fn manifest(release: u64) -> Vec<u8> {
    let shape = |memory_mib| TdxPlatform {
        name: format!("simulated, {memory_mib} MiB"),
        memory_mib,
        vcpus: None,
        mmio64_mib: None,
        source: PlatformSource::Simulator,
        rtmr0_events: vec![],
    };
    let launch = |vcpus| SnpLaunch {
        cpu_model: "EPYC-v4".into(),
        vcpus,
        digest: Hex([8; 48]),
    };
    Manifest {
        version: MANIFEST_VERSION,
        release,
        variant: "cpu".into(),
        source_revision: "0".repeat(40),
        not_before: 1000,
        not_after: 2000,
        inputs_lock: Hex([1; 32]),
        unlocked: vec![],
        aml_guard: false,
        gpu: None,
        artefacts: BTreeMap::new(),
        cmdline: "quiet".into(),
        model: Model {
            id: "m".into(),
            verity_root: Hex([2; 32]),
            verity_salt: Hex([3; 32]),
            verity_data_blocks: 1,
            files: BTreeMap::new(),
        },
        tdx: TdxReference {
            mrtd: Hex([4; 48]),
            rtmr1: Hex([5; 48]),
            rtmr2: Hex([6; 48]),
            platforms: vec![shape(1024), shape(2048)],
        },
        snp: SnpReference {
            guest_features: 1,
            launch: vec![launch(1), launch(2)],
        },
    }
    .to_json()
}

fn view(folder: &TempDir, name: &str, tee: &str, release: u64) -> View {
    let image = folder.path().join(name);
    std::fs::create_dir_all(&image).unwrap();
    let bytes = manifest(release);
    std::fs::write(image.join("manifest.json"), &bytes).unwrap();
    std::fs::write(image.join("manifest.json.dsse"), "{}").unwrap();
    View {
        name: name.to_owned(),
        image: image.clone(),
        listen: "127.0.0.1:8443".parse().unwrap(),
        tee: tee.to_owned(),
        memory_mib: 2048,
        vcpus: 2,
        autostart: true,
        outdated: false,
        folder: image.clone(),
        deployment: Deployment {
            image,
            manifest: None,
            manifest_id: Some(manifest_id(&bytes)),
            release: Some(release),
            not_after: Some(2000),
        },
        previous: None,
        runs: 1,
        life: Lifecycle {
            state: State::Serving,
            ..Lifecycle::new(1)
        },
        report: None,
        update: None,
    }
}

/// A guest that counts requests and answers none.
#[derive(Default)]
struct Silent(AtomicUsize);

impl Showing for Silent {
    fn ask(&self, _: SocketAddr) -> Asking {
        self.0.fetch_add(1, Ordering::SeqCst);
        Box::pin(async { Err(GuestError::OtherNonce) })
    }
}

fn publisher(folder: &TempDir, views: Vec<View>) -> Publisher {
    let showing: Arc<dyn Showing> = Arc::new(Silent::default());
    Publisher {
        index: Mutex::default(),
        evidence: Evidence::new(Arc::clone(&showing)),
        sources: Sources {
            views: Arc::new(move || views.clone()),
            state: folder.path().to_owned(),
            collateral: folder.path().join("collateral"),
            showing,
        },
    }
}

fn found(publisher: &Publisher, path: &str) -> Option<Document> {
    let parts: Vec<String> = path.split('/').map(str::to_owned).collect();
    publisher.file(&parts, &(publisher.sources.views)())
}

#[test]
fn manifests_are_found_by_appliance_and_by_identity() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = view(&folder, "first", "tdx", 1);
    let older = view(&folder, "older", "tdx", 2).deployment;
    first.previous = Some(older.clone());
    let publisher = publisher(&folder, vec![first]);
    let bytes = manifest(1);
    let id = manifest_id(&bytes);
    for path in ["manifest.json", "appliances/first/manifest.json"] {
        let document = found(&publisher, path).unwrap();
        assert_eq!(
            (document.bytes, document.cache),
            (bytes.clone(), Cache::Seconds(60))
        );
        let signatures = found(&publisher, &format!("{path}.dsse")).unwrap();
        assert_eq!(signatures.bytes, b"{}");
    }
    let document = found(&publisher, &format!("manifests/{id}.json")).unwrap();
    assert_eq!((document.bytes, document.cache), (bytes, Cache::Forever));
    let signatures = found(&publisher, &format!("manifests/{id}.json.dsse")).unwrap();
    assert_eq!(signatures.cache, Cache::Seconds(60));
    let before = older.manifest_id.unwrap();
    assert!(found(&publisher, &format!("manifests/{before}.json")).is_some());
    // The file was edited, so it is no longer published under its old identity.
    std::fs::write(older.image.join("manifest.json"), manifest(3)).unwrap();
    assert!(found(&publisher, &format!("manifests/{before}.json")).is_none());
}

#[test]
fn hosts_with_several_manifests_name_none_as_theirs() {
    let folder = tempfile::tempdir().unwrap();
    let views = vec![
        view(&folder, "first", "tdx", 1),
        view(&folder, "second", "sev-snp", 2),
    ];
    let publisher = publisher(&folder, views);
    assert!(found(&publisher, "manifest.json").is_none());
    assert!(found(&publisher, "appliances/second/manifest.json").is_some());
}

#[test]
fn platform_values_are_those_of_the_machine() {
    let folder = tempfile::tempdir().unwrap();
    let first = view(&folder, "first", "simulated-tdx", 1);
    let platform = files::platform(&first).unwrap();
    let shown = serde_json::to_value(&platform).unwrap();
    assert_eq!(shown["tee"], "tdx");
    assert_eq!(
        (&shown["simulated"], &shown["snp"]),
        (&true.into(), &serde_json::json!([]))
    );
    assert_eq!(shown["tdx"].as_array().unwrap().len(), 1);
    assert_eq!(shown["tdx"][0]["memory_mib"], 2048);
    let second = view(&folder, "second", "sev-snp", 1);
    let shown = serde_json::to_value(files::platform(&second).unwrap()).unwrap();
    assert_eq!(
        (&shown["simulated"], &shown["tdx"]),
        (&false.into(), &serde_json::json!([]))
    );
    assert_eq!(shown["snp"][0]["vcpus"], 2);
}

#[test]
fn collateral_is_found_by_its_digest_alone() {
    let folder = tempfile::tempdir().unwrap();
    let publisher = publisher(&folder, vec![]);
    assert_eq!(
        found(&publisher, "collateral/entries.json").unwrap().bytes,
        b"[]"
    );
    let store = folder.path().join("collateral");
    let kept = Store::open(&store).unwrap();
    let bytes = b"a list of revoked keys";
    let entry = kept.put(&Want::RimNames, bytes, Dates { made: 1, due: 2 }, 1);
    let digest = entry.unwrap().digest;
    let object = store.join("objects").join(digest.to_string());
    let document = found(&publisher, &format!("collateral/{digest}")).unwrap();
    assert_eq!(document.bytes, b"a list of revoked keys");
    assert_eq!(document.cache, Cache::Forever);
    let entries = found(&publisher, "collateral/entries.json").unwrap().bytes;
    let entries: Vec<serde_json::Value> = serde_json::from_slice(&entries).unwrap();
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0]["digest"], digest.to_string());
    let index = index::index(&publisher.sources, &[]);
    assert_eq!(index.collateral, [digest]);
    std::fs::write(&object, "something else").unwrap();
    assert!(found(&publisher, &format!("collateral/{digest}")).is_none());
}

/// Path segments are looked up by name and never used to walk the file system.
#[test]
fn nothing_leads_out_of_the_folders() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("life.json"), "{}").unwrap();
    let publisher = publisher(&folder, vec![view(&folder, "first", "tdx", 1)]);
    for path in [
        "collateral/../life.json",
        "collateral/..",
        "collateral/%2e%2e",
        "appliances/../manifest.json",
        "appliances/first/tables/../../life.json",
        "appliances/first/tables/life.json",
        "appliances/first/life.json",
        "appliances/nobody/manifest.json",
        "manifests/manifest.json",
        "manifests/../first/manifest.json",
        "life.json",
        "first/manifest.json",
    ] {
        assert!(found(&publisher, path).is_none(), "{path}");
    }
}

#[test]
fn the_index_names_what_there_is_with_its_digest() {
    let folder = tempfile::tempdir().unwrap();
    let first = view(&folder, "first", "tdx", 1);
    let table = files::tables_of(folder.path(), "first");
    std::fs::create_dir_all(&table).unwrap();
    std::fs::write(table.join("smbios.bin"), "tables").unwrap();
    let publisher = publisher(&folder, vec![first]);
    let bytes = found(&publisher, "").unwrap().bytes;
    let index: Index = serde_json::from_slice(&bytes).unwrap();
    // The index is made again only after its cache lifetime.
    std::fs::remove_file(table.join("smbios.bin")).unwrap();
    assert_eq!(found(&publisher, "index.json").unwrap().bytes, bytes);
    std::fs::write(table.join("smbios.bin"), "tables").unwrap();
    let listed = &index.appliances[0];
    assert_eq!(
        (listed.port, listed.serves, listed.release),
        (8443, true, Some(1))
    );
    let names: Vec<&str> = listed
        .documents
        .iter()
        .map(|named| named.path.as_str())
        .collect();
    let expected = [
        "manifest.json",
        "manifest.json.dsse",
        "platform.json",
        "tables/smbios.bin",
    ];
    assert_eq!(
        names,
        expected.map(|name| format!("{ROOT}appliances/first/{name}"))
    );
    for named in &listed.documents {
        let path = named.path.strip_prefix(ROOT).unwrap();
        let bytes = found(&publisher, path).unwrap().bytes;
        assert_eq!(named.sha256, Some(Hex32::sha256(&bytes)), "{path}");
        assert_eq!(named.size, Some(bytes.len()));
    }
}

/// A guest that does not answer is left alone for a while, however often clients ask the host.
#[tokio::test]
async fn a_guest_is_not_asked_by_everybody() {
    let folder = tempfile::tempdir().unwrap();
    let silent = Arc::new(Silent::default());
    let evidence = Evidence::new(Arc::clone(&silent) as Arc<dyn Showing>);
    let mut first = view(&folder, "first", "tdx", 1);
    assert!(evidence.of(&first).await.is_none());
    assert_eq!(silent.0.load(Ordering::SeqCst), 0);
    first.report = Some(crate::supervisor::Report {
        guest: Some("127.0.0.1:1".parse().unwrap()),
        ..crate::supervisor::Report::first(1)
    });
    for _ in 0..3 {
        assert!(evidence.of(&first).await.is_none());
    }
    assert_eq!(silent.0.load(Ordering::SeqCst), 1);
    first.life.run += 1;
    assert!(evidence.of(&first).await.is_none());
    assert_eq!(silent.0.load(Ordering::SeqCst), 2);
    // The same run number, but in the other slot of an updated appliance.
    first.report.as_mut().unwrap().pid += 1;
    assert!(evidence.of(&first).await.is_none());
    assert_eq!(silent.0.load(Ordering::SeqCst), 3);
}

/// A guest that answers only when it is notified.
struct Slow(AtomicUsize, Arc<tokio::sync::Notify>);

impl Showing for Slow {
    fn ask(&self, _: SocketAddr) -> Asking {
        self.0.fetch_add(1, Ordering::SeqCst);
        let go = Arc::clone(&self.1);
        Box::pin(async move {
            go.notified().await;
            Err(GuestError::OtherNonce)
        })
    }
}

/// A client that leaves before the answer does not cause a second request, and other appliances do not wait for the first.
#[tokio::test]
async fn leaving_early_lets_nobody_ask_again() {
    let folder = tempfile::tempdir().unwrap();
    let slow = Arc::new(Slow(AtomicUsize::new(0), Arc::default()));
    let evidence = Evidence::new(Arc::clone(&slow) as Arc<dyn Showing>);
    let asked = |name: &str| {
        let mut view = view(&folder, name, "tdx", 1);
        view.report = Some(crate::supervisor::Report {
            guest: Some("127.0.0.1:1".parse().unwrap()),
            ..crate::supervisor::Report::first(1)
        });
        view
    };
    let (first, second) = (asked("first"), asked("second"));
    for (view, count) in [(&first, 1), (&first, 1), (&second, 2)] {
        tokio::select! {
            biased;
            _ = evidence.of(view) => panic!("nobody has answered"),
            () = tokio::task::yield_now() => {}
        }
        assert_eq!(slow.0.load(Ordering::SeqCst), count);
    }
    slow.1.notify_waiters();
    tokio::task::yield_now().await;
    for view in [&first, &second] {
        slow.1.notify_one();
        assert!(evidence.of(view).await.is_none());
    }
    assert_eq!(slow.0.load(Ordering::SeqCst), 2);
}

/// The manifest of the running VM counts, even after the image folder got another one.
#[test]
fn the_manifest_of_a_running_vm_is_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = view(&folder, "first", "tdx", 1);
    first.folder = folder.path().join("vm");
    std::fs::create_dir(&first.folder).unwrap();
    let bytes = manifest(1);
    std::fs::write(first.folder.join("manifest.json"), &bytes).unwrap();
    first.report = Some(crate::supervisor::Report {
        manifest_id: Some(manifest_id(&bytes).to_string()),
        ..crate::supervisor::Report::first(1)
    });
    let image = first.image.join("manifest.json");
    let publisher = publisher(&folder, vec![first.clone()]);
    let own = |file: &str| found(&publisher, &format!("appliances/first/{file}"));
    assert_eq!(own("manifest.json").unwrap().bytes, bytes);
    assert_eq!(own("manifest.json.dsse").unwrap().bytes, b"{}");
    std::fs::write(image, manifest(2)).unwrap();
    assert_eq!(own("manifest.json").unwrap().bytes, bytes);
    assert!(own("manifest.json.dsse").is_none());
    assert_eq!(
        files::platform(&first).unwrap(),
        files::platform(&view(&folder, "first", "tdx", 1)).unwrap()
    );
}
