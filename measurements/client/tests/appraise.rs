//! `cocoon appraise` on evidence of real hardware: genuine, and for all that not called confidential.
//!
//! Evidence is read from the folder named by `COCOON_VECTORS`, or from `../shared/vectors` beside the checkout; where
//! it is absent, the test prints SKIPPED.

use std::path::PathBuf;
use std::process::Command;

#[test]
fn real_hardware_is_genuine_and_no_more() {
    let beside = || {
        PathBuf::from(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../../shared/vectors"
        ))
    };
    let folder = std::env::var_os("COCOON_VECTORS").map_or_else(beside, PathBuf::from);
    let quote = folder.join("tdx/dcapqvl_tdx_quote");
    if !quote.exists() {
        println!("SKIPPED: {} is needed: set COCOON_VECTORS", quote.display());
        return;
    }
    let appraise = |extra: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_cocoon"))
            .args(["appraise", "tdx", "--time", TIME, "--quote"])
            .arg(&quote)
            .arg("--collateral")
            .arg(folder.join("tdx/dcapqvl_tdx_quote_collateral.json"))
            .args(extra)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let shown = appraise(&[]);
    assert_eq!(
        shown.lines().next(),
        Some(
            "GENUINE: signatures and endorsements hold under the vendor root; measurements not compared"
        )
    );
    let shown: serde_json::Value = serde_json::from_str(&appraise(&["--json"])).unwrap();
    assert_eq!(
        (
            &shown["class"],
            &shown["root"],
            &shown["measurements_compared"]
        ),
        (&"genuine".into(), &"vendor".into(), &false.into())
    );
}

/// A policy file is held against real evidence, too: the example's defaults, and a list of other machines.
#[test]
fn real_hardware_under_a_policy() {
    let beside = || {
        PathBuf::from(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../../shared/vectors"
        ))
    };
    let folder = std::env::var_os("COCOON_VECTORS").map_or_else(beside, PathBuf::from);
    let quote = folder.join("tdx/dcapqvl_tdx_quote");
    if !quote.exists() {
        println!("SKIPPED: {} is needed: set COCOON_VECTORS", quote.display());
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let policy = home.path().join("policy.toml");
    let appraise = |text: &str, extra: &[&str]| {
        std::fs::write(&policy, text).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_cocoon"))
            .args(["appraise", "tdx", "--time", TIME, "--quote"])
            .arg(&quote)
            .arg("--collateral")
            .arg(folder.join("tdx/dcapqvl_tdx_quote_collateral.json"))
            .arg("--policy")
            .arg(&policy)
            .args(extra)
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (
            output.status.code().unwrap(),
            text(output.stdout),
            text(output.stderr),
        )
    };
    let (code, shown, error) = appraise(include_str!("../docs/policy.toml"), &["--json"]);
    assert_eq!(code, 0, "{shown}{error}");
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let checks = shown["checks"].as_array().unwrap();
    let ids: Vec<_> = checks
        .iter()
        .map(|check| check["id"].as_str().unwrap())
        .collect();
    assert_eq!(
        ids,
        [
            "evidence.tcb",
            "evidence.advisories",
            "evidence.machine",
            "evidence.collateral",
            "evidence.collateral",
            "evidence.tcb_evaluation"
        ]
    );
    let machine = checks[2]["found"].as_str().unwrap();
    assert_eq!(
        machine,
        format!("intel-ppid:{}", shown["ppid"].as_str().unwrap())
    );
    let listed = format!("[policy]\nmachines = [\"{machine}\"]\n");
    assert_eq!(appraise(&listed, &[]).0, 0);
    let others = format!(
        "[policy]\nmachines = [\"intel-ppid:{}\"]\n",
        "11".repeat(16)
    );
    assert_eq!(
        appraise(&others, &[]),
        (
            1,
            "REJECTED: genuine evidence, of a machine that your policy does not list\n".to_owned(),
            String::new()
        )
    );
    let (code, _, error) = appraise("machines = []\n", &[]);
    assert_eq!(code, 2);
    assert!(
        error.contains("line 1") && error.contains("unknown field `machines`"),
        "{error}"
    );
}

/// Within the dates of the collateral.
const TIME: &str = "1752048802";
