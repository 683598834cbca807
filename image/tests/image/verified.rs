//! Tests `verify`: what it reports, and that only a program of the same sources may verify.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::world::{World, fail, gguf, program, succeed};
use cocoon_protocol::bytes::Hex32;
use cocoon_protocol::manifest::Manifest;
use serde_json::{Value, json};

fn built() -> (World, PathBuf) {
    let world = World::new();
    let image = world.path("image");
    succeed(&mut world.build(&image));
    (world, image)
}

fn verify(world: &World, image: &Path) -> Command {
    let mut command = program();
    command
        .arg("--json")
        .arg("verify")
        .arg(image.join("manifest.json"));
    command.arg("--model").arg(world.path("tiny.gguf"));
    world.making(&mut command);
    command
}

fn rejected(command: &mut Command) -> Value {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn text(command: &Command) -> String {
    let arguments = command.get_args().filter(|argument| *argument != "--json");
    let output = program().args(arguments).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn verify_accepts_the_image_and_names_the_first_difference() {
    let (world, image) = built();
    let verify = |world: &World| verify(world, &image);
    let accepted: Value = serde_json::from_slice(&succeed(&mut verify(&world)).stdout).unwrap();
    assert_eq!(accepted["identical"], true);
    assert_eq!(accepted["altered"], json!([]));
    assert_eq!(accepted["absent"], json!([]));

    world.write(
        "binaries/engine",
        &crate::world::firmware::executable(5, 300_000),
    );
    let output = verify(&world).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let refused: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(refused["first_different"], "initrd.img");
    assert!(refused["first_different_byte"].is_u64());
    // Both images have executables that were given, so the SBOMs list no libraries.
    assert_eq!(refused["other_libraries"], json!([]));

    world.write("tiny.gguf", &gguf(8, 1_000_001));
    world.write(
        "binaries/engine",
        &crate::world::firmware::executable(2, 300_000),
    );
    let refused: Value = serde_json::from_slice(&verify(&world).output().unwrap().stdout).unwrap();
    assert_eq!(refused["first_different"], "model.img");
}

/// The sources can give what the manifest describes, while other files lie beside it.
#[test]
fn the_files_beside_the_manifest_are_held_against_it() {
    let (world, image) = built();
    fs::write(image.join("vmlinuz"), "altered").unwrap();
    fs::remove_file(image.join("initrd.img")).unwrap();
    let refused = rejected(&mut verify(&world, &image));
    assert_eq!(refused["identical"], false);
    assert_eq!(refused["altered"], json!(["vmlinuz"]));
    assert_eq!(refused["absent"], json!(["initrd.img"]));
    assert_eq!(refused["differences"], json!([]));
    assert_eq!(
        text(&verify(&world, &image)),
        "DIFFERENT: the sources at hand give what the manifest describes, and that is not what lies beside it\n\
         DIFFERENT: vmlinuz beside the manifest is not the file that it describes\n\
         note: not beside the manifest: initrd.img\n"
    );

    // A manifest without its image is accepted.
    fs::remove_file(image.join("vmlinuz")).unwrap();
    let accepted = succeed(&mut verify(&world, &image)).stdout;
    let accepted: Value = serde_json::from_slice(&accepted).unwrap();
    assert_eq!(accepted["identical"], true);
    assert_eq!(accepted["absent"], json!(["initrd.img", "vmlinuz"]));
}

/// The builder's machine had packages of another update of the same Debian release.
#[test]
fn other_libraries_explain_other_executables() {
    let (world, image) = built();
    let path = image.join("sbom.spdx.json");
    let mut sbom: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let library = json!({
        "SPDXID": "SPDXRef-linked-libc.a-2.36-9-deb12u10",
        "name": "libc.a",
        "versionInfo": "2.36-9+deb12u10",
    });
    sbom["packages"].as_array_mut().unwrap().push(library);
    let bytes = serde_json::to_vec(&sbom).unwrap();
    fs::write(&path, &bytes).unwrap();
    let engine = crate::world::firmware::executable(5, 300_000);
    world.write("binaries/engine", &engine);

    // The manifest does not describe this SBOM, so it explains nothing.
    let refused = rejected(&mut verify(&world, &image));
    assert_eq!(refused["altered"], json!(["sbom.spdx.json"]));
    assert_eq!(refused["other_libraries"], Value::Null);
    let told = text(&verify(&world, &image));
    assert!(
        told.contains("with the versions of gcc and libc6-dev that the published"),
        "{told}"
    );

    let manifest = image.join("manifest.json");
    let mut described = Manifest::parse(&fs::read(&manifest).unwrap()).unwrap();
    let artefact = described.artefacts.get_mut("sbom.spdx.json").unwrap();
    (artefact.sha256, artefact.size) = (Hex32::sha256(&bytes), bytes.len() as u64);
    fs::write(&manifest, described.to_json()).unwrap();
    let refused = rejected(&mut verify(&world, &image));
    assert_eq!(
        refused["other_libraries"],
        json!([{ "name": "libc.a", "first": "2.36-9+deb12u10", "second": null }])
    );
    let told = text(&verify(&world, &image));
    assert!(
        told.contains("  libc.a: 2.36-9+deb12u10 → (absent)\n"),
        "{told}"
    );
}

/// The program may be older or newer than the sources, or compiled from an edit that was undone.
#[test]
fn a_program_of_other_sources_marks_what_it_builds_and_verifies_nothing() {
    let (world, image) = built();
    world.write("source/image/src/cmdline.rs", b"// another release's");
    let error = fail(&mut verify(&world, &image), 2);
    assert_eq!(error, "");
    let output = verify(&world, &image).output().unwrap();
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    let expected = format!(
        "this cocoon-image was compiled from other sources than those in {}: build cocoon-image anew there, or name its own \
         with --source",
        world.path("source").display()
    );
    assert_eq!(said["error"], json!([expected]));

    let other = world.path("other");
    let built = succeed(world.build(&other).arg("--json")).stdout;
    let built: Value = serde_json::from_slice(&built).unwrap();
    let marks = built["unlocked"].as_array().unwrap();
    let mark = json!("source: assembled by a program of other sources");
    assert!(marks.contains(&mark), "{marks:?}");
}
