//! Tests of pip's failures, with scripts in place of Python.

use std::os::unix::fs::PermissionsExt;
use std::sync::{Mutex, PoisonError};

use super::*;
use crate::report::Silent;

/// Serialises the tests: a script cannot be executed while a fork of another test still has it open for writing.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A script that leaves one wheel.
const WHEEL: &str =
    "for last; do dir=$before; before=$last; done; echo bytes > \"$dir/model-1.whl\"";

fn with(script: &str) -> Result<PathBuf, PipError> {
    in_place_of_pip(script, |program, cache| {
        download(program, cache, "model==1", &Silent)
    })
}

fn in_place_of_pip<T>(script: &str, then: impl FnOnce(&str, &Cache) -> T) -> T {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = tempfile::tempdir().expect("temporary folder");
    let program = dir.path().join("python3");
    std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).expect("writes");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("own file");
    let cache = Cache::open(dir.path().join("cache")).expect("opens");
    then(&program.display().to_string(), &cache)
}

#[test]
fn the_one_wheel_is_found() {
    let wheel = with(WHEEL).expect("one wheel");
    assert!(wheel.ends_with("model-1.whl"));
}

#[test]
fn the_bytes_of_a_locked_version_stay() {
    let request = Request {
        group: "model".to_owned(),
        kind: Kind::Python,
        name: "model".to_owned(),
        version: Some("1".to_owned()),
        suites: Vec::new(),
        components: Vec::new(),
        take: crate::Take::Package,
        without: Vec::new(),
        reason: "test".to_owned(),
    };
    in_place_of_pip(WHEEL, |program, cache| {
        let locking = |inputs: Vec<Entry>| {
            let old = Lock::new(vec![request.clone()], Vec::new(), inputs).expect("valid");
            lock_with(program, cache, &request, &old, &Silent)
        };
        let entry = locking(Vec::new()).expect("locked for the first time");
        assert_eq!(entry.sha256, Digest::of(b"bytes\n"));
        assert_eq!(locking(vec![entry.clone()]).expect("the same"), entry);
        let before = Entry {
            sha256: Digest::of(b"signed by nobody"),
            ..entry.clone()
        };
        assert_eq!(
            locking(vec![before.clone()])
                .expect_err("changed")
                .to_string(),
            format!(
                "the index serves another wheel of model==1 than the locked one: SHA-256 {}, locked is {}; if that is \
                 meant, remove its [[input]] from the lock file first",
                entry.sha256, before.sha256
            )
        );
        // A wheel that is not locked under this version may have any bytes.
        let other = Entry {
            version: "0.9".to_owned(),
            ..before
        };
        assert_eq!(locking(vec![other]).expect("new"), entry);
    });
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
