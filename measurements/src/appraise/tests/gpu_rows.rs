//! The GPUs of a session: claims, evidence, link to the session, and class compared with the CPU's.

use cocoon_protocol::{
    batch,
    gpu::{CollectedGpu, DriverState, GpuCollateral},
    gpu_section::{GpuSection, keys_digest},
};

use super::{
    super::gpu::{claimed, class, session as rows},
    *,
};
use crate::{
    nvidia::{
        Known,
        simulated::{Gpu, ReportParts, Scene},
    },
    policy::GpuRequirement,
    roots::RootClass,
};

/// A machine with a GPU, and the document that it presents.
struct Shown {
    scene: Scene,
    manifest: TrustedManifest,
    document: Document,
}

fn cuda() -> TrustedManifest {
    trusted(&Manifest {
        variant: "cuda".into(),
        ..sample()
    })
}

fn collected(scene: &Scene, gpu: &Gpu, nonce: Hex32) -> CollectedGpu {
    let parts = ReportParts::new(nonce.0, Scene::DRIVER, Scene::VBIOS_BYTES, gpu.firmware_id);
    CollectedGpu {
        report: Blob(parts.signed(&gpu.attestation.key)),
        chain: scene.nvidia.chain(gpu).unwrap(),
        driver: DriverState {
            confidential_computing: true,
            developer_mode: false,
            protected_pcie: false,
            driver_version: Scene::DRIVER.into(),
            vbios_version: Scene::VBIOS.into(),
        },
    }
}

impl Shown {
    /// Returns a document with one good GPU that answered this session.
    fn good() -> Self {
        let scene = Scene::at(NOW).unwrap();
        let manifest = cuda();
        let mut document = document(Tee::Tdx, &manifest);
        let nonce = binding::gpu_nonce(&binding::session(&document.claims, &FRESH));
        document.gpu = Some(GpuSection {
            functions: 1,
            gpus: vec![collected(&scene, &scene.gpu, nonce)],
            path: Vec::new(),
        });
        document.gpu_collateral = Some(GpuCollateral {
            rims: scene.rims.clone(),
            ocsp: scene.ocsp.iter().cloned().map(Blob).collect(),
        });
        let mut shown = Self {
            scene,
            manifest,
            document,
        };
        shown.claim();
        shown
    }

    /// Makes the claims commit to the present section.
    fn claim(&mut self) {
        let digest = self.section().digest();
        self.document.claims.gpu_section_digest = digest;
    }

    fn section(&mut self) -> &mut GpuSection {
        self.document.gpu.as_mut().unwrap()
    }

    /// Returns the digest of the keys that a good boot document commits to.
    fn keys(&self) -> Hex32 {
        let key = self.scene.gpu.attestation.key.public().unwrap();
        let der = x509_cert::der::Encode::to_der(&key).unwrap();
        keys_digest(&[Hex32::sha256(&der)])
    }

    fn checks(&self, handshake: Hex32, cpu: RootClass) -> (Option<RootClass>, Vec<Check>) {
        let policy = Policy {
            development_roots: self.scene.nvidia.roots(),
            ..Policy::default()
        };
        let presented = Presented {
            handshake_gpus: Some(handshake),
            ..session(&self.document)
        };
        let mut checks = vec![claimed(&self.document, &self.manifest, &policy, true)];
        let known = Known::default();
        let (root, more) = rows(&presented, FRESH, Some(cpu), &policy, NOW, &known);
        checks.extend(more);
        (root, checks)
    }

    #[track_caller]
    fn refused(&self, id: &str, cause: &str) {
        let (_, checks) = self.checks(self.keys(), RootClass::Development);
        assert_eq!(only_failure(&checks), (id, cause));
    }
}

#[test]
fn a_gpu_that_answered_this_session_is_good() {
    let shown = Shown::good();
    let (root, checks) = shown.checks(shown.keys(), RootClass::Development);
    no_failure(&checks);
    assert_eq!(root, Some(RootClass::Development));
    let passed = |id| {
        checks
            .iter()
            .any(|check| check.id == id && check.outcome == Outcome::Pass)
    };
    for id in [
        "document.gpu",
        "gpu.count",
        "gpu.nonce",
        "gpu.mode",
        "gpu.measurements",
        "gpu.keys",
        "gpu.class",
    ] {
        assert!(passed(id), "{id}: {checks:#?}");
    }
}

