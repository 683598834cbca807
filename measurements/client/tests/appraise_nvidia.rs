//! Tests of `cocoon appraise nvidia` on files: an accepted simulated GPU, reasons of rejections,
//! and a real GPU.
//!
//! Real evidence is read from the folder in `COCOON_VECTORS`, or from `../shared/vectors` next to
//! the checkout. If it is missing, its test prints SKIPPED on standard error.

use std::process::Command;

use cocoon_measurements::nvidia::simulated::Scene;
use cocoon_measurements::nvidia::simulated::pki::pem;
use serde_json::Value;
use vectors::vector;

mod vectors;

const NOW: u64 = 1_800_000_000;

/// Files about a simulated GPU.
struct Files {
    home: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let files = Self { home };
        let scene = Scene::at(NOW).unwrap();
        let [devices, ..] = &scene.nvidia.devices;
        let [manifests, ..] = &scene.nvidia.manifests;
        files.write("report", &scene.report());
        files.write("report.hex", hex::encode(scene.report()).as_bytes());
        files.write("chain.pem", scene.chain.as_bytes());
        files.write("driver.xml", scene.rims[0].as_bytes());
        files.write("vbios.xml", scene.rims[1].as_bytes());
        files.write("roots.pem", pem(&[devices, manifests]).unwrap().as_bytes());
        for (place, response) in scene.ocsp.iter().enumerate() {
            files.write(&format!("{place}.ocsp"), response);
        }
        files
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.home.path().join(name), bytes).unwrap();
    }

    /// Returns the exit status and the JSON output.
    fn judged(&self, words: &str) -> (i32, Value) {
        let (code, shown, error) = self.appraised(&format!("{words} --json"));
        assert_eq!(error, "");
        (code, serde_json::from_str(&shown).unwrap())
    }

    /// Returns exit status, standard output and standard error; `words` are arguments, with file
    /// names in the folder.
    fn appraised(&self, words: &str) -> (i32, String, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_cocoon"))
            .args(["appraise", "nvidia"])
            .args(words.split_whitespace())
            .current_dir(self.home.path())
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

fn good() -> String {
    let nonce = hex::encode(Scene::NONCE);
    format!(
        "--chain chain.pem --rim driver.xml vbios.xml --ocsp 0.ocsp 1.ocsp 2.ocsp 3.ocsp 4.ocsp 5.ocsp --nonce {nonce} --time {NOW}"
    )
}

fn failed(shown: &Value) -> Vec<&str> {
    let checks = shown["checks"].as_array().unwrap().iter();
    let failed = checks.filter(|check| check["outcome"] == "fail");
    failed.map(|check| check["id"].as_str().unwrap()).collect()
}

#[test]
fn a_simulated_gpu_is_simulated() {
    let files = Files::new();
    for report in ["report", "report.hex"] {
        let words = format!("--report {report} {} --trust-root roots.pem", good());
        let (code, shown) = files.judged(&words);
        assert_eq!((code, failed(&shown)), (0, vec![]), "{shown:#}");
        assert_eq!(
            (&shown["class"], &shown["measurements_compared"]),
            (&"simulated".into(), &true.into())
        );
        assert_eq!(shown["driver_rim"], "NV_GPU_DRIVER_GH100_550.144.03");
        let (code, shown, _) = files.appraised(&words);
        assert_eq!(code, 0);
        assert_eq!(
            shown.lines().next(),
            Some(
                "SIMULATED: signatures and endorsements hold under the development root; the default policy is met; \
                 measurements as published"
            )
        );
    }
}

#[test]
fn what_rejects_is_told() {
    let files = Files::new();
    let words = format!("--report report {}", good());
    let (code, shown) = files.judged(&words);
    assert_eq!((code, failed(&shown)), (1, vec!["gpu.root"]));
    assert_eq!(shown["class"], "rejected");
    assert!(
        shown["reason"]
            .as_str()
            .unwrap()
            .starts_with("development root not named: ")
    );

    let words = format!("{words} --trust-root roots.pem");
    let other = words.replace(&hex::encode(Scene::NONCE), &"00".repeat(32));
    let (code, shown) = files.judged(&other);
    assert_eq!((code, failed(&shown)), (1, vec!["gpu.nonce"]));
    assert_eq!(
        shown["driver_version"],
        Value::Null,
        "what is rejected says nothing"
    );
    let (code, shown) = files.judged(&words.replace(" 5.ocsp", ""));
    assert_eq!((code, failed(&shown)), (1, vec!["gpu.revocation"]));
    files.write(
        "policy.toml",
        b"[policy]\naccept_missing_gpu_revocation = true\n",
    );
    let accepting = format!("{words} --policy policy.toml").replace(" 5.ocsp", "");
    assert_eq!(files.judged(&accepting).0, 0);
    let (code, shown) = files.judged(&words.replace(" vbios.xml", ""));
    assert_eq!(
        (code, failed(&shown)),
        (1, vec!["gpu.rim.vbios", "gpu.measurements"])
    );
}

#[test]
fn usage_errors_are_no_verdicts() {
    let files = Files::new();
    for (words, reason) in [
        (
            format!("--report report report.hex {}", good()),
            "2 reports and 1 certificate chains: each report needs one --chain",
        ),
        (
            format!("--report missing {}", good()),
            "cannot read missing",
        ),
        (
            format!("--report report {}", good().replace("4e4e", "4e")),
            "--nonce",
        ),
        (
            format!("--report report {} --trust-root chain.pem", good()),
            "chain.pem is not usable as --trust-root",
        ),
    ] {
        let (code, shown, error) = files.appraised(&words);
        assert_eq!((code, &*shown), (2, ""), "{words}");
        assert!(error.contains(reason), "{reason} in {error}");
    }
}

/// The evidence of a real GPU verifies, and the verdict names the reference manifests of its driver
/// and VBIOS, which were not published with it.
#[test]
fn a_real_gpu_names_the_manifests_that_it_needs() {
    let (Some(report), Some(chain)) = (
        vector("nvidia/nvtrust_hopperAttestationReport.txt"),
        vector("nvidia/nvtrust_hopperCertChain.txt"),
    ) else {
        return;
    };
    let nonce = "931d8dd0add203ac3d8b4fbde75e115278eefcdceac5b87671a748f32364dfcb";
    let files = Files::new();
    files.write(
        "policy.toml",
        b"[policy]\naccept_missing_gpu_revocation = true\n",
    );
    let words = format!(
        "--report {report} --chain {chain} --nonce {nonce} --time {NOW} --policy policy.toml"
    );
    let (code, shown) = files.judged(&words);
    assert_eq!(code, 1);
    assert_eq!(
        failed(&shown),
        ["gpu.rim.driver", "gpu.rim.vbios", "gpu.measurements"]
    );
    let text = shown.to_string();
    for name in [
        "NV_GPU_DRIVER_GH100_550.90.07",
        "NV_GPU_VBIOS_1010_0200_882_96009F0001",
    ] {
        assert!(text.contains(name), "{name} in {text}");
    }
}
