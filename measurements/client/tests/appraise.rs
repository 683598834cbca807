//! Tests of `cocoon appraise` on evidence of real hardware: if it meets the policy, it is genuine
//! but never confidential; otherwise it is rejected, and all checks are shown.
//!
//! Evidence is read from the folder in `COCOON_VECTORS`, or from `../shared/vectors` next to the
//! checkout. If it is missing, the tests print SKIPPED. The newest quote is part of `dcap-qvl`.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;
use vectors::vector;

mod vectors;

/// Time at which the collateral of the published TDX quote is valid.
const TDX_TIME: &str = "1752048802";
/// Time at which the collateral of October 2026 is valid.
const TDX_5_TIME: &str = "1791504000";
/// Time at which the VCEK is valid.
const SNP_TIME: &str = "1775000000";
/// Policy for the published quote, whose collateral is older than the default policy accepts.
const OF_ITS_TIME: &str = "[policy]\nmin_tcb_evaluation = 17\n";

#[test]
fn real_hardware_is_genuine_and_no_more() {
    let Some(evidence) = Evidence::tdx() else {
        return;
    };
    let (code, shown, error) = evidence.under(OF_ITS_TIME, &[]);
    assert_eq!((code, error.as_str()), (0, ""), "{shown}");
    assert_eq!(
        shown.lines().next(),
        Some(
            "GENUINE: signatures and endorsements hold under the vendor root; the policy is met; measurements not \
             compared"
        )
    );
    assert!(shown.contains("\n  mrtd  "), "{shown}");
    assert!(shown.contains("\nok    machine  "), "{shown}");
    let (code, shown) = evidence.json(Some(OF_ITS_TIME), &[]);
    assert_eq!(code, 0);
    assert_eq!(
        (
            &shown["class"],
            &shown["root"],
            &shown["measurements_compared"]
        ),
        (&"genuine".into(), &"vendor".into(), &false.into())
    );
    assert_eq!(failed(&shown), [""; 0]);
}

/// Without a policy file, the default policy is used, as for sessions. The example file states the
/// same defaults.
#[test]
fn the_default_policy_judges_when_none_is_named() {
    let Some(evidence) = Evidence::tdx() else {
        return;
    };
    for policy in [None, Some(include_str!("../docs/policy.toml"))] {
        let (code, shown) = evidence.json(policy, &[]);
        assert_eq!((code, &shown["class"]), (1, &"rejected".into()));
        assert_eq!(failed(&shown), ["evidence.tcb_evaluation"]);
        assert_eq!(shown["mrtd"], Value::Null, "what is rejected says nothing");
    }
}

/// The newest evidence meets the default policy: a quote of version 5 with the extended report of
/// TDX 1.5.
#[test]
fn real_hardware_of_today_is_genuine_under_the_default_policy() {
    let Some(evidence) = Evidence::tdx_5() else {
        return;
    };
    for policy in [None, Some(include_str!("../docs/policy.toml"))] {
        let (code, shown) = evidence.json(policy, &[]);
        assert_eq!((code, &shown["class"]), (0, &"genuine".into()), "{shown}");
        assert_eq!(shown["root"], "vendor");
        assert_eq!(failed(&shown), [""; 0]);
        let ids = ids_of(&shown);
        for id in ["evidence.tcb", "evidence.tcb_evaluation", "tdx.xfam"] {
            assert!(ids.contains(&id), "{id} in {ids:?}");
        }
    }
}

