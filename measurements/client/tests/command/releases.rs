//! Tests of releases that are too old for the memory of releases, a file or the program.

use cocoon_measurements::manifest::{public_key, sign};
use cocoon_protocol::bytes::Hex32;
use serde_json::Value;

use crate::home::{Home, ended, manifest, nowhere};

const SECRET: [u8; 32] = [5; 32];
/// Exit status if the manifest is trusted and the appliance cannot be reached.
const BELIEVED: i32 = 2;
const MEMORY: &str = ".config/cocoon/trust.releases.toml";

fn signer() -> String {
    hex::encode(public_key(&SECRET))
}

/// Writes a signed manifest of `release`, and returns the arguments that name it.
fn signed(home: &Home, release: u64) -> [String; 2] {
    let bytes = manifest(release);
    let path = home.write(&format!("{release}/manifest.json"), &bytes);
    let envelope = sign(&bytes, &SECRET).unwrap();
    home.write(&format!("{release}/manifest.json.dsse"), &envelope);
    ["--manifest".to_owned(), path]
}

/// Returns exit status and report of `cocoon verify` with the manifest of `release`.
fn verify(home: &Home, release: u64, flags: &[&str]) -> (i32, Value) {
    let [manifest, path] = signed(home, release);
    let nowhere = nowhere();
    let arguments = ["verify", &nowhere, "--json", &manifest, &path];
    let (code, shown, _) = home.run(&[&arguments, flags].concat());
    (code, serde_json::from_str(&shown).unwrap())
}

/// Returns the advice about a rollback.
fn advice(report: &Value) -> &str {
    let check = &report["verdict"]["checks"][0];
    assert_eq!(check["id"], "manifest.trust", "{report}");
    assert!(
        check["cause"].as_str().unwrap().contains("rolled back"),
        "{report}"
    );
    check["advice"].as_str().unwrap()
}

/// A signed release is remembered for its signers, however they were named; an older one is a
/// rollback.
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
    // The same signers from a flag or a policy file have the same memory.
    assert_eq!(verify(&home, 6, &["--signer", &signer]).0, 1);
    let policy = home.write(
        "policy.toml",
        format!("signers = [\"{signer}\"]\n").as_bytes(),
    );
    assert_eq!(verify(&home, 6, &["--policy", &policy]).0, 1);
    // Adding the key of a rebuilder forgets nothing.
    let other = "11".repeat(32);
    let both = ["--signer", &*signer, "--signer", &*other];
    assert_eq!(verify(&home, 6, &both).0, 1);
    // A pinned manifest needs no signers, and their releases do not concern it.
    let pin = Hex32::sha256(&std::fs::read(home.path("6/manifest.json")).unwrap()).to_string();
    let pinned = ["--manifest-sha256", &pin, "--signer", &other];
    assert_eq!(verify(&home, 6, &pinned).0, BELIEVED);
    // The memory is reset only by the flag, and newer releases are remembered afterwards.
    assert_eq!(verify(&home, 6, &["--reset-release-floor"]).0, BELIEVED);
    assert_eq!(verify(&home, 6, &[]).0, BELIEVED);
    assert_eq!(verify(&home, 8, &both).0, BELIEVED);
    assert_eq!(verify(&home, 7, &[]).0, 1, "nor with a key less");
}

/// A policy file without a floor, or with a lower one, does not lower the trust file's. Resetting
/// the memory is advised only if it helps.
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

/// Without a home directory nothing can be remembered, and a note says so.
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
    // A pinned manifest is not remembered anyway, so there is no note.
    let pin = Hex32::sha256(&std::fs::read(home.path("7/manifest.json")).unwrap()).to_string();
    let (code, _, error) = verify(&["--manifest-sha256", &pin]);
    assert_eq!(code, BELIEVED);
    assert!(!error.contains("note:"), "{error}");
    // The memory is next to the trust file, wherever that is.
    let trust = home.write("elsewhere/mine.toml", b"");
    let (code, _, error) = verify(&["--trust-file", &trust]);
    assert_eq!(code, BELIEVED);
    assert!(!error.contains("note:"), "{error}");
    assert!(home.path("elsewhere/mine.releases.toml").exists());
}

/// A release that was seen before is not written again, and no lock is taken, because a home may be
/// read-only.
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
