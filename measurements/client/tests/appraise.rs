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

/// Within the dates of the collateral.
const TIME: &str = "1752048802";
