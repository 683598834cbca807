//! A simulated VM of a GPU image, with GPUs from the simulator, and a verifier for it.

use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use cocoon_client::Verifier;
use cocoon_guest_agent::attester::boot_gpu_nonce;
use cocoon_guest_agent::gpu::gate::{Gate, Setup};
use cocoon_guest_agent::gpu::judge::Roots;
use cocoon_guest_agent::gpu::{GpuSource, Happened, SourceError};
use cocoon_measurements::appraise::{Freshness, Presented, appraise};
use cocoon_measurements::manifest::{ManifestTrust, TrustedManifest, trust};
use cocoon_measurements::nvidia::Gpu;
use cocoon_measurements::policy::Policy;
use cocoon_measurements::verdict::Verdict;
use cocoon_protocol::binding::{self, Claims, Tee};
use cocoon_protocol::bytes::Hex32;
use cocoon_protocol::document::Document;
use cocoon_protocol::gpu::{CollectedGpu, GpuCollateral, GpuMetrics};
use cocoon_protocol::gpu_section::GpuSection;
use cocoon_simulator::nvidia::GpuSimulator;
use tokio::sync::watch;

use crate::guest::TODAY;
use crate::image::Image;
use crate::machine::{FRESH, LEAF, Machine, NOW, policy};

/// Addition to the measured kernel command line.
const GPUS: &str = " cocoon.gpu=simulated:1";
/// Name of the simulated NVIDIA that issues the identities of all GPUs in these tests.
const NVIDIA: &str = "tests";

static IMAGE: LazyLock<Image> = LazyLock::new(|| {
    let mut image = Image::small();
    image.cmdline.push_str(GPUS);
    image
});
/// The GPU image's manifest, trusted at [`NOW`].
pub static CUDA: LazyLock<TrustedManifest> = LazyLock::new(|| trusted(NOW));
/// The GPU image's manifest, trusted today, for the client library, which reads the machine's clock.
pub static CUDA_TODAY: LazyLock<TrustedManifest> = LazyLock::new(|| trusted(*TODAY));

fn trusted(now: u64) -> TrustedManifest {
    let mut manifest = IMAGE.manifest(now);
    // The name differs from `cuda`, so that a reader sees at once that this image computes nothing.
    manifest.variant = "cuda-simulated".into();
    let bytes = manifest.to_json();
    let pinned = vec![Hex32::sha256(&bytes)];
    let believed = ManifestTrust {
        pinned,
        ..ManifestTrust::default()
    };
    trust(&bytes, None, &believed, now).unwrap()
}

/// Returns a machine with one GPU, which has this serial number.
pub fn gpus(serial: &str) -> GpuSimulator {
    GpuSimulator::new(NVIDIA, &[serial.to_owned()]).unwrap()
}

/// Returns the default policy with the development roots of CPUs and GPUs.
pub fn believing() -> Policy {
    let mut policy = policy();
    policy.development_roots.extend(gpus("any").roots());
    policy
}

/// Returns a verifier that trusts [`CUDA_TODAY`] and simulated hardware.
pub fn verifier() -> Verifier {
    Verifier::new(CUDA_TODAY.clone(), believing())
}

/// Launches a VM of the GPU image with the TLS key `leaf`, for a verifier of `manifest`.
pub fn launched(tee: Tee, leaf: Hex32, manifest: &TrustedManifest, now: u64) -> Machine {
    let mut vm = Machine::started(tee, |start| start.opened.append.push_str(GPUS));
    vm.claims.leaf_spki_sha256 = leaf;
    vm.claims.manifest_id = manifest.id();
    vm.collateral = Some(vm.vm.collateral(now).unwrap());
    vm
}

/// Returns the digest of the attestation key of the GPU `serial`, to which a boot with it commits.
pub fn keys_of(serial: &str, policy: &Policy) -> Hex32 {
    let gpus = gpus(serial);
    let shown = gpus.collect(&FRESH.nonce).unwrap();
    let evidence = cocoon_measurements::nvidia::GpuEvidence {
        report: &shown[0].report.0,
        chain: shown[0].chain.as_bytes(),
        driver: None,
    };
    let demand = cocoon_measurements::nvidia::GpuDemand {
        nonce: FRESH.nonce.0,
        count: Some(1),
        driver_state: false,
    };
    let judged = cocoon_measurements::nvidia::appraise(
        &[evidence],
        &cocoon_measurements::nvidia::GpuCollateral::default(),
        &demand,
        policy,
        NOW,
    );
    let keys: Vec<Hex32> = judged
        .gpus
        .iter()
        .map(|gpu: &Gpu| gpu.attestation_key)
        .collect();
    cocoon_protocol::gpu_section::keys_digest(&keys)
}