/// A policy file is applied to real evidence, and every check is shown, whatever the result.
#[test]
fn real_hardware_under_a_policy() {
    let Some(evidence) = Evidence::tdx() else {
        return;
    };
    let (code, shown) = evidence.json(Some(OF_ITS_TIME), &[]);
    assert_eq!(code, 0);
    let ids = [
        "evidence.tcb",
        "evidence.advisories",
        "evidence.machine",
        "evidence.collateral",
        "evidence.collateral",
        "evidence.tcb_evaluation",
        "tdx.attributes",
        "tdx.xfam",
        "tdx.module",
    ];
    assert_eq!(ids_of(&shown), ids);
    let machine = shown["checks"][2]["found"].as_str().unwrap();
    assert_eq!(
        machine,
        format!("intel-ppid:{}", shown["ppid"].as_str().unwrap())
    );
    let listed = |machine: &str| format!("{OF_ITS_TIME}machines = [\"{machine}\"]\n");
    assert_eq!(evidence.under(&listed(machine), &[]).0, 0);

    let other = format!("intel-ppid:{}", "11".repeat(16));
    let reason = "genuine evidence, of a machine that your policy does not list";
    let (code, rejected) = evidence.json(Some(&listed(&other)), &[]);
    assert_eq!((code, &rejected["class"]), (1, &"rejected".into()));
    assert_eq!(rejected["reason"], reason);
    assert_eq!(ids_of(&rejected), ids);
    assert_eq!(failed(&rejected), ["evidence.machine"]);
    let check = &rejected["checks"][2];
    assert_eq!(
        (
            &check["title"],
            &check["outcome"],
            &check["expected"],
            &check["found"],
            &check["cause"]
        ),
        (
            &"machine".into(),
            &"fail".into(),
            &other.as_str().into(),
            &machine.into(),
            &reason.into()
        )
    );
    assert!(
        check["advice"]
            .as_str()
            .is_some_and(|text| !text.is_empty())
    );
    let (code, shown, _) = evidence.under(&listed(&other), &[]);
    assert_eq!(code, 1);
    assert_eq!(shown.lines().next(), Some(&*format!("REJECTED: {reason}")));
    for part in [
        "\nok    TCB level of the platform",
        "\nFAIL  machine\n",
        &format!("expected  {other}\n"),
        &format!("found     {machine}\n"),
        &format!("likely    {reason}\n"),
        "      do        ",
    ] {
        assert!(shown.contains(part), "{part} in {shown}");
    }

    let (code, _, error) = evidence.under("machines = []\n", &[]);
    assert_eq!(code, 2);
    assert!(
        error.contains("line 1") && error.contains("unknown field `machines`"),
        "{error}"
    );
}

/// Without a revocation list, a revoked chip would go unnoticed, so no policy accepts its absence.
#[test]
fn a_report_without_revocation_list_is_not_genuine() {
    let Some(evidence) = Evidence::snp() else {
        return;
    };
    let old = "[policy]\naccept_missing_alias_check = true\n[policy.snp_tcb_floor]\nmilan = { bootloader = 3, tee = 0, snp = 8, microcode = 115 }\n";
    for (policy, expected) in [
        (
            None,
            &["evidence.tcb", "snp.platform", "evidence.collateral"][..],
        ),
        (Some(old), &["evidence.collateral"]),
    ] {
        let (code, shown) = evidence.json(policy, &[]);
        assert_eq!((code, &shown["class"]), (1, &"rejected".into()));
        assert_eq!(failed(&shown), expected);
        assert!(
            shown["reason"]
                .as_str()
                .unwrap()
                .ends_with("a revoked processor could not be told from a good one"),
            "{shown}"
        );
    }
    // A list that is named but malformed does not count as one.
    let crl = evidence.file("crl.der", "no list");
    let (code, shown) = evidence.json(Some(old), &["--crl", &crl]);
    assert_eq!((code, &shown["class"]), (1, &"rejected".into()));
    assert_eq!(failed(&shown), ["evidence.signature"]);
    assert!(
        shown["checks"][0]["cause"]
            .as_str()
            .unwrap()
            .contains("the ARK's revocation list"),
        "{shown}"
    );
}

fn ids_of(shown: &Value) -> Vec<&str> {
    let checks = shown["checks"].as_array().unwrap();
    let ids = checks.iter().map(|check| check["id"].as_str().unwrap());
    ids.collect()
}

fn failed(shown: &Value) -> Vec<&str> {
    let checks = shown["checks"].as_array().unwrap().iter();
    let failed = checks.filter(|check| check["outcome"] == "fail");
    failed.map(|check| check["id"].as_str().unwrap()).collect()
}

