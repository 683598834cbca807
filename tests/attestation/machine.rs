//! A simulated confidential VM whose parts a test can change before they are measured, bound or signed, and a verifier
//! that judges its documents.

use std::sync::LazyLock;

use cocoon_measurements::appraise::{Freshness, Presented, appraise};
use cocoon_measurements::manifest::{ManifestTrust, TrustedManifest, public_key, sign, trust};
use cocoon_measurements::policy::Policy;
use cocoon_measurements::verdict::{Class, Outcome, Verdict};
use cocoon_protocol::binding::{self, Claims, Tee};
use cocoon_protocol::bytes::{Blob, Hex, Hex32};
use cocoon_protocol::config::{self, OperatorConfig};
use cocoon_protocol::document::{Collateral, DOCUMENT_VERSION, Document, Evidence, Kind};
use cocoon_simulator::Roots;
use cocoon_simulator::launch::{LaunchOptions, Launched};
use cocoon_simulator::opened::Opened;
use cocoon_simulator::tdx::TdReport;

use crate::image::Image;

/// The verifier's clock: Unix time in seconds.
pub const NOW: u64 = 1_800_000_000;
/// SHA-256 of the public key of the TLS connection's server.
pub const LEAF: Hex32 = Hex([0x21; 32]);
/// The verifier's nonce, and the exporter of its connection.
pub const FRESH: Freshness = Freshness {
    nonce: Hex([0x31; 32]),
    exporter: Hex([0x32; 32]),
};
/// Secret key of the one signer that the verifier pins.
pub const SIGNER: [u8; 32] = [0x51; 32];

/// Development roots of both vendors, generated once because RSA keys take long.
pub static ROOTS: LazyLock<Roots> = LazyLock::new(|| Roots::generate(&mut |_| ()).unwrap());
pub static IMAGE: LazyLock<Image> = LazyLock::new(Image::small);
/// The image's manifest, signed and trusted.
pub static MANIFEST: LazyLock<TrustedManifest> = LazyLock::new(|| trusted(NOW));

/// Returns the image's manifest, valid around `now`, as a verifier that pins [`SIGNER`] trusts it.
pub fn trusted(now: u64) -> TrustedManifest {
    let bytes = IMAGE.manifest(now).to_json();
    let envelope = sign(&bytes, &SIGNER).unwrap();
    let believed = ManifestTrust {
        signers: vec![public_key(&SIGNER)],
        ..ManifestTrust::default()
    };
    trust(&bytes, Some(&envelope), &believed, now).unwrap()
}

/// Returns the default policy with both development roots.
pub fn policy() -> Policy {
    Policy {
        development_roots: [Tee::Tdx, Tee::SevSnp]
            .map(|tee| ROOTS.root(tee).to_vec())
            .into(),
        ..Policy::default()
    }
}

/// What the host launches.
pub struct Start {
    pub opened: Opened,
    pub snp_firmware: Vec<u8>,
    pub cpu_model: String,
    pub config: Vec<u8>,
}

/// A running VM.
pub struct Machine {
    /// The hardware, with the measurements that it will sign.
    pub vm: Launched<'static>,
    /// Claims that the guest binds into its evidence.
    pub claims: Claims,
    /// Nonce and exporter that the guest answers.
    pub fresh: Freshness,
    pub config: Vec<u8>,
    pub collateral: Option<Collateral>,
}

impl Machine {
    /// Launches the manifest's image on a shape that the manifest lists.
    pub fn good(tee: Tee) -> Self {
        Self::started(tee, |_| ())
    }

