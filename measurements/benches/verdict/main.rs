//! Benchmarks verdicts (TDX, also `dcap-qvl` alone; SEV-SNP; a GPU) and the prediction of a whole manifest.
//!
//! Run it with `cargo bench -p cocoon-measurements`. Evidence is real and found as [`vectors`] says, except for a simulated
//! SEV-SNP guest and a simulated H100. Artefacts are those of `COCOON_ARTEFACTS`. What is absent is reported as SKIPPED.
//! Goals and results are in the crate's README.

#![expect(missing_docs, reason = "criterion's macro makes a public function")]

mod peer;
mod shown;
mod vectors;

use std::hint::black_box;
use std::time::Duration;

use cocoon_measurements::appraise::appraise;
use cocoon_measurements::ccel::EventLog;
use cocoon_measurements::nvidia::simulated::Scene;
use cocoon_measurements::nvidia::{
    self, GpuAppraisal, GpuCollateral, GpuDemand, GpuEvidence, Known,
};
use cocoon_measurements::policy::Policy;
use cocoon_measurements::roots::TrustRoot;
use cocoon_measurements::snp::cpu::CpuModel;
use cocoon_measurements::snp::firmware::SnpFirmware;
use cocoon_measurements::snp::launch::{FEATURE_SNP, KernelHashes, Vcpus, launch_digest};
use cocoon_measurements::snp::report::certificates_from_pem;
use cocoon_measurements::tdx::mrtd::{PageOrder, mrtd};
use cocoon_measurements::tdx::quote;
use cocoon_measurements::tdx::rtmr::{rtmr1, rtmr2};
use cocoon_measurements::tdx::rtmr0::{Machine, rtmr0};
use cocoon_measurements::tdx::tcb::TcbPolicy;
use cocoon_measurements::tdx::tdvf::Tdvf;
use cocoon_measurements::verdict::{Outcome, Verdict};
use cocoon_protocol::bytes::Blob;
use cocoon_protocol::document::{Collateral, Evidence};
use cocoon_simulator::snp::{AmdIdentity, SnpReport, SnpSimulator};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main};
use dcap_qvl::{QuoteCollateralV3, QuotePolicy, verify::QuoteVerifier};

use peer::Peer;
use shown::{document, manifest, presented};
use vectors::{artefact, vector};

type Group<'a> = BenchmarkGroup<'a, WallTime>;

/// Within the dates of the certificates of NVIDIA's manifest.
const GPU_NOW: u64 = 1_780_000_000;
/// Within the TDX collateral's thirty days, and within the years of AMD's certificates.
const NOW: u64 = 1_752_048_802;

criterion_group! {
    name = verdicts;
    config = Criterion::default()
        .sample_size(40)
        .warm_up_time(Duration::from_secs(2))
        .measurement_time(Duration::from_secs(8));
    targets = tdx, snp, gpu, prediction
}
criterion_main!(verdicts);

/// Measures the whole appraisal of a session document, and the library's share of it.
fn tdx(criterion: &mut Criterion) {
    let (Some(quote), Some(json)) = (
        vector("tdx/dcapqvl_tdx_quote"),
        vector("tdx/dcapqvl_tdx_quote_collateral.json"),
    ) else {
        return;
    };
    let mut group = criterion.benchmark_group("tdx");
    group.bench_function("dcap-qvl alone", |bencher| {
        bencher.iter(|| {
            let collateral: QuoteCollateralV3 = serde_json::from_slice(&json).unwrap();
            let policy = QuotePolicy::claims_only(NOW);
            QuoteVerifier::new_prod()
                .verify_with_policy(black_box(&quote), collateral, NOW, &policy)
                .unwrap()
        });
    });
    let manifest = manifest(NOW);
    // Shows where the rest of a verdict's time goes.
    let policy = TcbPolicy::judged_by_caller();
    group.bench_function("quote::verify", |bencher| {
        bencher.iter(|| {
            let root = TrustRoot::Vendor;
            quote::verify(black_box(&quote), &json, &root, &policy, NOW).unwrap()
        });
    });
    let Some(event_log) = vector("ccel/dstack_ccel.bin") else {
        return;
    };
    group.bench_function("event log", |bencher| {
        bencher.iter(|| EventLog::parse(black_box(&event_log)).map(|log| log.replay()));
    });
    let evidence = Evidence::Tdx {
        quote: Blob(quote.clone()),
        event_log: Blob(event_log),
    };
    let json = Blob(json.clone());
    let document = document(&manifest, evidence, Collateral::Tdx { json });
    let judge = || appraise(&presented(&document), &manifest, &Policy::default(), NOW);
    signatures_hold(&judge());
    group.bench_function("verdict", |bencher| bencher.iter(|| black_box(judge())));
    group.finish();
}

