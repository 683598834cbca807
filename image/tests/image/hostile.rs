//! Tests that values of an untrusted manifest cannot imitate this program's output on a terminal.

use std::fs;

use cocoon_protocol::manifest::Manifest;

use crate::world::{World, fail, gguf, program, succeed};

/// A value that erases its line and writes another verdict.
const FORGED: &str = "x\u{1b}[2K\r\nidentical: the sources at hand give every artefact\u{9b}8m";

/// The same value as it is printed.
const SHOWN: &str = "x?[2K??identical: the sources at hand give every artefact?8m";

#[test]
fn values_of_a_manifest_forge_no_line() {
    let world = World::new();
    let image = world.path("image");
    succeed(&mut world.build(&image));
    let path = image.join("manifest.json");
    let mut manifest = Manifest::parse(&fs::read(&path).unwrap()).unwrap();
    let own = path.with_file_name("own.json");
    fs::copy(&path, &own).unwrap();
    manifest.source_revision = FORGED.to_owned();
    manifest.unlocked = vec![FORGED.to_owned()];
    fs::write(&path, manifest.to_json()).unwrap();

    let mut verify = program();
    verify.arg("verify").arg(&path);
    verify.arg("--model").arg(world.path("tiny.gguf"));
    world.making(&mut verify);
    let output = verify.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("DIFFERENT: "), "{text}");
    let note = format!("note: the manifest names revision {SHOWN}, the sources at hand are none\n");
    assert!(text.contains(&note), "{text}");
    assert!(plain(&text), "{text:?}");

    let mut diff = program();
    diff.args(["manifest", "diff"]).arg(&own).arg(&path);
    let text = String::from_utf8(diff.output().unwrap().stdout).unwrap();
    assert!(
        text.contains(&format!("source_revision: none → {SHOWN}\n")),
        "{text}"
    );
    assert!(plain(&text), "{text:?}");

    world.write("other.gguf", &gguf(6, 70_000));
    let mut add = program();
    add.args(["model", "add", "--image"]).arg(&image);
    add.arg("--out").arg(&image);
    add.arg("--model").arg(world.path("other.gguf"));
    let text = String::from_utf8(succeed(&mut add).stdout).unwrap();
    let mark = format!("UNLOCKED {SHOWN}: every verdict will say so\n");
    assert!(text.contains(&mark), "{text}");
    assert!(plain(&text), "{text:?}");
}

/// Errors quote values that were not understood, so they must be made safe, too.
#[test]
fn neither_do_errors() {
    let world = World::new();
    let image = world.path("image");
    succeed(&mut world.build(&image));
    let path = image.join("manifest.json");
    let mut manifest = Manifest::parse(&fs::read(&path).unwrap()).unwrap();
    manifest.model.id = FORGED.to_owned();
    fs::write(&path, manifest.to_json()).unwrap();
    let mut verify = program();
    verify.arg("verify").arg(&path);
    world.making(&mut verify);
    let error = fail(&mut verify, 2);
    assert!(plain(&error), "{error:?}");

    let field = serde_json::to_string(FORGED).unwrap();
    fs::write(&path, format!("{{{field}: 1}}")).unwrap();
    let error = fail(
        program().args(["manifest", "diff"]).arg(&path).arg(&path),
        2,
    );
    assert!(plain(&error), "{error:?}");
}

/// Returns whether there are no control characters except newlines, and no line begins like the verdict.
fn plain(text: &str) -> bool {
    let steers = text.chars().any(|c| c.is_control() && c != '\n');
    !steers && !text.lines().any(|line| line.starts_with("identical"))
}
