//! Images whose files have only a few bytes, with real manifests and real signatures.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use cocoon_measurements::manifest::sign;
use cocoon_protocol::bytes::{Hex, Hex32};
use cocoon_protocol::manifest::{
    Artefact, MANIFEST_VERSION, Manifest, Model, SnpReference, TdxReference,
};

/// Key of the signer that the daemon's configuration file pins.
pub const SIGNER: [u8; 32] = [7; 32];

/// Makes an image in `folder/name`, signed by `key`. Its command line, `words`, tells the stand-in machine what to do.
pub fn make(folder: &Path, name: &str, words: &str, release: u64, key: &[u8; 32]) -> PathBuf {
    let image = folder.join(name);
    std::fs::create_dir(&image).unwrap();
    let mut artefacts = BTreeMap::new();
    for file in [
        "vmlinuz",
        "initrd.img",
        "OVMF.tdx.fd",
        "OVMF.snp.fd",
        "model.img",
        "cmdline",
    ] {
        let bytes = match file {
            "cmdline" => format!("{words}\n").into_bytes(),
            _ => format!("{file} of {name}").into_bytes(),
        };
        let artefact = Artefact {
            sha256: Hex32::sha256(&bytes),
            size: bytes.len() as u64,
        };
        std::fs::write(image.join(file), bytes).unwrap();
        artefacts.insert(file.to_owned(), artefact);
    }
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let manifest = Manifest {
        version: MANIFEST_VERSION,
        release,
        variant: "cpu".into(),
        source_revision: "0".repeat(40),
        not_before: now - 60,
        not_after: now + 3600,
        inputs_lock: Hex([1; 32]),
        unlocked: vec![],
        aml_guard: false,
        gpu: None,
        artefacts,
        cmdline: words.into(),
        model: Model {
            id: "lines".into(),
            verity_root: Hex([2; 32]),
            verity_salt: Hex([3; 32]),
            verity_data_blocks: 1,
            files: BTreeMap::new(),
        },
        tdx: TdxReference {
            mrtd: Hex([4; 48]),
            rtmr1: Hex([5; 48]),
            rtmr2: Hex([6; 48]),
            platforms: vec![],
        },
        snp: SnpReference {
            guest_features: 1,
            launch: vec![],
        },
    };
    let bytes = manifest.to_json();
    let envelope = sign(&bytes, key).unwrap();
    std::fs::write(image.join("manifest.json"), bytes).unwrap();
    std::fs::write(image.join("manifest.json.dsse"), envelope).unwrap();
    image
}
