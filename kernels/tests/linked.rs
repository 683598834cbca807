//! Tests a program that is linked to the driver, as the engine is: cudarc's calls arrive in this crate's own functions
//! first.
//!
//! A build of cudarc either links or opens the driver, so such a program needs a separate build: this crate's unit
//! tests with the feature `linked`, against the stand-in for the driver.

use std::path::Path;
use std::process::Command;

#[path = "emulator/stand_in.rs"]
mod stand_in;

#[test]
fn calls_of_the_driver_come_to_the_table() {
    let folder = tempfile::tempdir().expect("a folder");
    let library = folder.path().join("lib");
    std::fs::create_dir(&library).expect("a new folder");
    if !stand_in::compiled(&library) {
        return;
    }
    let built = cargo(folder.path())
        .arg("--no-run")
        .output()
        .expect("cargo runs");
    let complaints = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "{complaints}");
    for (test, variable, value) in [
        (
            "a_scrub_erases_what_was_given_back_and_the_pool_and_nothing_else",
            "EMULATED_MAJOR",
            "9",
        ),
        (
            "where_memory_is_short_it_goes_back_to_the_driver_overwritten",
            "EMULATED_BYTES",
            "1000000",
        ),
        (
            "whoever_asks_for_memory_gets_what_was_kept",
            "EMULATED_BYTES",
            "1000000",
        ),
        (
            "what_is_held_since_a_moment_is_told_and_no_scrub_reaches_it",
            "EMULATED_MAJOR",
            "9",
        ),
        (
            "what_cannot_be_overwritten_is_there_for_the_next_scrub_and_is_told",
            "EMULATED_BYTES",
            "1000000",
        ),
        (
            "a_scrub_that_does_not_erase_is_found_out",
            "EMULATED_FAULT",
            "deaf",
        ),
        (
            "memory_through_which_things_cross_uncounted_is_refused",
            "EMULATED_MAJOR",
            "9",
        ),
    ] {
        let output = cargo(folder.path())
            .args(["--", "--exact", "--ignored"])
            .arg(format!("interposed::tests::linked::{test}"))
            .env(variable, value)
            .env("LD_LIBRARY_PATH", &library)
            .output()
            .expect("cargo runs");
        stand_in::passed(test, &output);
    }
}

/// The cargo command of the other build. Its target folder remains, so that only the first run compiles much.
fn cargo(cuda: &Path) -> Command {
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args([
            "test",
            "--locked",
            "--offline",
            "--package",
            "cocoon-kernels",
        ])
        .args(["--lib", "--features", "linked"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env(
            "CARGO_TARGET_DIR",
            Path::new(env!("CARGO_TARGET_TMPDIR")).join("linked"),
        )
        // The folder in which cudarc looks for the library to link.
        .env("CUDA_HOME", cuda);
    cargo
}
