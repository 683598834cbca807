//! Simulated platforms whose evidence the targets change: their keys, good evidence, and the settings of a verifier that
//! accepts it.
//!
//! The keys are generated in each process, so none of them needs protection. Inputs are scripts or foreign bytes, which mean
//! the same under any key.

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

/// The verifier's clock, in seconds since 1970.
pub const NOW: u64 = 1_800_000_000;
/// SHA-256 of the public key of the TLS connection.
pub const LEAF: Hex32 = Hex([0x21; 32]);
/// The verifier's nonce and the exporter of its TLS session.
pub const FRESH: Freshness = Freshness {
    nonce: Hex([0x31; 32]),
    exporter: Hex([0x32; 32]),
};

/// Keys and certificates like Intel's.
pub static INTEL: LazyLock<IntelIdentity> = LazyLock::new(|| made(IntelIdentity::generate()));
/// Keys and certificates like AMD's. Generating the RSA keys takes some seconds.
pub static AMD: LazyLock<AmdIdentity> = LazyLock::new(|| made(AmdIdentity::generate(&mut |_| ())));
/// The root of [`INTEL`].
pub static INTEL_ROOT: LazyLock<TrustRoot> =
    LazyLock::new(|| made(TrustRoot::development(&INTEL.root.certificate)));
/// The root of [`AMD`].
pub static AMD_ROOT: LazyLock<TrustRoot> =
    LazyLock::new(|| made(TrustRoot::development(&AMD.ark.certificate)));

/// MRTD of the image.
const MRTD: [u8; 48] = [0x10; 48];
/// Launch digest of the guest on SEV-SNP.
const LAUNCH: [u8; 48] = [0x13; 48];
/// One event for each register that the image uses.
const EVENTS: [(Rtmr, &[u8]); 3] = [
    (Rtmr::Rtmr0, b"the machine"),
    (Rtmr::Rtmr1, b"the kernel"),
    (Rtmr::Rtmr2, b"command line and initrd"),
];

/// Event log of the good guest.
pub static EVENT_LOG: LazyLock<Vec<u8>> = LazyLock::new(|| made(ccel::encode(events())));
/// Manifest whose guests are [`tdx_document`] and [`snp_document`].
pub static MANIFEST: LazyLock<TrustedManifest> = LazyLock::new(|| {
    let bytes = reference().to_json();
    let believed = ManifestTrust {
        pinned: vec![Hex32::sha256(&bytes)],
        ..ManifestTrust::default()
    };
    made(trust(&bytes, None, &believed, NOW))
});
/// Intel's endorsements of [`TDX_QUOTE`], in JSON.
pub static TDX_COLLATERAL: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let simulator = TdxSimulator::new(&INTEL);
    made(simulator.collateral(CollateralDates::around(NOW), TcbStatus::UpToDate))
});
/// Good quote of version 4, bound to the session.
pub static TDX_QUOTE: LazyLock<Vec<u8>> =
    LazyLock::new(|| made(TdxSimulator::new(&INTEL).quote(&td_report())));
/// Good report of version 3, bound to the session.
pub static SNP_REPORT: LazyLock<Vec<u8>> =
    LazyLock::new(|| made(SnpSimulator::new(&AMD).report(&snp_report())));
/// Revocation list of [`AMD`]'s root.
pub static SNP_CRL: LazyLock<Vec<u8>> =
    LazyLock::new(|| made(SnpSimulator::new(&AMD).crl(NOW - 3600, NOW + 3600)));

/// Unwraps a fixture that this crate makes itself. Without its fixtures no target can run.
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

/// Returns the TD report of a good trust domain in this session.
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

/// Returns the report of a good SEV-SNP guest in this session.
#[must_use]
pub fn snp_report() -> SnpReport {
    let claims = claims(Tee::SevSnp);
    let mut host_data = [0; 32];
    host_data.copy_from_slice(&claims.config_digest.0[..32]);
    SnpReport {
        report_data: binding::report_data(&binding::session(&claims, &FRESH)).0,
        // Constant, so that the same input means the same in every run.
        report_id: [0x1d; 32],
        ..SnpReport::good(LAUNCH, host_data)
    }
}

/// Returns the claims of a good guest.
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

/// Returns a session document with this quote.
#[must_use]
pub fn tdx_document(quote: Vec<u8>, event_log: Vec<u8>, json: Vec<u8>) -> Document {
    let evidence = Evidence::Tdx {
        quote: Blob(quote),
        event_log: Blob(event_log),
    };
    document(Tee::Tdx, evidence, Collateral::Tdx { json: Blob(json) })
}

/// Returns a session document with this report.
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

/// Returns `document` as the verifier receives it in its session.
#[must_use]
pub fn presented(document: &Document) -> Presented<'_> {
    Presented {
        document,
        leaf_spki_sha256: LEAF,
        fresh: Some(FRESH),
        handshake_gpus: None,
    }
}

/// Returns the default policy with the development root of `tee` named.
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

/// Returns the manifest before it is trusted.
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
