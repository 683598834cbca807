//! Compiles the stand-in for the driver, and checks the output of a process that used it.

use std::path::Path;
use std::process::{Command, Output};

#[path = "../../../tests/src/skip.rs"]
mod skip;

/// Compiles the stand-in into `folder`, as `libcuda.so.1` and under the name that linkers look for. Reports why if it
/// cannot.
pub fn compiled(folder: &Path) -> bool {
    let emulator = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/emulator");
    let library = folder.join("libcuda.so.1");
    let mut compiler = Command::new("g++");
    compiler
        .args(["-std=c++17", "-O2", "-fPIC", "-shared", "-Wl,-Bsymbolic"])
        .args(["-fno-strict-aliasing", "-Wall", "-Wextra"])
        .args(["-Wno-unknown-pragmas", "-I"])
        .arg(&emulator)
        .args(["-Wl,-soname,libcuda.so.1", "-o"])
        .arg(&library)
        .args(["driver.cc", "sm90_scrub.cc", "sm90_blake3.cc"].map(|name| emulator.join(name)))
        .arg("-ldl");
    let Ok(output) = compiler.output() else {
        skip::skipped("g++ is not installed, with which the driver's stand-in is compiled");
        return false;
    };
    assert!(output.status.success(), "{}", text(&output.stderr));
    std::os::unix::fs::symlink("libcuda.so.1", folder.join("libcuda.so")).expect("a new folder");
    true
}

/// Fails unless the process has run exactly one test, which passed.
pub fn passed(test: &str, output: &Output) {
    let (said, complained) = (text(&output.stdout), text(&output.stderr));
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{test}: {said}{complained}"
    );
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
