//! An interrupted demo leaves no folder behind, whatever it is doing. A demo whose port is in use does nothing.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use cocoon_tests::processes;

/// Returns the number of run folders in a cache.
fn runs(cache: &Path) -> usize {
    let all = std::fs::read_dir(cache.join("demo")).unwrap().flatten();
    let names = all.map(|entry| entry.file_name());
    names
        .filter(|name| name.as_encoded_bytes().starts_with(b"run-"))
        .count()
}

/// Interrupted in the middle of the build: the model is a FIFO that nobody writes to, so the build waits there.
#[test]
fn an_interrupted_demo_leaves_no_folder() {
    let cache = tempfile::tempdir().unwrap();
    let model = cache.path().join("model.gguf");
    let made = Command::new("mkfifo").arg(&model).status().unwrap();
    assert!(made.success());
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let mut demo = Command::new(env!("CARGO_BIN_EXE_demo"))
            .arg("--model")
            .arg(&model)
            .env("COCOON_CACHE", cache.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(demo.stderr.take().unwrap()).lines();
        let line = lines.next().unwrap().unwrap();
        assert_eq!(line, "1/4  building the image from locked inputs");
        assert_eq!(runs(cache.path()), 1);
        assert!(processes::signal(demo.id(), signal));
        assert_eq!(demo.wait().unwrap().code(), Some(code), "{signal}");
        assert_eq!(runs(cache.path()), 0, "{signal}");
    }
}

/// A user must not wait for a build and a boot to learn that the port is in use.
#[test]
fn a_taken_port_ends_the_demo_before_it_builds() {
    let cache = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_demo"))
        .args(["--listen", &address.to_string()])
        .env("COCOON_CACHE", cache.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        format!(
            "demo: port {} on 127.0.0.1 is in use: stop the program that holds it, or choose another with --listen\n",
            address.port()
        )
    );
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(output.stdout, b"");
    assert_eq!(runs(cache.path()), 0);
}
