//! Tests the commands for images: what they do, and how they refuse, with exact messages and exit codes.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use crate::world::{World, fail, gguf, limited, program, succeed};
use cocoon_measurements::manifest as trusted;
use cocoon_protocol::bytes::Hex32;
use cocoon_protocol::manifest::Manifest;
use serde_json::Value;

fn manifest(folder: &Path) -> Manifest {
    Manifest::parse(&fs::read(folder.join("manifest.json")).unwrap()).unwrap()
}

fn built() -> (World, std::path::PathBuf) {
    let world = World::new();
    let image = world.path("image");
    succeed(&mut world.build(&image));
    (world, image)
}

#[test]
fn the_manifest_describes_the_files_beside_it() {
    let (_world, image) = built();
    let manifest = manifest(&image);
    assert_eq!(manifest.artefacts.len(), 7);
    for (name, artefact) in &manifest.artefacts {
        let bytes = fs::read(image.join(name)).unwrap();
        assert_eq!(
            (artefact.sha256, artefact.size),
            (Hex32::sha256(&bytes), bytes.len() as u64),
            "{name}"
        );
    }
    assert_eq!(
        fs::read_to_string(image.join("cmdline")).unwrap(),
        manifest.cmdline
    );
    assert_eq!(
        (manifest.not_before, manifest.not_after),
        (1_000_000, 1_000_000 + 30 * 86_400)
    );
    assert_eq!(
        (manifest.tdx.platforms.len(), manifest.snp.launch.len()),
        (5, 36)
    );
    assert!(!manifest.aml_guard);
    // The world is not a git repository, and its executables are given, so nobody else could build this image.
    assert_eq!(
        manifest.unlocked,
        [
            "source: git names no revision, so nobody else can have it",
            "source: the guest's executables were given, not built"
        ]
    );
    assert_eq!(manifest.model.id, "tiny");
    let hidden = fs::read_dir(&image)
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_name().as_encoded_bytes()[0] == b'.');
    assert_eq!(hidden.count(), 0, "no unfinished file stays");
}

#[test]
fn another_model_leaves_the_rest_alone() {
    let (world, image) = built();
    world.write("other.gguf", &gguf(6, 70_000));
    let out = world.path("second");
    let mut command = program();
    command
        .args(["model", "add", "--not-before", "1000000", "--image"])
        .arg(&image)
        .arg("--out")
        .arg(&out);
    command.arg("--model").arg(world.path("other.gguf"));
    succeed(&mut command);
    let (old, new) = (manifest(&image), manifest(&out));
    for name in ["vmlinuz", "initrd.img", "OVMF.tdx.fd", "OVMF.snp.fd"] {
        assert_eq!(old.artefacts[name], new.artefacts[name]);
        assert_eq!(
            fs::read(image.join(name)).unwrap(),
            fs::read(out.join(name)).unwrap()
        );
    }
    assert_eq!(new.model.id, "other");
    assert_eq!((old.tdx.mrtd, old.tdx.rtmr1), (new.tdx.mrtd, new.tdx.rtmr1));
    assert_ne!(old.tdx.rtmr2, new.tdx.rtmr2);

    // The result is the same as that of a build with the other model.
    let direct = world.path("direct");
    let mut command = world.build(&direct);
    command.arg("--model-id").arg("other");
    let arguments = command.get_args().map(|argument| match argument.to_str() {
        Some(path) if path.ends_with("tiny.gguf") => world.path("other.gguf").into_os_string(),
        _ => argument.to_owned(),
    });
    succeed(program().args(arguments));
    assert_eq!(manifest(&direct), new);

    // The release is that of the image, unless another one is given.
    let numbered = world.path("numbered");
    succeed(world.build(&numbered).args(["--release", "7"]));
    for (more, release) in [(&[][..], 7), (&["--release", "8"], 8)] {
        let added: Value = serde_json::from_slice(
            &succeed(command_add(&world, &numbered).arg("--json").args(more)).stdout,
        )
        .unwrap();
        assert_eq!(added["release"], release);
    }

    fs::write(image.join("vmlinuz"), "altered").unwrap();
    let error = fail(&mut command_add(&world, &image), 2);
    let path = image.join("vmlinuz");
    assert_eq!(
        error.lines().last().unwrap(),
        format!(
            "error: {} is not the file that the image's manifest describes: build the image again",
            path.display()
        )
    );
}