/// The verifier computes the nonce itself, and compares the section's digest and the number of GPUs.
#[test]
fn cocoon_gpu_18() {
    // Genuine evidence of the same GPU, but of another session.
    let mut other = Shown::good();
    let nonce = binding::gpu_nonce(&binding::session(
        &other.document.claims,
        &Freshness {
            nonce: Hex([9; 32]),
            ..FRESH
        },
    ));
    let late = collected(&other.scene, &other.scene.gpu, nonce);
    other.section().gpus[0] = late;
    other.claim();
    other.refused(
        "gpu.nonce",
        "the report answers another question: an old one, or somebody else's",
    );
    // The section is changed after the claims were made.
    let mut edited = Shown::good();
    edited.section().gpus[0].driver.protected_pcie = true;
    let (_, checks) = edited.checks(edited.keys(), RootClass::Development);
    let failed: Vec<_> = checks
        .iter()
        .filter(|check| check.outcome == Outcome::Fail)
        .map(|check| check.id)
        .collect();
    assert_eq!(failed, ["document.gpu", "gpu.protected_pcie"]);
    // The guest counts two GPUs, and only one has evidence.
    let mut missing = Shown::good();
    missing.section().functions = 2;
    missing.claim();
    missing.refused(
        "gpu.count",
        "a GPU without evidence could do anything with what it is given",
    );
}

/// A session that shares a report finds its nonce by its own path only.
#[test]
fn a_shared_report_answers_each_of_its_sessions() {
    let mut shown = Shown::good();
    let bare = Claims {
        gpu_section_digest: Hex32::ZERO,
        ..shown.document.claims.clone()
    };
    let stranger = Freshness {
        nonce: Hex([8; 32]),
        exporter: Hex([9; 32]),
    };
    let sessions = [stranger, FRESH].map(|fresh| binding::session(&bare, &fresh));
    let asked = batch::share(&sessions).unwrap();
    let place = asked.places[1].clone().unwrap();
    let report = collected(&shown.scene, &shown.scene.gpu, asked.gpu_nonce);
    *shown.section() = GpuSection {
        functions: 1,
        gpus: vec![report],
        path: place.path.clone(),
    };
    shown.claim();
    shown.document.batch = Some(place);
    let (_, checks) = shown.checks(shown.keys(), RootClass::Development);
    no_failure(&checks);
    shown.section().path[0].0[0] ^= 1;
    shown.refused(
        "gpu.nonce",
        "the report answers another question: an old one, or somebody else's",
    );
    shown.section().path.clear();
    shown.refused(
        "gpu.nonce",
        "a path of 0 hashes, where session 1 of a batch of 2 has 1",
    );
}

/// Another genuine GPU that answers the right nonce is refused, because its key is not the boot document's.
#[test]
fn cocoon_gpu_19() {
    const OTHER: &str = "other GPUs than those that the certificate of this connection committed to when the guest started: \
                         one was exchanged, reset with other firmware, or another machine's evidence is shown";
    let mut swapped = Shown::good();
    let other = swapped.scene.nvidia.gpu("9999999999").unwrap();
    let nonce = binding::gpu_nonce(&binding::session(&swapped.document.claims, &FRESH));
    let report = collected(&swapped.scene, &other, nonce);
    swapped.section().gpus[0] = report;
    swapped.claim();
    let times = crate::nvidia::simulated::Times {
        this_update: NOW - 3600,
        next_update: Some(NOW + 86_400),
    };
    let ocsp = swapped.scene.nvidia.good(&other, times).unwrap();
    let collateral = swapped.document.gpu_collateral.as_mut().unwrap();
    collateral.ocsp = ocsp.into_iter().map(Blob).collect();
    swapped.refused("gpu.keys", OTHER);
    // The boot document committed to no GPU.
    let shown = Shown::good();
    let (_, checks) = shown.checks(Hex32::ZERO, RootClass::Development);
    assert_eq!(only_failure(&checks), ("gpu.keys", OTHER));
}

