//! Tests that a machine with the tables of a manifest's shape is accepted, and that other tables are named in the verdict.

use std::fs;
use std::path::Path;

use cocoon_measurements::appraise::{Freshness, Presented, appraise};
use cocoon_measurements::ccel::{self, LoggedEvent};
use cocoon_measurements::manifest::{ManifestTrust, TrustedManifest, trust};
use cocoon_measurements::policy::Policy;
use cocoon_measurements::tdx::mrtd::PageOrder;
use cocoon_measurements::tdx::rtmr0::{Machine, PlatformDigests, PlatformTables};
use cocoon_measurements::tdx::{DirectBoot, predict};
use cocoon_measurements::verdict::{Class, Verdict};
use cocoon_protocol::binding::{self, Claims, Tee};
use cocoon_protocol::bytes::{Blob, Hex, Hex32};
use cocoon_protocol::config::{self, OperatorConfig};
use cocoon_protocol::document::{Collateral, DOCUMENT_VERSION, Document, Evidence, Kind};
use cocoon_protocol::manifest::manifest_id;
use cocoon_simulator::tdx::{CollateralDates, IntelIdentity, TcbStatus, TdReport, TdxSimulator};

use super::{NAME, PROCESSOR, SMBIOS, added, prepared, read};

const NOW: u64 = 1_800_000_000;
const LEAF: Hex32 = Hex([0x21; 32]);
const FRESH: Freshness = Freshness {
    nonce: Hex([0x31; 32]),
    exporter: Hex([0x32; 32]),
};

#[test]
fn the_shapes_own_tables_are_believed_and_others_explained() {
    let (world, path) = prepared();
    let mut manifest = read(&path);
    (manifest.not_before, manifest.not_after) = (NOW - 60, NOW + 60);
    fs::write(&path, manifest.to_json()).unwrap();
    added(&world, &path);
    let bytes = fs::read(&path).unwrap();
    let believed = ManifestTrust {
        pinned: vec![manifest_id(&bytes)],
        allow_unlocked: true,
        ..ManifestTrust::default()
    };
    let manifest = trust(&bytes, None, &believed, NOW).unwrap();
    let image = path.parent().unwrap();

    let verdict = machine_with(b"tables", image, &manifest);
    let failed: Vec<_> = verdict.failures().collect();
    assert!(failed.is_empty(), "{failed:#?}");
    assert_eq!(verdict.class, Class::Simulated);
    let row = verdict.checks.iter().find(|check| check.id == "tdx.rtmr0");
    let expected = format!("{NAME}: 16 events as expected");
    assert_eq!(row.unwrap().found, Some(expected));

    let verdict = machine_with(b"other tables", image, &manifest);
    assert_eq!(verdict.class, Class::Rejected);
    let failed: Vec<_> = verdict.failures().collect();
    let [register, event] = failed[..] else {
        panic!("{failed:#?}")
    };
    assert_eq!((register.id, event.id), ("tdx.rtmr0", "tdx.rtmr0.event"));
    assert_eq!(event.title, "RTMR0 event 12: ACPI tables");
    let nearest = format!("15 of 16 events agree with the nearest shape, {NAME};");
    assert!(
        register.cause.as_deref().unwrap().contains(&nearest),
        "{register:?}"
    );
    assert_eq!(
        event.cause.as_deref(),
        Some(
            "QEMU generated other ACPI tables, which hold code that the guest runs: another QEMU version, machine type, vCPU \
             count, memory size or device list, or a GPU whose BARs move the PCI window; this event hashes ACPI tables as QEMU \
             generated them"
        )
    );
}

/// Returns the verdict on a simulated trust domain of 1024 MiB that runs `image` and whose QEMU generates these tables.
fn machine_with(acpi_tables: &[u8], image: &Path, manifest: &TrustedManifest) -> Verdict {
    let tables = PlatformTables {
        acpi_loader: b"a loader",
        acpi_rsdp: b"an RSDP",
        acpi_tables,
        smbios: SMBIOS,
    };
    let machine = Machine {
        platform: PlatformDigests::of_tables(&tables, PROCESSOR).unwrap(),
        ..Machine::simulated(1024 << 20)
    };
    let artefact = |name| fs::read(image.join(name)).unwrap();
    let boot = DirectBoot {
        firmware: &artefact("OVMF.tdx.fd"),
        kernel: &artefact("vmlinuz"),
        initrd: Some(&artefact("initrd.img")),
        command_line: &manifest.cmdline,
    };
    let prediction = predict(&boot, &machine, PageOrder::SinglePass).unwrap();
    let event_log = ccel::encode(prediction.events.iter().map(LoggedEvent::from)).unwrap();

    let config = OperatorConfig::default().canonical();
    let config_digest = config::digest(Tee::Tdx, &config);
    let claims = Claims {
        tee: Tee::Tdx,
        leaf_spki_sha256: LEAF,
        meter_key: Hex([0x22; 32]),
        manifest_id: manifest.id(),
        model_digest: manifest.model.verity_root,
        config_digest,
        gpu_section_digest: Hex32::ZERO,
    };
    let identity = IntelIdentity::generate().unwrap();
    let platform = TdxSimulator::new(&identity);
    let report = TdReport::good(prediction.mrtd, prediction.registers(), config_digest.0);
    let report_data = binding::report_data(&binding::session(&claims, &FRESH));
    let quote = platform.quote_over(&report, &report_data).unwrap();
    let collateral = platform.collateral(CollateralDates::around(NOW), TcbStatus::UpToDate);
    let document = Document {
        version: DOCUMENT_VERSION,
        kind: Kind::Session,
        claims,
        nonce: FRESH.nonce,
        evidence: Evidence::Tdx {
            quote: quote.into(),
            event_log: event_log.into(),
        },
        config: Blob(config),
        collateral: Some(Collateral::Tdx {
            json: collateral.unwrap().into(),
        }),
        batch: None,
        gpu: None,
        gpu_collateral: None,
        named: None,
    };
    let policy = Policy {
        development_roots: vec![identity.root.certificate.clone()],
        ..Policy::default()
    };
    let presented = Presented {
        document: &document,
        leaf_spki_sha256: LEAF,
        fresh: Some(FRESH),
        handshake_gpus: None,
    };
    appraise(&presented, manifest, &policy, NOW)
}