/// The GPUs on the command line follow from the variant and not from the model.
#[test]
fn an_image_with_a_simulated_gpu_asks_for_it_with_every_model() {
    const GPUS: &str = " cocoon.gpu=simulated:1 ";
    let (world, plain) = built();
    assert!(
        !fs::read_to_string(plain.join("cmdline"))
            .unwrap()
            .contains("cocoon.gpu")
    );
    let image = world.path("simulated");
    let build = world.build(&image);
    let arguments = build.get_args().map(|argument| match argument.to_str() {
        Some("cpu") => "cuda-simulated".into(),
        _ => argument.to_owned(),
    });
    succeed(program().args(arguments));
    world.write("other.gguf", &gguf(6, 70_000));
    succeed(&mut command_add(&world, &image));
    for (image, model) in [(image.clone(), "tiny"), (world.path("third"), "other")] {
        let cmdline = fs::read_to_string(image.join("cmdline")).unwrap();
        assert!(cmdline.contains(GPUS), "{cmdline}");
        let manifest = manifest(&image);
        assert_eq!(
            (&*manifest.variant, &*manifest.model.id),
            ("cuda-simulated", model)
        );
    }

    // An unknown variant is refused, because the new command line could be that of another variant.
    let path = image.join("manifest.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("\"cuda-simulated\"", "\"cuda-next\"")).unwrap();
    let error = fail(&mut command_add(&world, &image), 2);
    let expected = "the manifest says that the image is of the variant \"cuda-next\", which this release does not know: use the one that \
                    built it";
    assert!(error.contains(expected), "{error}");
}

fn command_add(world: &World, image: &Path) -> std::process::Command {
    let mut command = program();
    command
        .args(["model", "add", "--image"])
        .arg(image)
        .arg("--out")
        .arg(world.path("third"));
    command.arg("--model").arg(world.path("other.gguf"));
    command
}

