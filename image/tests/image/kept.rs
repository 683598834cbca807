//! Tests that a command that fails leaves everything as it was, so that it can be run again.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use cocoon_image::add_model::{AddModelError, add_model};
use cocoon_image::build::Life;
use cocoon_image::model::Source;
use cocoon_inputs::report::Silent;

use crate::world::{World, fail, gguf, limited, program, succeed};

/// Returns a world with a signed image.
fn signed() -> (World, PathBuf) {
    let world = World::new();
    let image = world.path("image");
    succeed(&mut world.build(&image));
    let key = world.path("key");
    succeed(program().args(["manifest", "keygen", "--out"]).arg(&key));
    let mut sign = program();
    sign.args(["manifest", "sign"])
        .arg(image.join("manifest.json"));
    succeed(sign.arg("--key").arg(&key));
    (world, image)
}

/// Returns names and contents of all files in a folder, including hidden ones.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(folder).unwrap().flatten();
    let mut files: Vec<_> = entries
        .map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read(entry.path()).unwrap())
        })
        .collect();
    files.sort();
    files
}

#[test]
fn an_image_survives_a_model_that_cannot_be_added() {
    let (world, image) = signed();
    let before = files(&image);
    world.write("other.gguf", &gguf(6, 70_000));
    let life = Life {
        release: 2,
        not_before: 1_000_000,
        not_after: 2_000_000,
    };
    let add = |source: &Source| add_model(&image, source, &life, &image, 1, &Silent);
    let source = Source::open(&world.path("other.gguf"), None).unwrap();
    // The command fails while the volume is being written, as it would with a full disk.
    world.write("other.gguf", &gguf(6, 60_000));
    let error = add(&source).unwrap_err();
    assert!(matches!(error, AddModelError::Volume(_)), "{error}");
    assert!(files(&image) == before, "the image is not what it was");

    // The next attempt is not hindered.
    world.write("other.gguf", &gguf(6, 70_000));
    let manifest = add(&source).unwrap();
    assert_eq!((manifest.release, &*manifest.model.id), (2, "other"));
    let after = files(&image);
    let names: Vec<_> = after.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        [
            "OVMF.snp.fd",
            "OVMF.tdx.fd",
            "cmdline",
            "initrd.img",
            "manifest.json",
            "model.img",
            "sbom.spdx.json",
            "vmlinuz"
        ],
        "its signatures were over another manifest"
    );
}

/// The file can be created, but nothing can be written to it, as with a full disk.
#[test]
fn signatures_stay_with_a_manifest_that_cannot_be_replaced() {
    let (world, image) = signed();
    for name in ["acpi-loader.bin", "acpi-rsdp.bin", "acpi-tables.bin"] {
        world.write(&format!("tables/{name}"), b"a table");
    }
    let smbios = b"\x04\x10\0\0\x01\x03\x02\x01EMULATORCPU 0\0\0\x7f\x04\x01\0\0\0";
    world.write("tables/smbios.bin", smbios);
    let path = image.join("manifest.json");
    let mut platform = program();
    platform.args(["manifest", "platform"]).arg(&path);
    platform.arg("--tables").arg(world.path("tables"));
    platform.args(["--name", "x", "--memory", "1024", "--vcpus", "2"]);
    platform.args(["--cpu-signature", "0x1", "--cpu-features", "0x1"]);
    let before = files(&image);
    let error = fail(&mut limited("0", &platform), 2);
    let told = format!("cannot write {}", path.display());
    assert!(error.contains(&told), "{error}");
    assert!(files(&image) == before, "manifest or signatures are gone");
    succeed(&mut platform);
    assert!(!image.join("manifest.json.dsse").exists());
}

/// The file can be created, but nothing can be written to it, as with a full disk.
#[test]
fn a_key_that_cannot_be_written_leaves_no_stump() {
    let world = World::new();
    let key = world.path("key");
    let mut keygen = program();
    keygen.args(["manifest", "keygen", "--out"]).arg(&key);
    let error = fail(&mut limited("0", &keygen), 2);
    let told = format!("error: cannot write {}\n", key.display());
    assert!(error.starts_with(&told), "{error}");
    assert!(!key.exists());
    succeed(&mut keygen);
    assert_eq!(fs::read(&key).unwrap().len(), 65);
}

/// Others may be able to write to the folder of the manifest, and could place a link there that a signature would follow.
#[test]
fn a_planted_link_costs_no_key() {
    let (_world, image) = signed();
    let key = image.with_file_name("key");
    let secret = fs::read(&key).unwrap();
    fs::remove_file(image.join("manifest.json.dsse")).unwrap();
    symlink(&key, image.join(".manifest.json.dsse.partial")).unwrap();
    let mut sign = program();
    sign.args(["manifest", "sign"])
        .arg(image.join("manifest.json"));
    succeed(sign.arg("--key").arg(&key));
    assert!(
        fs::read(&key).unwrap() == secret,
        "the key is another file now"
    );
    let envelope = image.join("manifest.json.dsse");
    assert!(fs::symlink_metadata(envelope).unwrap().is_file());
}