/// Published evidence, and a folder for the tests' own files.
struct Evidence {
    home: tempfile::TempDir,
    arguments: Vec<String>,
}

impl Evidence {
    fn tdx() -> Option<Self> {
        let quote = vector("tdx/dcapqvl_tdx_quote")?;
        let collateral = vector("tdx/dcapqvl_tdx_quote_collateral.json")?;
        let words = ["tdx", "--time", TDX_TIME, "--quote", &quote, "--collateral"];
        Some(Self::new(&[&words, &[&*collateral][..]].concat()))
    }

    fn tdx_5() -> Option<Self> {
        let quote = sample("tdx_quote_td15ex")?;
        let collateral = sample("tdx_quote_td15ex_collateral.json")?;
        let words = ["tdx", "--time", TDX_5_TIME, "--quote", &quote];
        Some(Self::new(
            &[&words, &["--collateral", &*collateral][..]].concat(),
        ))
    }

    fn snp() -> Option<Self> {
        let report = std::fs::read_to_string(vector("snp/sev_report_milan.hex")?).unwrap();
        let digits: String = report.split_whitespace().collect();
        let vcek = vector("snp/sev_vcek_milan.der")?;
        let chain = vector("snp/sev_cert_chain_milan")?;
        let words = ["snp", "--time", SNP_TIME, "--certs", &vcek, &chain];
        let mut evidence = Self::new(&words);
        let report = evidence.file("report.bin", hex::decode(digits).unwrap());
        evidence.arguments.extend(["--report".to_owned(), report]);
        Some(evidence)
    }

    fn new(arguments: &[&str]) -> Self {
        Self {
            home: tempfile::tempdir().unwrap(),
            arguments: arguments.iter().map(ToString::to_string).collect(),
        }
    }

    fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        let path = self.home.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.display().to_string()
    }

    /// Returns the exit status and the JSON output.
    fn json(&self, policy: Option<&str>, extra: &[&str]) -> (i32, Value) {
        let extra = [extra, &["--json"]].concat();
        let (code, shown, error) = match policy {
            Some(policy) => self.under(policy, &extra),
            None => self.appraised(&extra),
        };
        assert_eq!(error, "");
        (code, serde_json::from_str(&shown).unwrap())
    }

    fn under(&self, policy: &str, extra: &[&str]) -> (i32, String, String) {
        let policy = self.file("policy.toml", policy);
        self.appraised(&[extra, &["--policy", &policy]].concat())
    }

    /// Returns exit status, standard output and standard error.
    fn appraised(&self, extra: &[&str]) -> (i32, String, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_cocoon"))
            .arg("appraise")
            .args(&self.arguments)
            .args(extra)
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (
            output.status.code().unwrap(),
            text(output.stdout),
            text(output.stderr),
        )
    }
}

/// Returns the path of a sample of `dcap-qvl` where Cargo unpacked the version in use; prints
/// SKIPPED if it is missing.
fn sample(name: &str) -> Option<String> {
    let lock = include_str!("../../../Cargo.lock");
    let (_, rest) = lock
        .split_once("name = \"dcap-qvl\"\nversion = \"")
        .unwrap();
    let (version, _) = rest.split_once('"').unwrap();
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let home = variable("CARGO_HOME").or_else(|| Some(variable("HOME")?.join(".cargo")));
    let registries = home.unwrap_or_default().join("registry/src");
    let found = std::fs::read_dir(&registries)
        .into_iter()
        .flatten()
        .flatten()
        .map(|registry| {
            registry
                .path()
                .join(format!("dcap-qvl-{version}/sample/{name}"))
        })
        .find(|file| file.exists());
    if found.is_none() {
        let line = format!(
            "SKIPPED: no sources of dcap-qvl {version} are below {}: set CARGO_HOME\n",
            registries.display()
        );
        // Written directly, so that the output of a passing test is not captured. A closed standard
        // error is ignored.
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
    Some(found?.display().to_string())
}