/// Measures a real Milan report with its chain, for which no revocation list is published, and a simulated one with a list,
/// which is the whole of what a session has to judge.
fn snp(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("snp");
    real_report(&mut group);
    simulated_report(&mut group);
    group.finish();
}

fn real_report(group: &mut Group<'_>) {
    let (Some(report), Some(vcek), Some(chain)) = (
        vector("snp/sev_report_milan.hex"),
        vector("snp/sev_vcek_milan.der"),
        vector("snp/sev_cert_chain_milan"),
    ) else {
        return;
    };
    let report = Blob(hex::decode(report.trim_ascii()).unwrap());
    let mut certificates = vec![Blob(vcek)];
    certificates.extend(certificates_from_pem(&chain).unwrap().into_iter().map(Blob));
    let manifest = manifest(NOW);
    let evidence = Evidence::SevSnp {
        report,
        certificates: Vec::new(),
    };
    let crl = None;
    let collateral = Collateral::SevSnp { certificates, crl };
    let document = document(&manifest, evidence, collateral);
    let judge = || appraise(&presented(&document), &manifest, &Policy::default(), NOW);
    signatures_hold(&judge());
    group.bench_function("verdict", |bencher| bencher.iter(|| black_box(judge())));
}

/// Generates keys of AMD's sizes: the two RSA keys of 4096 bits take a minute at worst.
fn simulated_report(group: &mut Group<'_>) {
    let identity = AmdIdentity::generate_sized(4096, &mut |text| println!("{text}")).unwrap();
    let platform = SnpSimulator::new(&identity);
    let report = platform
        .report(&SnpReport::good([1; 48], [2; 32]))
        .unwrap()
        .into();
    let certificates = platform.certificates().into_iter().map(Blob).collect();
    let crl = Some(platform.crl(NOW - 3600, NOW + 3600).unwrap().into());
    let manifest = manifest(NOW);
    let evidence = Evidence::SevSnp {
        report,
        certificates: Vec::new(),
    };
    let document = document(
        &manifest,
        evidence,
        Collateral::SevSnp { certificates, crl },
    );
    let policy = Policy {
        development_roots: vec![identity.ark.certificate.clone()],
        ..Policy::default()
    };
    let judge = || appraise(&presented(&document), &manifest, &policy, NOW);
    let verdict = judge();
    signatures_hold(&verdict);
    let list = "revocation of AMD's keys";
    let mut rows = verdict.checks.iter();
    let revocation = rows.find(|check| check.title == list);
    assert_eq!(revocation.map(|check| check.outcome), Some(Outcome::Pass));
    group.bench_function("verdict with a revocation list", |bencher| {
        bencher.iter(|| black_box(judge()));
    });
}

/// Measures an H100's report and chain, with one driver manifest in place of both manifests, because none of the report's own
/// versions is published. NVIDIA's own verifier checks the same files without its OCSP service. Then measures whole verdicts
/// on a simulated H100 with its two manifests and six OCSP responses: a verifier's first verdict, and further ones, for which
/// the verifier remembers signatures that it has verified.
fn gpu(criterion: &mut Criterion) {
    const FILES: [&str; 3] = [
        "nvidia/nvtrust_hopperAttestationReport.txt",
        "nvidia/nvtrust_hopperCertChain.txt",
        "nvidia/NV_GPU_DRIVER_GH100_550.144.03.xml",
    ];
    let [Some(report), Some(chain), Some(manifest)] = FILES.map(vector) else {
        return;
    };
    let report = hex::decode(report.trim_ascii()).unwrap();
    let evidence = GpuEvidence {
        report: &report,
        chain: &chain,
        driver: None,
    };
    let demand = GpuDemand {
        nonce: report[4..36].try_into().unwrap(),
        count: Some(1),
        driver_state: false,
    };
    let policy = Policy::default();
    let judge = || {
        let collateral = GpuCollateral::default();
        let judged = nvidia::appraise(
            &[black_box(evidence)],
            &collateral,
            &demand,
            &policy,
            GPU_NOW,
        );
        assert_eq!(judged.gpus.len(), 1, "{judged:#?}");
        judged
    };
    let reference = || nvidia::verify_manifest(black_box(&manifest), &policy, GPU_NOW).unwrap();
    let mut group = criterion.benchmark_group("gpu");
    group.bench_function("report and chain", |bencher| bencher.iter(judge));
    group.bench_function("reference manifest", |bencher| bencher.iter(reference));
    group.bench_function("verdict", |bencher| {
        bencher.iter(|| (judge(), reference(), reference()));
    });
    if let Some(mut peer) = Peer::start(FILES) {
        group.bench_function("verdict of NVIDIA's verifier", |bencher| {
            bencher.iter_custom(|count| peer.verdicts(count));
        });
    }
    let scene = Scene::at(GPU_NOW).unwrap();
    let report = scene.report();
    group.bench_function("simulated: first verdict", |bencher| {
        bencher.iter(|| simulated(&scene, &report, &Known::default()));
    });
    let known = Known::default();
    simulated(&scene, &report, &known);
    group.bench_function("simulated: every further verdict", |bencher| {
        bencher.iter(|| simulated(&scene, &report, &known));
    });
    group.finish();
}