#[test]
fn cocoon_gpu_20() {
    let shown = Shown::good();
    let (root, checks) = shown.checks(shown.keys(), RootClass::Vendor);
    assert_eq!(root, Some(RootClass::Development));
    assert_eq!(
        only_failure(&checks),
        (
            "gpu.class",
            "a simulated GPU beside a real CPU: an image that is what its manifest says never does that"
        )
    );
}

/// If the policy accepts developer mode, the result is only as good as a simulated machine, even under NVIDIA's root.
#[test]
fn developer_mode_is_worth_no_more_than_a_simulated_gpu() {
    let vendor = Some(RootClass::Vendor);
    let (worth, row) = class(vendor, vendor, true);
    assert_eq!(worth, Some(RootClass::Development));
    let row = row.unwrap();
    assert_eq!((row.id, row.outcome), ("gpu.class", Outcome::Note));
    let (worth, row) = class(vendor, vendor, false);
    assert_eq!((worth, row.unwrap().outcome), (vendor, Outcome::Pass));
    assert_eq!(class(vendor, None, true), (None, None));
}

/// Unverified evidence fails in several rows, so that its refusal never depends on a single check.
#[test]
fn unverified_evidence_fails_twice() {
    let mut shown = Shown::good();
    *shown.section().gpus[0].report.0.last_mut().unwrap() ^= 1;
    shown.claim();
    let (root, checks) = shown.checks(shown.keys(), RootClass::Development);
    assert_eq!(root, None);
    let failed: Vec<_> = checks
        .iter()
        .filter(|check| check.outcome == Outcome::Fail)
        .map(|check| check.id)
        .collect();
    assert_eq!(failed, ["gpu.signature", "gpu.class", "gpu.keys"]);
}

/// A GPU that manifest or guest claims must be proven, whatever the policy.
#[test]
fn cocoon_verdict_9() {
    let judge = |variant: &str, gpu, edit: fn(&mut Document), session| {
        let manifest = trusted(&Manifest {
            variant: variant.into(),
            ..sample()
        });
        let mut document = document(Tee::Tdx, &manifest);
        edit(&mut document);
        let policy = Policy {
            gpu,
            ..Policy::default()
        };
        claimed(&document, &manifest, &policy, session)
    };
    let nothing: fn(&mut Document) = |_| ();
    let digest: fn(&mut Document) = |d| d.claims.gpu_section_digest = Hex([1; 32]);
    let boot: fn(&mut Document) = |d| {
        d.kind = Kind::Boot;
        d.claims.gpu_section_digest = Hex([1; 32]);
    };
    let section: fn(&mut Document) = |d| d.gpu = Shown::good().document.gpu;
    let unproven = "the manifest is of a GPU image, and the guest shows no evidence of a GPU: prompts would reach one that nobody \
                    has checked";
    let claims = "the guest claims a GPU, and the evidence of it is missing from the document";
    let unexpected = "the guest claims a GPU, and the manifest's image has none";
    let (if_claimed, required) = (GpuRequirement::IfClaimed, GpuRequirement::Required);
    for (variant, gpu, edit, session, cause) in [
        ("cuda", if_claimed, nothing, true, unproven),
        ("cuda", required, nothing, true, unproven),
        ("cuda", if_claimed, nothing, false, unproven),
        // An unknown variant counts as a claim of a GPU.
        ("CPU", if_claimed, nothing, true, unproven),
        ("cuda", if_claimed, digest, true, claims),
        ("cuda", required, digest, true, claims),
        // A session document in place of a boot document.
        ("cuda", if_claimed, digest, false, claims),
        ("cpu", if_claimed, digest, true, unexpected),
        ("cpu", if_claimed, boot, false, unexpected),
        ("cpu", if_claimed, section, true, unexpected),
        (
            "cpu",
            required,
            nothing,
            true,
            "your policy requires a GPU, and this image has none",
        ),
    ] {
        let check = judge(variant, gpu, edit, session);
        assert_eq!(only_failure(&[check]), ("document.gpu", cause));
    }
    let check = judge("cpu", if_claimed, nothing, true);
    assert_eq!(check.outcome, Outcome::Pass);
    let check = judge("cuda", if_claimed, boot, false);
    assert_eq!(
        (check.outcome, check.cause.as_deref()),
        (
            Outcome::Note,
            Some(
                "the certificate commits to the keys of GPUs: the session's document has to prove these very ones"
            )
        )
    );
}