#[test]
fn keys_sign_and_are_never_overwritten() {
    let (world, image) = built();
    let key = world.path("key");
    let made: Value = serde_json::from_slice(
        &succeed(
            program()
                .args(["--json", "manifest", "keygen", "--out"])
                .arg(&key),
        )
        .stdout,
    )
    .unwrap();
    let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(&key).unwrap());
    assert_eq!(mode & 0o777, 0o600);
    let again = fail(program().args(["manifest", "keygen", "--out"]).arg(&key), 2);
    assert_eq!(
        again,
        format!(
            "error: cannot write {}\n  because: File exists (os error 17)\n",
            key.display()
        )
    );

    let path = image.join("manifest.json");
    let sign = |key: &Path| {
        let mut command = program();
        command
            .args(["--json", "manifest", "sign"])
            .arg(&path)
            .arg("--key")
            .arg(key);
        command
    };
    let signed: Value = serde_json::from_slice(&succeed(&mut sign(&key)).stdout).unwrap();
    assert_eq!(signed["signer"], made["signer"]);
    let second = world.path("second-key");
    succeed(program().args(["manifest", "keygen", "--out"]).arg(&second));
    succeed(&mut sign(&second));
    let envelope: Value =
        serde_json::from_slice(&fs::read(image.join("manifest.json.dsse")).unwrap()).unwrap();
    assert_eq!(envelope["signatures"].as_array().unwrap().len(), 2);

    world.write("rubbish", b"not a key");
    let command = &mut sign(&world.path("rubbish"));
    let error: Value = serde_json::from_slice(&command.output().unwrap().stdout).unwrap();
    let expected = format!(
        "{} is not a secret key: expected 64 hexadecimal digits",
        world.path("rubbish").display()
    );
    assert_eq!(error["error"][0], expected);

    // A client that pins both keys accepts the manifest; one that pins another key does not.
    let (bytes, envelope) = (
        fs::read(&path).unwrap(),
        fs::read(image.join("manifest.json.dsse")).unwrap(),
    );
    let signer = |key: &Path| {
        let secret = hex::decode(fs::read_to_string(key).unwrap().trim()).unwrap();
        trusted::public_key(&secret.try_into().unwrap())
    };
    let trust = |signers: Vec<[u8; 32]>| {
        let trust = trusted::ManifestTrust {
            threshold: signers.len(),
            signers,
            allow_unlocked: true,
            ..Default::default()
        };
        trusted::trust(&bytes, Some(&envelope), &trust, 1_000_000)
    };
    assert!(trust(vec![signer(&key), signer(&second)]).is_ok());
    let refused = trust(vec![[1; 32]]).unwrap_err();
    let names: Value = serde_json::from_slice(&envelope).unwrap();
    let name = |at: usize| {
        names["signatures"][at]["keyid"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(
        refused.to_string(),
        format!(
            "manifest {} is signed by nobody you trust: signed by {}, {}; if that is the new signer, verify the key by \
             another way and pin it",
            Hex32::sha256(&bytes),
            name(0),
            name(1)
        )
    );

    // A new build removes the signatures, because they are not over its manifest.
    succeed(&mut world.build(&image));
    assert!(!image.join("manifest.json.dsse").exists());
}

#[test]
fn bad_models_are_refused_before_anything_is_built() {
    let world = World::new();
    let out = world.path("image");
    world.write("tiny.gguf", b"PK\x03\x04rest");
    let error = fail(&mut world.build(&out), 2);
    let model = world.path("tiny.gguf").display().to_string();
    assert_eq!(
        error,
        format!(
            "error: cannot use the given model\n  because: {model} is not a GGUF file: it begins with [50, 4b, 03, 04], \
             expected [47, 47, 55, 46] (\"GGUF\")\n"
        )
    );
    fs::remove_file(world.path("tiny.gguf")).unwrap();
    let error = fail(&mut world.build(&out), 2);
    assert_eq!(
        error,
        format!(
            "error: cannot use the given model\n  because: cannot read the model\n  because: cannot read {model}\n  \
             because: No such file or directory (os error 2)\n"
        )
    );
    assert!(!out.exists());
}

/// A limit on the size of files has the same effect as a full disk.
#[test]
fn what_cannot_be_written_is_named_and_not_left() {
    // The model is written first, and is smaller than the second limit.
    for (blocks, name) in [("0", "model.img"), ("256", "initrd.img")] {
        let world = World::new();
        world.write("tiny.gguf", &gguf(3, 50_000));
        let out = world.path("image");
        let error = fail(&mut limited(blocks, &world.build(&out)), 2);
        let lines: Vec<_> = error.lines().rev().take(2).collect();
        assert_eq!(
            lines,
            [
                "  because: File too large (os error 27)".to_owned(),
                format!("  because: cannot write {}", out.join(name).display()),
            ],
            "{error}"
        );
        assert!(!out.join(name).exists());
        assert!(!out.join("manifest.json").exists());
        let hidden = |name: &std::ffi::OsStr| name.as_encoded_bytes().starts_with(b".");
        let mut left = fs::read_dir(&out).unwrap().flatten();
        assert!(!left.any(|entry| hidden(&entry.file_name())));
    }
}

#[test]
fn manifests_are_compared_field_by_field() {
    let (world, image) = built();
    let (one, other) = (image.join("manifest.json"), world.path("other.json"));
    let diff = |other: &Path| {
        let mut command = program();
        command.args(["manifest", "diff"]).arg(&one).arg(other);
        command
    };
    succeed(&mut diff(&one));
    let mut changed = manifest(&image);
    changed.release = 7;
    fs::write(&other, changed.to_json()).unwrap();
    let output = diff(&other).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "release: 1 → 7\n"
    );
    // The exit code tells the result, even if nobody reads the output.
    let mut child = diff(&other).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(1));
}

#[test]
fn rubbish_in_the_place_of_a_manifest_is_an_error_of_use() {
    let world = World::new();
    world.write("m.json", b"{}");
    let path = world.path("m.json");
    let error = fail(
        program().args(["manifest", "diff"]).arg(&path).arg(&path),
        2,
    );
    assert_eq!(
        error,
        format!(
            "error: {} is not the manifest of an image\n  because: manifest is not JSON of the expected schema\n  \
             because: missing field `version` at line 1 column 2\n",
            path.display()
        )
    );
    assert_eq!(
        program().arg("build").output().unwrap().status.code(),
        Some(2)
    );
}
