//! pip's failures, with scripts in its place.

use std::os::unix::fs::PermissionsExt;
use std::sync::{Mutex, PoisonError};

use super::*;
use crate::report::Silent;

/// A script cannot be executed while a fork of another test still holds it open for writing.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn with(script: &str) -> Result<PathBuf, PipError> {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = tempfile::tempdir().expect("temporary folder");
    let program = dir.path().join("python3");
    std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).expect("writes");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("own file");
    let cache = Cache::open(dir.path().join("cache")).expect("opens");
    download(&program.display().to_string(), &cache, "model==1", &Silent)
}

#[test]
fn the_one_wheel_is_found() {
    let wheel =
        with("for last; do dir=$before; before=$last; done; echo bytes > \"$dir/model-1.whl\"")
            .expect("one wheel");
    assert!(wheel.ends_with("model-1.whl"));
}

#[test]
fn failures_are_told_apart() {
    let said = |script| with(script).expect_err("fails").to_string();
    assert_eq!(
        said("echo '/usr/bin/python3: No module named pip' >&2; exit 1"),
        "python3 has no pip: apt install python3-pip"
    );
    assert_eq!(
        said("echo 'ERROR: no such version' >&2; exit 1"),
        "pip cannot download model==1: ERROR: no such version"
    );
    assert_eq!(
        said("exit 0"),
        "pip left 0 wheels for model==1, expected one"
    );
}

#[test]
fn without_python_the_error_says_what_to_install() {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = tempfile::tempdir().expect("temporary folder");
    let cache = Cache::open(dir.path()).expect("opens");
    let error = download("no-such-python", &cache, "model==1", &Silent).expect_err("no program");
    assert_eq!(
        error.to_string(),
        "cannot start no-such-python: apt install python3 python3-pip"
    );
}
