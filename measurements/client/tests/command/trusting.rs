//! Whom the command believes: manifests, signers, the trust file, policy files, roots.

use std::path::Path;

use cocoon_protocol::bytes::Hex32;

use crate::home::{Home, manifest, nowhere};

#[test]
fn manifests_that_do_not_count_are_1_and_say_why() {
    let home = Home::new();
    let path = home.write("manifest.json", &manifest(1));
    let (code, shown, _) = home.run(&["verify", &nowhere(), "--manifest", &path]);
    assert_eq!(code, 1);
    for part in ["REJECTED", "manifest counts", "no signer is trusted"] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    let signer = "11".repeat(32);
    let (code, shown, _) = home.run(&[
        "verify",
        &nowhere(),
        "--json",
        "--manifest",
        &path,
        "--signer",
        &signer,
    ]);
    assert_eq!(code, 1);
    let report: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(report["accepted"], false);
    assert_eq!(report["verdict"]["class"], "rejected");
    assert!(
        report["error"].as_str().unwrap().contains("is not signed"),
        "{report}"
    );
}

/// A release that was seen signed is remembered for its signers, whoever named them; an older one is a rollback.
#[test]
fn cocoon_manifest_11() {
    let home = Home::new();
    let secret = [5; 32];
    let signer = hex::encode(cocoon_measurements::manifest::public_key(&secret));
    home.write(
        ".config/cocoon/trust.toml",
        format!("# mine\nsigners = [\"{signer}\"]\n").as_bytes(),
    );
    let signed = |release, flags: &[&str]| {
        let bytes = manifest(release);
        let path = home.write(&format!("{release}/manifest.json"), &bytes);
        let envelope = cocoon_measurements::manifest::sign(&bytes, &secret).unwrap();
        home.write(&format!("{release}/manifest.json.dsse"), &envelope);
        let nowhere = nowhere();
        home.run(&[&["verify", &nowhere, "--manifest", &path], flags].concat())
    };
    let believed = 2; // and nobody is there
    assert_eq!(signed(7, &[]).0, believed);
    assert_eq!(
        home.trust_file().lines().count(),
        2,
        "a person's file stays"
    );
    let (code, shown, _) = signed(6, &[]);
    assert_eq!(code, 1);
    assert!(shown.contains("lowest accepted, 7"), "{shown}");
    assert!(shown.contains("--reset-release-floor"), "{shown}");
    // The same signers by a flag or by a policy file are the same signers.
    assert_eq!(signed(6, &["--signer", &signer]).0, 1);
    let policy = home.write(
        "policy.toml",
        format!("signers = [\"{signer}\"]\n").as_bytes(),
    );
    assert_eq!(signed(6, &["--policy", &policy]).0, 1);
    // What counts by its hash needs no signers, and what they signed says nothing about it.
    let pin = Hex32::sha256(&std::fs::read(home.path("6/manifest.json")).unwrap()).to_string();
    let other = "11".repeat(32);
    let pinned = ["--manifest-sha256", &pin, "--signer", &other];
    assert_eq!(signed(6, &pinned).0, believed);
    // Only on demand it is forgotten, and then newer ones are remembered again.
    assert_eq!(signed(6, &["--reset-release-floor"]).0, believed);
    assert_eq!(signed(6, &[]).0, believed);
    assert_eq!(signed(8, &[]).0, believed);
    assert_eq!(signed(7, &[]).0, 1);
}

/// `--policy` names its own file, line, field and what may stand there.
#[test]
fn a_policy_that_cannot_be_read_names_its_line() {
    let home = Home::new();
    let path = home.write("manifest.json", &manifest(1));
    let policy = home.write("policy.toml", b"[policy]\ngpu = \"maybe\"\n");
    for command in ["verify", "chat", "connect"] {
        let (code, _, error) = home.run(&[
            command,
            &nowhere(),
            "--manifest",
            &path,
            "--policy",
            &policy,
        ]);
        assert_eq!(code, 2);
        for part in [
            format!("cocoon: policy file {policy} is not as it should be"),
            "line 2".to_owned(),
            "gpu = \"maybe\"".to_owned(),
            "expected `if_claimed` or `required`".to_owned(),
        ] {
            assert!(error.contains(&part), "{part} in {error}");
        }
    }
}

#[test]
fn a_trust_file_that_cannot_be_read_names_its_line() {
    let home = Home::new();
    home.write(".config/cocoon/trust.toml", b"threshold = 1\nsigner = []\n");
    let path = home.write("manifest.json", &manifest(1));
    let (code, _, error) = home.run(&["verify", &nowhere(), "--manifest", &path]);
    assert_eq!(code, 2);
    assert!(
        error.contains("line 2") && error.contains("unknown field `signer`"),
        "{error}"
    );
}

#[test]
fn roots_for_real_hardware_cannot_be_named() {
    let home = Home::new();
    let path = home.write("manifest.json", &manifest(1));
    let pin = Hex32::sha256(&std::fs::read(Path::new(&path)).unwrap()).to_string();
    let root = home.write("root.pem", b"no certificate at all");
    let arguments = [
        "verify",
        &nowhere(),
        "--manifest",
        &path,
        "--manifest-sha256",
        &pin,
        "--trust-root",
        &root,
    ];
    let (code, _, error) = home.run(&arguments);
    assert_eq!(code, 2);
    assert!(
        error.contains("is not usable as --trust-root: it holds no certificate in PEM"),
        "{error}"
    );
}

/// Programs that asked for JSON get a line of it, whatever kept a question from being asked.
#[test]
fn chat_in_json_says_why_nothing_was_asked() {
    let home = Home::new();
    let path = home.write("manifest.json", &manifest(1));
    let chat = |flags: &[&str]| {
        let url = nowhere();
        let arguments = [
            "chat",
            &url,
            "--json",
            "--prompt",
            "hello",
            "--manifest",
            &path,
        ];
        let (code, shown, _) = home.run(&[&arguments, flags].concat());
        let line: serde_json::Value = serde_json::from_str(&shown).unwrap();
        assert_eq!(shown.lines().count(), 1, "{shown}");
        assert_eq!(
            (&line["url"], &line["accepted"]),
            (&url.into(), &false.into())
        );
        assert_eq!(line["answer"], serde_json::Value::Null);
        (code, line)
    };
    let (code, line) = chat(&[]);
    assert_eq!((code, &line["class"]), (1, &"rejected".into()));
    assert_eq!(line["verdict"]["checks"][0]["id"], "manifest.trust");
    assert!(
        line["error"]
            .as_str()
            .unwrap()
            .contains("no signer is trusted"),
        "{line}"
    );
    let pin = Hex32::sha256(&manifest_at(&path)).to_string();
    let (code, line) = chat(&["--manifest-sha256", &pin]);
    assert_eq!((code, &line["class"]), (2, &serde_json::Value::Null));
    assert!(
        line["error"]
            .as_str()
            .unwrap()
            .contains("Connection refused"),
        "{line}"
    );
    let missing = home.path("none.toml").display().to_string();
    let (code, line) = chat(&["--policy", &missing]);
    assert_eq!(code, 2);
    assert!(
        line["error"]
            .as_str()
            .unwrap()
            .starts_with(&format!("cannot read policy file {missing}")),
        "{line}"
    );
}

fn manifest_at(path: &str) -> Vec<u8> {
    std::fs::read(path).unwrap()
}
