//! The service and the package, held against the tools that will read them, where this machine has those.

#[path = "../../tests/src/skip.rs"]
mod skip;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Greatest exposure that `systemd-analyze security` may find, in tenths: the unit has 21, and "MEDIUM" begins at 50.
const EXPOSURE: &str = "25";

fn packaging() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging")
}

/// The unit, with the program that was just built in the place where the package puts it.
fn unit(folder: &Path) -> PathBuf {
    placed(folder, "cocoon-host.service", "cocoon-host.service")
}

fn placed(folder: &Path, name: &str, at: &str) -> PathBuf {
    let text = std::fs::read_to_string(packaging().join(name)).unwrap();
    let text = text.replace("/usr/bin/cocoon-host", env!("CARGO_BIN_EXE_cocoon-host"));
    let path = folder.join(at);
    std::fs::write(&path, text).unwrap();
    path
}

fn analyze(arguments: &[&str], unit: &Path) -> Option<Output> {
    let output = Command::new("systemd-analyze")
        .args(arguments)
        .arg(unit)
        .output();
    match output {
        Ok(output) => Some(output),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            skip::skipped("there is no systemd-analyze: apt-get install systemd");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn the_unit_is_one_that_systemd_understands() {
    let folder = tempfile::tempdir().unwrap();
    let Some(output) = analyze(&["verify", "--man=no"], &unit(folder.path())) else {
        return;
    };
    // Other units of the machine may be at fault, too; ours is named with its own.
    let said = String::from_utf8(output.stderr).unwrap();
    let ours: Vec<&str> = said
        .lines()
        .filter(|line| line.contains("cocoon-host"))
        .collect();
    assert_eq!(ours, [""; 0]);
    // And it does look: a key that is none is found.
    let text = std::fs::read_to_string(unit(folder.path())).unwrap();
    let broken = folder.path().join("cocoon-host.service");
    std::fs::write(&broken, text.replace("KillMode=", "KilMode=")).unwrap();
    let said = analyze(&["verify", "--man=no"], &broken).unwrap().stderr;
    let said = String::from_utf8(said).unwrap();
    assert!(said.contains("KilMode"), "{said}");
}

/// A GPU's address is a name for its instance.
#[test]
fn the_unit_of_a_gpu_is_one_that_systemd_understands() {
    let folder = tempfile::tempdir().unwrap();
    let gpu = placed(
        folder.path(),
        "cocoon-gpu@.service",
        "cocoon-gpu@0000:41:00.0.service",
    );
    let Some(output) = analyze(&["verify", "--man=no"], &gpu) else {
        return;
    };
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!said.contains("cocoon-gpu"), "{said}");
}

/// A halt and a daemon that leaves its VMs look alike to systemd, but for this.
#[test]
fn the_unit_starts_the_next_daemon_after_one_that_left() {
    let text = std::fs::read_to_string(packaging().join("cocoon-host.service")).unwrap();
    for line in [
        "RestartForceExitStatus=129 SIGHUP",
        "SuccessExitStatus=129",
        "ExecReload=/bin/kill -HUP $MAINPID",
        "TimeoutStopSec=infinity",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}");
    }
}

#[test]
fn the_unit_exposes_little() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = [
        "security",
        "--offline=true",
        "--threshold",
        EXPOSURE,
        "--no-pager",
    ];
    let Some(output) = analyze(&arguments, &unit(folder.path())) else {
        return;
    };
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("unrecognized option") {
        return skip::skipped("this systemd-analyze cannot judge a unit offline: systemd 250 can");
    }
    assert!(
        output.status.success(),
        "{}{said}",
        String::from_utf8_lossy(&output.stdout)
    );
}

/// A file that was renamed would otherwise be missed only when the package is built.
#[test]
fn the_package_names_files_that_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = std::fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let manifest: toml::Table = toml::from_str(&manifest).unwrap();
    let deb = &manifest["package"]["metadata"]["deb"];
    let mut built = vec![];
    for asset in deb["assets"].as_array().unwrap() {
        let source = asset[0].as_str().unwrap();
        match source.strip_prefix("target/release/") {
            Some(name) => built.push(name),
            None => assert!(root.join(source).is_file(), "{source}"),
        }
    }
    let expected = [
        "cocoon-host",
        "cocoon-host.1",
        "cocoon-host.bash",
        "cocoon-host.zsh",
        "cocoon-host.fish",
    ];
    assert_eq!(built, expected);
    // Each is made by the step that builds the package.
    let step = std::fs::read_to_string(root.join("../.ci/full")).unwrap();
    assert!(step.contains("for shell in bash zsh fish; do"));
    assert!(
        root.join(deb["license-file"][0].as_str().unwrap())
            .is_file()
    );
    let scripts = root.join(deb["maintainer-scripts"].as_str().unwrap());
    assert!(scripts.join("postinst").is_file());
}
