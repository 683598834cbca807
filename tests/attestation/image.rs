//! A small image whose artefacts have their real formats, measured by the image builder's own code.

use std::collections::BTreeMap;

use cocoon_image::reference::{self, Boot};
use cocoon_protocol::bytes::{Hex, Hex32};
use cocoon_protocol::manifest::{Artefact, MANIFEST_VERSION, Manifest, Model};

#[path = "../../image/tests/image/world/firmware.rs"]
#[expect(dead_code, reason = "the image's own tests use more of it")]
mod firmware;

/// Time for which the manifest is valid before and after the given moment, in seconds.
pub const HALF_LIFE: u64 = 24 * 60 * 60;

/// The measured artefacts.
#[derive(Clone)]
pub struct Image {
    pub tdx_firmware: Vec<u8>,
    pub snp_firmware: Vec<u8>,
    pub kernel: Vec<u8>,
    pub initrd: Vec<u8>,
    pub cmdline: String,
}

impl Image {
    pub fn small() -> Self {
        Self {
            tdx_firmware: firmware::tdx(),
            snp_firmware: firmware::snp(),
            kernel: firmware::kernel(),
            initrd: firmware::noise(4, 5000),
            cmdline: "console=ttyS0 quiet cocoon.model=tiny:04:05:100".to_owned(),
        }
    }

    /// Returns the manifest of this image, valid around `now`.
    pub fn manifest(&self, now: u64) -> Manifest {
        let boot = Boot {
            kernel: &self.kernel,
            initrd: &self.initrd,
            cmdline: &self.cmdline,
        };
        let artefact = |bytes: &[u8]| Artefact {
            sha256: Hex32::sha256(bytes),
            size: bytes.len() as u64,
        };
        Manifest {
            version: MANIFEST_VERSION,
            release: 5,
            variant: "cpu".into(),
            source_revision: "0".repeat(40),
            not_before: now - HALF_LIFE,
            not_after: now + HALF_LIFE,
            inputs_lock: Hex([9; 32]),
            unlocked: Vec::new(),
            aml_guard: false,
            gpu: None,
            artefacts: BTreeMap::from([
                ("vmlinuz".into(), artefact(&self.kernel)),
                ("initrd.img".into(), artefact(&self.initrd)),
                ("cmdline".into(), artefact(self.cmdline.as_bytes())),
                ("OVMF.tdx.fd".into(), artefact(&self.tdx_firmware)),
                ("OVMF.snp.fd".into(), artefact(&self.snp_firmware)),
            ]),
            cmdline: self.cmdline.clone(),
            model: Model {
                id: "tiny".into(),
                verity_root: Hex([4; 32]),
                verity_salt: Hex([5; 32]),
                verity_data_blocks: 100,
                files: BTreeMap::new(),
            },
            tdx: reference::tdx(&self.tdx_firmware, &boot).unwrap(),
            snp: reference::snp(&self.snp_firmware, &boot).unwrap(),
        }
    }
}