fn simulated(scene: &Scene, report: &[u8], known: &Known) -> GpuAppraisal {
    let evidence = GpuEvidence {
        report: black_box(report),
        chain: scene.chain.as_bytes(),
        driver: None,
    };
    let rims: Vec<&[u8]> = scene.rims.iter().map(|rim| rim.as_bytes()).collect();
    let ocsp: Vec<&[u8]> = scene.ocsp.iter().map(Vec::as_slice).collect();
    let collateral = GpuCollateral {
        rims: &rims,
        ocsp: &ocsp,
    };
    let demand = GpuDemand {
        nonce: Scene::NONCE,
        count: Some(1),
        driver_state: false,
    };
    let policy = Policy {
        development_roots: scene.nvidia.roots(),
        ..Policy::default()
    };
    let judged =
        nvidia::appraise_knowing(&[evidence], &collateral, &demand, &policy, GPU_NOW, known);
    assert!(!judged.is_rejected(), "{judged:#?}");
    judged
}

/// Measures the prediction of a whole manifest: TDX for five memory sizes, SEV-SNP for four models and nine vCPU counts.
fn prediction(criterion: &mut Criterion) {
    let (Some(tdx), Some(snp), Some(kernel)) = (
        artefact(&["OVMF.tdx.fd", "OVMF.inteltdx.ms.fd"]),
        artefact(&["OVMF.snp.fd", "OVMF.amdsev.fd"]),
        artefact(&["vmlinuz", "vmlinuz-6.12.107+deb13-cloud-amd64"]),
    ) else {
        return;
    };
    // As large as an initrd with an engine.
    let initrd: Vec<u8> = (0..=250).cycle().take(64 << 20).collect();
    let mut group = criterion.benchmark_group("prediction");
    group.sample_size(10);
    group.bench_function("whole manifest", |bencher| {
        bencher.iter(|| black_box(predict(&tdx, &snp, &kernel, &initrd)));
    });
    group.finish();
}

const COMMAND_LINE: &str = "console=ttyS0 quiet";

/// Returns MRTD, the number of predicted events, and all launch digests.
fn predict(
    tdx: &[u8],
    snp: &[u8],
    kernel: &[u8],
    initrd: &[u8],
) -> ([u8; 48], usize, Vec<[u8; 48]>) {
    let firmware = Tdvf::parse(tdx).unwrap();
    let mut events = rtmr1(kernel).unwrap().len();
    let edk2 = Machine::simulated(0).edk2;
    events += rtmr2(COMMAND_LINE, Some(initrd), edk2).len();
    for memory in [768, 1024, 2048, 4096, 8192] {
        let machine = Machine::simulated(memory << 20);
        events += rtmr0(&firmware, &machine).unwrap().len();
    }
    let digest = mrtd(&firmware, PageOrder::SinglePass);
    let firmware = SnpFirmware::parse(snp).unwrap();
    let hashes = KernelHashes::of(kernel, Some(initrd), COMMAND_LINE);
    let mut launches = Vec::new();
    for model in ["EPYC-v4", "EPYC-Milan", "EPYC-Genoa", "EPYC-Turin"] {
        let model: CpuModel = model.parse().unwrap();
        for count in [1, 2, 4, 8, 16, 32, 48, 64, 96] {
            let vcpus = Vcpus {
                count,
                model: model.clone(),
                guest_features: FEATURE_SNP,
            };
            launches.push(launch_digest(&firmware, Some(&hashes), &vcpus).unwrap());
        }
    }
    (digest, events, launches)
}

/// Checks that the measured appraisal goes all the way: one that ends at a bad signature would be quicker.
fn signatures_hold(verdict: &Verdict) {
    let row = |id| verdict.checks.iter().find(|check| check.id == id);
    let outcome = row("evidence.signature").map(|check| check.outcome);
    assert_eq!(outcome, Some(Outcome::Pass), "{verdict:#?}");
}