    /// Launches the same after `edit` has changed what the host starts.
    pub fn started(tee: Tee, edit: impl FnOnce(&mut Start)) -> Self {
        let image = &*IMAGE;
        let mut start = Start {
            opened: Opened {
                firmware: image.tdx_firmware.clone(),
                kernel: image.kernel.clone(),
                initrd: Some(image.initrd.clone()),
                append: image.cmdline.clone(),
                memory: 1024 << 20,
                vcpus: 2,
            },
            snp_firmware: image.snp_firmware.clone(),
            cpu_model: "EPYC-v4".into(),
            config: OperatorConfig::default().canonical(),
        };
        edit(&mut start);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &start.snp_firmware).unwrap();
        let options = LaunchOptions {
            tee,
            snp_firmware: Some(file.path().to_owned()),
            cpu_model: start.cpu_model,
            config: start.config.clone(),
        };
        let vm = Launched::new(&start.opened, &options, &ROOTS).unwrap();
        let claims = Claims {
            tee,
            leaf_spki_sha256: LEAF,
            meter_key: Hex([0x22; 32]),
            manifest_id: MANIFEST.id(),
            model_digest: MANIFEST.model.verity_root,
            config_digest: config::digest(tee, &start.config),
            gpu_section_digest: Hex32::ZERO,
        };
        let collateral = Some(vm.collateral(NOW).unwrap());
        Self {
            vm,
            claims,
            fresh: FRESH,
            config: start.config,
            collateral,
        }
    }

    pub fn td(&mut self) -> &mut TdReport {
        match &mut self.vm {
            Launched::Tdx { report, .. } => report,
            Launched::Snp { .. } => panic!("an SNP guest has no TD report"),
        }
    }

    pub fn event_log(&mut self) -> &mut Vec<u8> {
        match &mut self.vm {
            Launched::Tdx { event_log, .. } => event_log,
            Launched::Snp { .. } => panic!("an SNP guest has no event log"),
        }
    }

    /// Returns evidence whose report data are those of `binding`.
    pub fn evidence(&self, binding: &[u8; binding::BINDING_LEN]) -> Evidence {
        self.vm.evidence(&binding::report_data(binding)).unwrap()
    }

    /// Returns the session document over the current claims.
    pub fn document(&self) -> Document {
        Document {
            version: DOCUMENT_VERSION,
            kind: Kind::Session,
            claims: self.claims.clone(),
            nonce: self.fresh.nonce,
            evidence: self.evidence(&binding::session(&self.claims, &self.fresh)),
            config: Blob(self.config.clone()),
            collateral: self.collateral.clone(),
            batch: None,
            gpu: None,
            gpu_collateral: None,
            named: None,
        }
    }

    /// Returns the document in the guest's certificate, which has no event log and no collateral.
    pub fn boot_document(&self) -> Document {
        let mut evidence = self.evidence(&binding::boot(&self.claims));
        if let Evidence::Tdx { event_log, .. } = &mut evidence {
            *event_log = Blob::default();
        }
        Document {
            kind: Kind::Boot,
            nonce: Hex32::ZERO,
            evidence,
            collateral: None,
            ..self.document()
        }
    }

    /// Returns the verifier's verdict on the session document.
    pub fn verdict(&self) -> Verdict {
        judge(&self.document(), &policy())
    }
}

/// Returns the verdict on a session document at [`NOW`].
pub fn judge(document: &Document, policy: &Policy) -> Verdict {
    judge_at(document, policy, NOW)
}

/// Returns the verdict on a session document at `now`.
pub fn judge_at(document: &Document, policy: &Policy, now: u64) -> Verdict {
    appraise(&session(document), &MANIFEST, policy, now)
}

/// Presents a session document on the connection with [`LEAF`] and [`FRESH`].
pub fn session(document: &Document) -> Presented<'_> {
    Presented {
        document,
        leaf_spki_sha256: LEAF,
        fresh: Some(FRESH),
        handshake_gpus: None,
    }
}

/// Asserts that the verdict is a refusal for exactly these reasons (id and cause), and that each has advice.
#[track_caller]
pub fn refused(verdict: &Verdict, expected: &[(&str, &str)]) {
    let found: Vec<(&str, &str)> = verdict
        .failures()
        .map(|check| (check.id, check.cause.as_deref().unwrap_or_default()))
        .collect();
    assert_eq!(found, expected);
    assert_eq!(
        (verdict.class, verdict.authorizes()),
        (Class::Rejected, None)
    );
    for check in verdict.failures() {
        let advised = check.advice.as_deref().is_some_and(|text| !text.is_empty());
        assert!(advised, "{} gives no advice", check.id);
    }
}

/// Asserts that no check failed, and that the verdict authorises prompts to simulated hardware.
#[track_caller]
pub fn accepted(verdict: &Verdict) {
    let failed: Vec<_> = verdict.failures().collect();
    assert!(failed.is_empty(), "{failed:#?}");
    assert_eq!(verdict.class, Class::Simulated);
    assert_eq!(
        verdict
            .authorizes()
            .map(|authorization| authorization.class()),
        Some(Class::Simulated)
    );
}

/// Returns id and outcome of every row.
pub fn outcomes(verdict: &Verdict) -> Vec<(&'static str, Outcome)> {
    verdict
        .checks
        .iter()
        .map(|check| (check.id, check.outcome))
        .collect()
}