/// Returns the session document of `vm`, whose guest asks `gpus` with the session's nonce and binds their answer.
/// `edit` changes the GPU section before it is bound.
pub fn shown(
    vm: &mut Machine,
    fresh: &Freshness,
    gpus: &GpuSimulator,
    now: u64,
    edit: impl FnOnce(&mut Option<GpuSection>),
) -> Document {
    vm.fresh = *fresh;
    let nonce = binding::gpu_nonce(&binding::session(&vm.claims, fresh));
    let mut section = Some(GpuSection {
        functions: 1,
        gpus: gpus.collect(&nonce).unwrap(),
        path: Vec::new(),
    });
    edit(&mut section);
    vm.claims.gpu_section_digest = section.as_ref().map_or(Hex32::ZERO, GpuSection::digest);
    let collateral = gpus.collateral(now).unwrap();
    Document {
        gpu_collateral: section.as_ref().map(|_| collateral),
        gpu: section,
        ..vm.document()
    }
}

/// Returns the verdict on a document on the connection with [`LEAF`] and [`FRESH`], whose certificate committed to the
/// keys `handshake`.
pub fn judge(document: &Document, handshake: Hex32, policy: &Policy) -> Verdict {
    let presented = Presented {
        document,
        leaf_spki_sha256: LEAF,
        fresh: Some(FRESH),
        handshake_gpus: Some(handshake),
    };
    appraise(&presented, &CUDA, policy, NOW)
}

/// A source of GPUs for the agent's gate; a test can exchange the GPUs while the guest runs.
pub struct Passed {
    gpus: Mutex<GpuSimulator>,
    host: watch::Sender<Option<GpuCollateral>>,
    collected: Mutex<usize>,
    events: watch::Sender<Happened>,
}

impl Passed {
    pub fn through(gpus: GpuSimulator) -> Arc<Self> {
        let collateral = gpus.collateral(*TODAY).unwrap();
        Arc::new(Self {
            gpus: Mutex::new(gpus),
            host: watch::Sender::new(Some(collateral)),
            collected: Mutex::default(),
            events: watch::Sender::default(),
        })
    }

    /// Puts other GPUs in the place of the present ones, together with NVIDIA's collateral for them.
    pub fn exchange(&self, gpus: GpuSimulator) {
        self.host
            .send_replace(Some(gpus.collateral(*TODAY).unwrap()));
        *self.gpus.lock().unwrap() = gpus;
    }

    /// Returns how many times evidence was collected.
    pub fn collected(&self) -> usize {
        *self.collected.lock().unwrap()
    }

    /// Opens the agent's gate for a boot with these claims.
    pub fn open(self: &Arc<Self>, claims: &Claims) -> Option<Arc<Gate>> {
        let setup = Setup {
            source: Arc::clone(self) as Arc<dyn GpuSource>,
            count: Box::new(|| Ok(1)),
            roots: Roots::Development,
            collateral: self.host.subscribe(),
        };
        let nonce = boot_gpu_nonce(claims);
        Some(Arc::new(
            Gate::open(setup, &nonce, |_| (), Duration::ZERO).unwrap(),
        ))
    }
}

impl GpuSource for Passed {
    fn collect(&self, nonce: &Hex32) -> Result<Vec<CollectedGpu>, SourceError> {
        *self.collected.lock().unwrap() += 1;
        Ok(self.gpus.lock().unwrap().collect(nonce).unwrap())
    }

    fn set_ready(&self, _ready: bool) -> Result<(), SourceError> {
        Ok(())
    }

    fn metrics(&self) -> Result<Vec<GpuMetrics>, SourceError> {
        Ok(Vec::new())
    }

    fn events(&self) -> watch::Receiver<Happened> {
        self.events.subscribe()
    }
}
