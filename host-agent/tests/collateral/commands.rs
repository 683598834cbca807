//! `cocoon-host collateral` as a user runs it.

use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

use super::double::{Double, Reply};
use super::nvidia::{DRIVER_RIM, VBIOS_RIM, everything};
use super::services;

struct Machine {
    folder: TempDir,
}

impl Machine {
    fn new(double: &Double) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let text = toml::to_string(&services(double)).unwrap();
        std::fs::write(folder.path().join("services.toml"), text).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_cocoon-host"))
            .arg("collateral")
            .arg("--store")
            .arg(self.path("store"))
            .arg("--services")
            .arg(self.path("services.toml"))
            .args(arguments)
            .output()
            .unwrap()
    }
}

fn text(output: &Output) -> (Option<i32>, String) {
    let words = [&output.stdout[..], &output.stderr[..]].concat();
    (output.status.code(), String::from_utf8(words).unwrap())
}

#[test]
fn names_are_fetched_looked_at_and_carried() {
    let double = everything();
    let machine = Machine::new(&double);
    let (code, empty) = text(&machine.run(&["show"]));
    assert_eq!(code, Some(0));
    let store = machine.path("store");
    assert_eq!(empty, format!("nothing is kept in {}\n", store.display()));
    assert!(!store.exists(), "who looks makes no folders");
    let (code, words) = text(&machine.run(&["show", "--vbios", "96.00.5E.00.01"]));
    assert_eq!(code, Some(2));
    assert!(
        words.contains("`cocoon-host collateral fetch` asks for them"),
        "{words}"
    );

    let (code, fetched) = text(&machine.run(&["fetch"]));
    assert_eq!(
        (code, fetched.as_str()),
        (
            Some(0),
            "ok      NVIDIA, names of manifests: good for 7 days\n"
        )
    );
    let (code, again) = text(&machine.run(&["fetch"]));
    assert_eq!((code, again.as_str()), (Some(0), "nothing is due\n"));
    assert_eq!(double.lines(), ["GET /v1/rim/ids"]);

    let there = [
        "show",
        "--vbios",
        "96.00.5e.00.01",
        "--driver",
        "550.144.03",
    ];
    assert_eq!(
        text(&machine.run(&there)),
        (
            Some(0),
            format!(
                "ok      driver 550.144.03: {DRIVER_RIM}\nok      VBIOS 96.00.5e.00.01: {VBIOS_RIM}\n"
            )
        )
    );
    let missing = machine.run(&["show", "--vbios", "96.00.5E.00.02"]);
    assert_eq!(
        text(&missing),
        (
            Some(1),
            "MISSING VBIOS 96.00.5E.00.02: NVIDIA has no reference manifest of it\n".to_owned()
        )
    );

    let file = machine.path("bundle.json");
    let path = file.to_str().unwrap();
    assert_eq!(
        text(&machine.run(&["export", path])),
        (Some(0), format!("1 of 1 written to {path}\n"))
    );
    let other = Machine::new(&double);
    assert_eq!(
        text(&other.run(&["import", path])),
        (
            Some(0),
            "ok      NVIDIA, names of manifests: taken\n".to_owned()
        )
    );
    assert_eq!(text(&other.run(&there)).0, Some(0));
    assert_eq!(double.lines(), Vec::<String>::new());
}

/// The command line accepts documents under the vendors' roots only, so a manifest under a simulated root is refused.
#[test]
fn what_cannot_be_had_is_a_row_and_the_exit_code() {
    let double = everything();
    let machine = Machine::new(&double);
    let output = machine.run(&["fetch", "--driver-rim", DRIVER_RIM, "--json"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output).1);
    let rows: Value = serde_json::from_slice(&output.stdout).unwrap();
    let row = &rows[0];
    assert_eq!(row["title"], format!("NVIDIA, manifest {DRIVER_RIM}"));
    assert_eq!(
        (&row["vendor"], &row["good"]),
        (&"NVIDIA".into(), &false.into())
    );
    let state = row["state"].as_str().unwrap();
    assert!(state.contains("development root not named"), "{state}");
    // The failure is remembered.
    let (code, shown) = text(&machine.run(&["show"]));
    assert_eq!(code, Some(1));
    assert!(
        shown.contains(&format!(
            "MISSING NVIDIA, manifest {DRIVER_RIM}: asked 1 times, "
        )),
        "{shown}"
    );
}

#[test]
fn slips_are_named() {
    let double = Double::start(|_| Reply::Status(404));
    let machine = Machine::new(&double);
    let wrong = |arguments: &[&str], expected: &str| {
        let (code, words) = text(&machine.run(arguments));
        assert_eq!(code, Some(2), "{words}");
        assert!(words.contains(expected), "{words}");
    };
    wrong(&["fetch", "--vbios-rim", "../x"], "--vbios-rim");
    wrong(&["import", "/nowhere"], "cannot read /nowhere");
    let services = machine.path("services.toml");
    std::fs::write(&services, "amd = 5").unwrap();
    wrong(&["show"], "does not name services");
}

/// For example `collateral --store kept/here`, if neither folder exists yet.
#[test]
fn a_store_may_be_named_from_where_the_command_runs() {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_cocoon-host"))
        .args(["collateral", "--store", "kept/here", "import", "missing"])
        .current_dir(folder.path())
        .output()
        .unwrap();
    let (code, words) = text(&output);
    assert_eq!(code, Some(2), "{words}");
    assert!(words.contains("missing"), "{words}");
    assert!(folder.path().join("kept/here/entries").is_dir(), "{words}");
}
