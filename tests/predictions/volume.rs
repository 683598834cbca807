//! Compares the model volume with other readers of its formats: the EROFS developers' fsck, and cryptsetup's dm-verity.

use std::fs;
use std::path::Path;

use cocoon_image::model::{Source, Volume, write};
use cocoon_inputs::report::Silent;
use cocoon_protocol::manifest::Model;

use crate::tools::{Packages, had, output};

/// Writes the volume of a three-million-byte model, whose hash tree has two levels, to `folder`.
fn volume(folder: &Path) -> Volume {
    let path = folder.join("x.gguf");
    let noise = (0..750_000_u32).flat_map(|word| word.wrapping_mul(0x9e37_79b9).to_le_bytes());
    let bytes = b"GGUF\x03\0\0\0".iter().copied();
    // A GGUF header with neither tensors nor metadata.
    let bytes: Vec<u8> = bytes.chain([0; 16]).chain(noise).collect();
    fs::write(&path, bytes).unwrap();
    let source = Source::open(&path, None).unwrap();
    write(&source, folder, "model.img", 2, &Silent).unwrap()
}

#[test]
fn fsck_finds_no_fault_in_the_volume() {
    let Some(packages) = had("fsck.erofs", || Packages::of_volumes("erofs-utils")) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    volume(folder.path());
    let image = folder.path().join("model.img");
    output(packages.program("fsck.erofs").arg(&image)).unwrap();

    // The check detects damage: here to the superblock.
    let mut bytes = fs::read(&image).unwrap();
    bytes[1024] ^= 1;
    fs::write(&image, bytes).unwrap();
    assert!(output(packages.program("fsck.erofs").arg(&image)).is_err());
}

#[test]
fn veritysetup_accepts_the_hash_tree() {
    let Some(packages) = had("veritysetup", || Packages::of_volumes("cryptsetup")) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let model = volume(folder.path()).model;
    let image = folder.path().join("model.img");
    let verify = |model: &Model| {
        output(
            packages
                .system_program("veritysetup")
                .args(["verify", "--no-superblock"])
                .arg(format!("--salt={}", model.verity_salt))
                .arg(format!("--hash-offset={}", model.verity_data_blocks * 4096))
                .arg(format!("--data-blocks={}", model.verity_data_blocks))
                .args([&image, &image])
                .arg(model.verity_root.to_string()),
        )
    };
    verify(&model).unwrap();
    let mut other = model.clone();
    other.verity_root.0[0] ^= 1;
    assert!(verify(&other).is_err());
}
