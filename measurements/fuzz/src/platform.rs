//! The simulated platforms whose evidence the targets change: keys, good evidence, and a verifier that accepts it.
//!
//! Keys are made once in every process, so nothing here is worth stealing, and inputs are scripts or foreign bytes that
//! mean the same under any key.

use std::sync::LazyLock;

use cocoon_measurements::appraise::{Freshness, Presented};
use cocoon_measurements::ccel::{self, LoggedEvent};
use cocoon_measurements::manifest::{ManifestTrust, TrustedManifest, trust};
use cocoon_measurements::policy::Policy;
use cocoon_measurements::roots::TrustRoot;
use cocoon_measurements::tdx::event::{Rtmr, event_type, replay};
use cocoon_protocol::binding::{self, Claims, Tee};
use cocoon_protocol::bytes::{Blob, Hex, Hex32};
use cocoon_protocol::config::{self, OperatorConfig};
use cocoon_protocol::document::{Collateral, DOCUMENT_VERSION, Document, Evidence, Kind};
use cocoon_protocol::manifest::{
    MANIFEST_VERSION, Manifest, Model, PlatformSource, ReferenceEvent, SnpLaunch, SnpReference,
    TdxPlatform, TdxReference,
};
use cocoon_simulator::snp::{AmdIdentity, SnpReport, SnpSimulator};
use cocoon_simulator::tdx::{CollateralDates, IntelIdentity, TcbStatus, TdReport, TdxSimulator};

/// The verifier's clock.
pub const NOW: u64 = 1_800_000_000;
/// The key of the TLS connection.
pub const LEAF: Hex32 = Hex([0x21; 32]);
/// The verifier's nonce and its own exporter.
pub const FRESH: Freshness = Freshness {
    nonce: Hex([0x31; 32]),
    exporter: Hex([0x32; 32]),
};

/// Intel-shaped keys.
pub static INTEL: LazyLock<IntelIdentity> = LazyLock::new(|| made(IntelIdentity::generate()));
/// AMD-shaped keys: RSA takes some seconds.
pub static AMD: LazyLock<AmdIdentity> = LazyLock::new(|| made(AmdIdentity::generate(&mut |_| ())));
/// The root of [`INTEL`].
pub static INTEL_ROOT: LazyLock<TrustRoot> =
    LazyLock::new(|| made(TrustRoot::development(&INTEL.root.certificate)));
/// The root of [`AMD`].
pub static AMD_ROOT: LazyLock<TrustRoot> =
    LazyLock::new(|| made(TrustRoot::development(&AMD.ark.certificate)));

/// The image's registers.
const MRTD: [u8; 48] = [0x10; 48];
/// The guest's launch digest on SEV-SNP.
const LAUNCH: [u8; 48] = [0x13; 48];
/// One event for each register that the image uses.
const EVENTS: [(Rtmr, &[u8]); 3] = [
    (Rtmr::Rtmr0, b"the machine"),
    (Rtmr::Rtmr1, b"the kernel"),
    (Rtmr::Rtmr2, b"command line and initrd"),
];

/// The event log of a good guest.
pub static EVENT_LOG: LazyLock<Vec<u8>> = LazyLock::new(|| made(ccel::encode(events())));
/// A manifest of which [`tdx_document`] and [`snp_document`] are the guests.
pub static MANIFEST: LazyLock<TrustedManifest> = LazyLock::new(|| {
    let bytes = reference().to_json();
    let believed = ManifestTrust {
        pinned: vec![Hex32::sha256(&bytes)],
        ..ManifestTrust::default()
    };
    made(trust(&bytes, None, &believed, NOW))
});
/// The endorsements of [`TDX_QUOTE`], in Intel's JSON.
pub static TDX_COLLATERAL: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let simulator = TdxSimulator::new(&INTEL);
    made(simulator.collateral(CollateralDates::around(NOW), TcbStatus::UpToDate))
});
/// A good quote of version 4 over the session.
pub static TDX_QUOTE: LazyLock<Vec<u8>> =
    LazyLock::new(|| made(TdxSimulator::new(&INTEL).quote(&td_report())));
/// A good report of version 3 over the session.
pub static SNP_REPORT: LazyLock<Vec<u8>> =
    LazyLock::new(|| made(SnpSimulator::new(&AMD).report(&snp_report())));
/// The revocation list above it.
pub static SNP_CRL: LazyLock<Vec<u8>> =
    LazyLock::new(|| made(SnpSimulator::new(&AMD).crl(NOW - 3600, NOW + 3600)));

/// Fixtures of our own making: that they can be made is what each run begins with.
#[expect(
    clippy::panic,
    reason = "a fixture that cannot be made leaves nothing to fuzz"
)]
pub(crate) fn made<T, E: std::fmt::Debug>(result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| panic!("a fixture cannot be made: {error:?}"))
}

fn events() -> impl Iterator<Item = LoggedEvent<'static>> {
    EVENTS.into_iter().map(|(rtmr, data)| LoggedEvent {
        rtmr,
        event_type: event_type::EFI_ACTION,
        digest: Hex::sha384(data).0,
        data,
    })
}

