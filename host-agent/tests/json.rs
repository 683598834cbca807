//! Every command that prints something for people also prints it for programs.

use std::path::Path;
use std::process::{Command, Output};

use cocoon_host_agent::log::{Entry, FILE, Source};
use serde_json::{Value, json};

fn run(state: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cocoon-host"))
        .args(arguments)
        .env("COCOON_STATE", state)
        .output()
        .unwrap()
}

fn printed(state: &Path, arguments: &[&str]) -> String {
    let output = run(state, arguments);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Writes the files that a VM leaves behind when it ends.
fn ended(state: &Path) {
    let folder = state.join("vms/first");
    std::fs::create_dir_all(&folder).unwrap();
    let lines = [
        (1.5, Source::Host, "QEMU runs (process 7)"),
        (2.25, Source::Console, "cocoon: phase mounts 12 ms"),
    ];
    let lines = lines.map(|(time, source, text)| {
        let text = text.to_owned();
        serde_json::to_string(&Entry { time, source, text }).unwrap() + "\n"
    });
    std::fs::write(folder.join(FILE), lines.concat()).unwrap();
    std::fs::write(folder.join("serial.log"), "cocoon: phase mounts 12 ms\r\n").unwrap();
    std::fs::write(folder.join("manifest.json"), "{}").unwrap();
}

#[test]
fn a_vm_that_has_ended_is_described_in_json() {
    let state = tempfile::tempdir().unwrap();
    assert_eq!(printed(state.path(), &["ps", "--json"]), "[]\n");
    ended(state.path());

    let list: Value = serde_json::from_str(&printed(state.path(), &["ps", "--json"])).unwrap();
    assert_eq!(list, json!([{ "name": "first", "status": null }]));

    let logs = printed(state.path(), &["logs", "first", "--json"]);
    let lines: Vec<Value> = logs
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let expected = [
        json!({ "time": 1.5, "source": "host", "text": "QEMU runs (process 7)" }),
        json!({ "time": 2.25, "source": "console", "text": "cocoon: phase mounts 12 ms" }),
    ];
    assert_eq!(lines, expected);
    assert_eq!(
        printed(state.path(), &["logs", "first"]),
        "cocoon: phase mounts 12 ms\r\n"
    );

    let measured = printed(state.path(), &["measurements", "first", "--json"]);
    let measured: Value = serde_json::from_str(&measured).unwrap();
    assert_eq!(measured["name"], "first");
    assert_eq!(measured["manifest_id"].as_str().unwrap().len(), 64);

    // Failures are reported on standard error. Standard output holds JSON or nothing.
    let down = run(state.path(), &["down", "first", "--json"]);
    assert_eq!(down.status.code(), Some(2));
    let events = String::from_utf8(down.stdout).unwrap();
    let event: Value = serde_json::from_str(&events).unwrap();
    assert_eq!(event, json!({ "event": "note", "text": "stopping first" }));
    let up = run(
        state.path(),
        &["up", "--json", "--image", "/nonexistent", "--name", "first"],
    );
    assert_eq!(up.status.code(), Some(2));
    assert_eq!(up.stdout, b"");
    let error = String::from_utf8(up.stderr).unwrap();
    assert!(
        error.starts_with("cocoon-host: the image is incomplete: cannot read "),
        "{error}"
    );
}
