//! `cargo demo -- --prompt …` from the first line to the last, as a process.

use std::process::{Command, Stdio};

use cocoon_tests::trial::turn;
use cocoon_tests::{alphabet, processes};

/// The demo exits with status 0, and leaves neither a process nor a folder.
#[tokio::test(flavor = "multi_thread")]
async fn the_demo_answers_and_leaves_nothing() {
    let _turn = turn(2).await;
    tokio::task::spawn_blocking(demo).await.unwrap();
}

fn demo() {
    // In the cache that all tests share, which holds what was already compiled, fetched and unpacked.
    let runs = cocoon_tests::image::cache().unwrap().join("demo");
    let files = tempfile::tempdir().unwrap();
    let model = files.path().join("alphabet.gguf");
    std::fs::write(&model, alphabet::gguf()).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_demo"))
        .args(["--prompt", "Hi", "--max-tokens", "3", "--model"])
        .arg(&model)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{told}\n{text}");

    let mut steps = told.lines().filter(|line| line.contains("/4  "));
    for step in [
        "1/4  building the image from locked inputs",
        "2/4  booting it: QEMU, simulated hardware",
        "3/4  verifying it, as any client would",
        "4/4  asking it, over a connection attested of its own",
    ] {
        assert_eq!(steps.next(), Some(step), "{told}");
    }
    let first = told.lines().find_map(|line| {
        let line = line.trim().strip_prefix("first verified token ")?;
        line.strip_suffix(" s after QEMU's start")
    });
    let first: Option<u32> = first.and_then(|seconds| seconds.parse().ok());
    assert!(first.is_some_and(|seconds| seconds > 0), "{told}");
    // Standard output has the verdict with its checks, and then the answer.
    for part in [
        "SIMULATED: everything fits, but under a development root",
        "ok    MRTD (firmware) ",
        "ok    report data bind this session ",
    ] {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
    assert_eq!(
        text.trim_end().lines().last(),
        Some(&*alphabet::answer(3)),
        "{text}"
    );

    assert!(processes::naming(&runs).is_empty());
}
