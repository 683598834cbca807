//! Releases that are too old, and who says so: memory, files, the program itself.

use cocoon_measurements::manifest::{public_key, sign};
use cocoon_protocol::bytes::Hex32;
use serde_json::Value;

use crate::home::{Home, ended, manifest, nowhere};

const SECRET: [u8; 32] = [5; 32];
/// Exit status when the manifest counts, and nobody is there.
const BELIEVED: i32 = 2;
const MEMORY: &str = ".config/cocoon/trust.releases.toml";

fn signer() -> String {
    hex::encode(public_key(&SECRET))
}

/// A manifest of `release` with its signature, as arguments.
fn signed(home: &Home, release: u64) -> [String; 2] {
    let bytes = manifest(release);
    let path = home.write(&format!("{release}/manifest.json"), &bytes);
    let envelope = sign(&bytes, &SECRET).unwrap();
    home.write(&format!("{release}/manifest.json.dsse"), &envelope);
    ["--manifest".to_owned(), path]
}

/// Exit status and report of `cocoon verify` of `release`.
fn verify(home: &Home, release: u64, flags: &[&str]) -> (i32, Value) {
    let [manifest, path] = signed(home, release);
    let nowhere = nowhere();
    let arguments = ["verify", &nowhere, "--json", &manifest, &path];
    let (code, shown, _) = home.run(&[&arguments, flags].concat());
    (code, serde_json::from_str(&shown).unwrap())
}

/// What a person should do about a rollback.
fn advice(report: &Value) -> &str {
    let check = &report["verdict"]["checks"][0];
    assert_eq!(check["id"], "manifest.trust", "{report}");
    assert!(
        check["cause"].as_str().unwrap().contains("rolled back"),
        "{report}"
    );
    check["advice"].as_str().unwrap()
}

/// A release that was seen signed is remembered for its signers, whoever named them; an older one is a rollback.
#[test]
fn cocoon_manifest_11() {
    let home = Home::new();
    let signer = signer();
    home.write(
        ".config/cocoon/trust.toml",
        format!("# mine\nsigners = [\"{signer}\"]\n").as_bytes(),
    );
    assert_eq!(verify(&home, 7, &[]).0, BELIEVED);
    assert_eq!(
        home.trust_file().lines().count(),
        2,
        "a person's file stays"
    );
    let (code, report) = verify(&home, 6, &[]);
    assert_eq!(code, 1);
    let error = report["error"].as_str().unwrap();
    assert!(error.contains("lowest accepted, 7"), "{report}");
    assert!(
        advice(&report).ends_with("cocoon's --reset-release-floor forgets it"),
        "{report}"
    );
    // The same signers by a flag or by a policy file are the same signers.
    assert_eq!(verify(&home, 6, &["--signer", &signer]).0, 1);
    let policy = home.write(
        "policy.toml",
        format!("signers = [\"{signer}\"]\n").as_bytes(),
    );
    assert_eq!(verify(&home, 6, &["--policy", &policy]).0, 1);
    // And with a rebuilder's key beside theirs nothing is forgotten.
    let other = "11".repeat(32);
    let both = ["--signer", &*signer, "--signer", &*other];
    assert_eq!(verify(&home, 6, &both).0, 1);
    // What counts by its hash needs no signers, and what they signed says nothing about it.
    let pin = Hex32::sha256(&std::fs::read(home.path("6/manifest.json")).unwrap()).to_string();
    let pinned = ["--manifest-sha256", &pin, "--signer", &other];
    assert_eq!(verify(&home, 6, &pinned).0, BELIEVED);
    // Only on demand it is forgotten, and then newer ones are remembered again.
    assert_eq!(verify(&home, 6, &["--reset-release-floor"]).0, BELIEVED);
    assert_eq!(verify(&home, 6, &[]).0, BELIEVED);
    assert_eq!(verify(&home, 8, &both).0, BELIEVED);
    assert_eq!(verify(&home, 7, &[]).0, 1, "nor with a key less");
}

/// A policy file that states no floor, or a lower one, does not take back the trust file's; and forgetting what was
/// seen is advised only where it would help.
#[test]
fn floors_of_files_stay_and_are_named() {
    let home = Home::new();
    let signer = signer();
    let signers = format!("signers = [\"{signer}\"]\n");
    let trust = home.write(
        ".config/cocoon/trust.toml",
        format!("{signers}release_floor = 5\n").as_bytes(),
    );
    let policy = |text: &str| home.write("policy.toml", format!("{signers}{text}").as_bytes());
    let path = policy("");
    for text in ["", "release_floor = 3\n"] {
        policy(text);
        let (code, report) = verify(&home, 4, &["--policy", &path, "--reset-release-floor"]);
        assert_eq!(code, 1);
        assert_eq!(
            advice(&report),
            format!(
                "ask the operator to run the current release: release_floor = 5 in the trust file {trust} refuses \
                 this one"
            )
        );
        assert_eq!(verify(&home, 5, &["--policy", &path]).0, BELIEVED);
    }
    policy("release_floor = 7\n");
    let (code, report) = verify(&home, 6, &["--policy", &path]);
    assert_eq!(code, 1);
    assert!(
        advice(&report).ends_with(&format!(
            "release_floor = 7 in the policy file {path} refuses this one"
        )),
        "{report}"
    );
}

/// Where there is no home, nothing can be remembered, and that is said.
#[test]
fn without_a_home_it_is_said_that_nothing_is_kept() {
    let home = Home::new();
    let signer = signer();
    let verify = |flags: &[&str]| {
        let [manifest, path] = signed(&home, 7);
        let nowhere = nowhere();
        let arguments = ["verify", &nowhere, &manifest, &path, "--signer", &signer];
        let mut command = home.command(&[&arguments, flags].concat());
        ended(command.env_remove("HOME").output().unwrap())
    };
    let note = "note: the memory of releases is not kept, so an older release will not be noticed";
    let (code, _, error) = verify(&[]);
    assert_eq!(code, BELIEVED);
    assert!(error.starts_with(note), "{error}");
    // What would not be remembered anyway is no loss.
    let pin = Hex32::sha256(&std::fs::read(home.path("7/manifest.json")).unwrap()).to_string();
    let (code, _, error) = verify(&["--manifest-sha256", &pin]);
    assert_eq!(code, BELIEVED);
    assert!(!error.contains("note:"), "{error}");
    // The memory lies beside the trust file, wherever that is.
    let trust = home.write("elsewhere/mine.toml", b"");
    let (code, _, error) = verify(&["--trust-file", &trust]);
    assert_eq!(code, BELIEVED);
    assert!(!error.contains("note:"), "{error}");
    assert!(home.path("elsewhere/mine.releases.toml").exists());
}

/// What was seen before is not written again, and takes no lock: a home may be read-only.
#[test]
fn a_release_that_is_known_writes_nothing() {
    let home = Home::new();
    let signer = signer();
    let lock = home.path(&format!("{MEMORY}.lock"));
    assert_eq!(verify(&home, 7, &["--signer", &signer]).0, BELIEVED);
    assert!(home.path(MEMORY).exists());
    std::fs::remove_file(&lock).unwrap();
    assert_eq!(verify(&home, 7, &["--signer", &signer]).0, BELIEVED);
    assert!(!lock.exists());
}
