//! A user without access to the daemon's state is told so: an empty list would claim that nothing runs here.

use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use nix::unistd::geteuid;

/// Runs the command as a user to whom file modes apply. Root gives up the capabilities that override them.
fn run(state: &Path, arguments: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_cocoon-host");
    let mut command = match geteuid().is_root() {
        true => {
            let mut bound = Command::new("setpriv");
            bound.args(["--bounding-set=-dac_override,-dac_read_search", program]);
            bound
        }
        false => Command::new(program),
    };
    let output = command.args(arguments).env("COCOON_STATE", state).output();
    output.expect("setpriv, of util-linux, where root runs this")
}

#[test]
fn a_daemon_that_may_not_be_asked_is_not_taken_for_none() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    std::fs::create_dir(&state).unwrap();
    set_permissions(&state, Permissions::from_mode(0o000)).unwrap();
    let commands: [&[&str]; 6] = [
        &["ps"],
        &["ps", "--json"],
        &["show", "first"],
        &["start", "first"],
        &["down", "first"],
        &["top", "--once"],
    ];
    for arguments in commands {
        let output = run(&state, arguments);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert_eq!(output.stdout, b"", "{arguments:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        let expected = format!(
            "the daemon's state in {state:?} is not open to this user: run the command as root or as the daemon's user"
        );
        assert!(said.contains(&expected), "{arguments:?}: {said}");
    }
    // If there is no daemon, the message says so.
    set_permissions(&state, Permissions::from_mode(0o700)).unwrap();
    let output = run(&state, &["show", "first"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("no daemon runs with this user's state"),
        "{said}"
    );
    assert!(run(&state, &["ps"]).status.success());
}
