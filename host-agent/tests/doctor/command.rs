//! `cocoon-host doctor` on the machine that runs the tests, whatever its hardware.

use std::process::{Command, Output};

use serde_json::Value;

use crate::absent::absent;
use crate::clients;

fn doctor(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cocoon-host"))
        .arg("doctor")
        // A fixed port might be in use.
        .args(["--listen", "127.0.0.1:0"])
        .args(arguments)
        .output()
        .expect("it runs")
}

#[test]
fn it_says_what_this_machine_is_ready_for_and_exits_accordingly() {
    let all = ["tdx", "sev-snp", "simulated-kvm", "simulated-emulated"];
    for (arguments, modes) in [
        (&[][..], &all[..]),
        (&["--for", "tdx"][..], &all[..1]),
        (&["--for", "snp"][..], &all[1..2]),
        (&["--for", "simulated"][..], &all[2..]),
    ] {
        let output = doctor(&[arguments, &["--json"]].concat());
        let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
        let found = report["modes"].as_array().expect("modes");
        let names: Vec<_> = found
            .iter()
            .map(|mode| mode["mode"].as_str().unwrap())
            .collect();
        assert_eq!(names, modes);
        let ready = found.iter().any(|mode| mode["ready"] == true);
        assert_eq!(output.status.code(), Some(i32::from(!ready)), "{report}");
        let findings = report["findings"].as_array().expect("findings");
        assert!(!findings.is_empty());
        for finding in findings {
            for key in ["id", "severity", "found", "needed", "fix"] {
                assert!(finding[key].is_string(), "{key} of {finding}");
            }
        }
        assert_eq!(report["clients"], Value::Null);
    }
}

#[test]
fn people_get_a_line_for_each_mode() {
    let output = doctor(&[]);
    let text = String::from_utf8(output.stdout).expect("text");
    let last: Vec<&str> = text.lines().rev().take(4).collect();
    for (line, mode) in last.iter().rev().zip([
        "real TDX ",
        "real SEV-SNP ",
        "simulated under KVM ",
        "simulated under emulation ",
    ]) {
        assert!(line.starts_with(mode), "{text}");
    }
}

#[test]
fn what_cannot_be_examined_is_an_error_of_use() {
    for (arguments, said) in [
        (&["--policy", "policy.toml"][..], "--image <IMAGE>"),
        (
            &["--for", "sgx"][..],
            "invalid value 'sgx' for '--for <MODE>'",
        ),
        (
            &["--image", "/nonexistent"][..],
            "the image is incomplete: cannot read \"/nonexistent/cmdline\"",
        ),
        (
            &["--image", "/nonexistent", "--policy", "/nonexistent"][..],
            "cannot read the policy \"/nonexistent\"",
        ),
    ] {
        let output = doctor(arguments);
        assert_eq!(output.status.code(), Some(2));
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.contains(said), "{error}");
    }
}

/// `up` reports the same finding as `doctor`, and leaves no files behind.
#[test]
fn up_refuses_a_tee_that_this_machine_has_not() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    clients::lay_down(folder.path());
    for (tee, mode) in [("tdx", "real TDX"), ("snp", "real SEV-SNP")] {
        let judged = doctor(&["--for", tee, "--json"]);
        if judged.status.success() {
            absent(format_args!("this machine has {mode}"));
            continue;
        }
        let report: Value = serde_json::from_slice(&judged.stdout).expect("one JSON object");
        let first = report["modes"][0]["because"][0]
            .as_str()
            .expect("a finding");
        let output = Command::new(env!("CARGO_BIN_EXE_cocoon-host"))
            .args(["up", "--listen", "127.0.0.1:0", "--tee", tee, "--image"])
            .arg(folder.path())
            .env("COCOON_STATE", folder.path().join("state"))
            .output()
            .expect("it runs");
        assert_eq!(output.status.code(), Some(2));
        let error = String::from_utf8_lossy(&output.stderr);
        let expected = format!("cocoon-host: this machine cannot start a VM in {mode}: {first}: ");
        assert!(error.contains(&expected), "{error}");
        assert!(!folder.path().join("state").exists());
    }
}

#[test]
fn a_tee_is_real_or_simulated() {
    for (arguments, said) in [
        (
            &["--tee", "tdx", "--simulate", "tdx"][..],
            "cannot be used with",
        ),
        (&["--tee", "sgx"][..], "\"sgx\" is no TEE: use tdx or snp"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_cocoon-host"))
            .args(["up", "--image", "/nonexistent"])
            .args(arguments)
            .output()
            .expect("it runs");
        assert_eq!(output.status.code(), Some(2));
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.contains(said), "{error}");
    }
}