fn registers() -> [[u8; 48]; 4] {
    let events: Vec<_> = events().collect();
    replay(events.iter().map(|event| (event.rtmr, &event.digest)))
}

/// What a good trust domain reports in this session.
#[must_use]
pub fn td_report() -> TdReport {
    let claims = claims(Tee::Tdx);
    let report = TdReport::good(MRTD, registers(), claims.config_digest.0);
    let report_data = binding::report_data(&binding::session(&claims, &FRESH)).0;
    TdReport {
        report_data,
        ..report
    }
}

/// What a good SEV-SNP guest reports in this session.
#[must_use]
pub fn snp_report() -> SnpReport {
    let claims = claims(Tee::SevSnp);
    let mut host_data = [0; 32];
    host_data.copy_from_slice(&claims.config_digest.0[..32]);
    SnpReport {
        report_data: binding::report_data(&binding::session(&claims, &FRESH)).0,
        // Not random: the same input must mean the same in every run.
        report_id: [0x1d; 32],
        ..SnpReport::good(LAUNCH, host_data)
    }
}

/// What a good guest claims.
#[must_use]
pub fn claims(tee: Tee) -> Claims {
    Claims {
        tee,
        leaf_spki_sha256: LEAF,
        meter_key: Hex([0x22; 32]),
        manifest_id: MANIFEST.id(),
        model_digest: MANIFEST.model.verity_root,
        config_digest: config::digest(tee, &OperatorConfig::default().canonical()),
        gpu_section_digest: Hex32::ZERO,
    }
}

fn document(tee: Tee, evidence: Evidence, collateral: Collateral) -> Document {
    Document {
        version: DOCUMENT_VERSION,
        kind: Kind::Session,
        claims: claims(tee),
        nonce: FRESH.nonce,
        evidence,
        config: Blob(OperatorConfig::default().canonical()),
        collateral: Some(collateral),
        batch: None,
        gpu: None,
        gpu_collateral: None,
        named: None,
    }
}

/// A session's document around a quote.
#[must_use]
pub fn tdx_document(quote: Vec<u8>, event_log: Vec<u8>, json: Vec<u8>) -> Document {
    let evidence = Evidence::Tdx {
        quote: Blob(quote),
        event_log: Blob(event_log),
    };
    document(Tee::Tdx, evidence, Collateral::Tdx { json: Blob(json) })
}

/// A session's document around a report.
#[must_use]
pub fn snp_document(report: Vec<u8>) -> Document {
    let certificates = SnpSimulator::new(&AMD).certificates();
    let evidence = Evidence::SevSnp {
        report: Blob(report),
        certificates: Vec::new(),
    };
    let collateral = Collateral::SevSnp {
        certificates: certificates.into_iter().map(Blob).collect(),
        crl: Some(Blob(SNP_CRL.clone())),
    };
    document(Tee::SevSnp, evidence, collateral)
}

/// `document` as this verifier sees it in its session.
#[must_use]
pub fn presented(document: &Document) -> Presented<'_> {
    Presented {
        document,
        leaf_spki_sha256: LEAF,
        fresh: Some(FRESH),
        handshake_gpus: None,
    }
}

/// The default policy with the development root of `tee` named.
#[must_use]
pub fn policy(tee: Tee) -> Policy {
    let root = match tee {
        Tee::Tdx => &INTEL.root.certificate,
        Tee::SevSnp => &AMD.ark.certificate,
    };
    Policy {
        development_roots: vec![root.clone()],
        accept_missing_aml_guard: true,
        ..Policy::default()
    }
}

/// The manifest before it is trusted.
#[must_use]
pub fn reference() -> Manifest {
    let registers = registers();
    let event = |data| ReferenceEvent {
        name: "the machine".into(),
        digest: Hex::sha384(data),
    };
    Manifest {
        version: MANIFEST_VERSION,
        release: 5,
        variant: "cpu".into(),
        source_revision: "0123456789012345678901234567890123456789".into(),
        not_before: NOW - 86_400,
        not_after: NOW + 86_400,
        inputs_lock: Hex([9; 32]),
        unlocked: Vec::new(),
        aml_guard: true,
        gpu: None,
        artefacts: [].into(),
        cmdline: "console=ttyS0 quiet".into(),
        model: Model {
            id: "sample".into(),
            verity_root: Hex([4; 32]),
            verity_salt: Hex([5; 32]),
            verity_data_blocks: 100,
            files: [].into(),
        },
        tdx: TdxReference {
            mrtd: Hex(MRTD),
            rtmr1: Hex(registers[1]),
            rtmr2: Hex(registers[2]),
            platforms: vec![TdxPlatform {
                name: "simulated".into(),
                memory_mib: 1024,
                vcpus: None,
                mmio64_mib: None,
                source: PlatformSource::Simulator,
                rtmr0_events: vec![event(EVENTS[0].1)],
            }],
        },
        snp: SnpReference {
            guest_features: 1,
            launch: vec![SnpLaunch {
                cpu_model: "EPYC-v4".into(),
                vcpus: 1,
                digest: Hex(LAUNCH),
            }],
        },
    }
}
