//! Whom the command believes: manifests, signers, the trust file, policy files, roots.

use std::path::Path;

use cocoon_measurements::manifest::{public_key, sign};
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

/// A flag that names other signers leaves alone how many of them must have signed.
#[test]
fn signers_among_flags_leave_the_threshold_of_files() {
    let home = Home::new();
    let secrets = [[5; 32], [6; 32]];
    let [one, two] = secrets.map(|secret| hex::encode(public_key(&secret)));
    let bytes = manifest(1);
    let path = home.write("manifest.json", &bytes);
    let envelope = sign(&bytes, &secrets[0]).unwrap();
    home.write("manifest.json.dsse", &envelope);
    let policy = home.write("policy.toml", b"[policy]\ngpu = \"if_claimed\"\n");
    let stating = home.write("two.toml", b"threshold = 2\n");
    let believed = 2; // and nobody is there
    let too_few = "signed by 1 of the pinned signers, 2 are needed";
    let too_many = "2 signatures are demanded of 1 pinned signers";
    let one_of_both = ["--signer", &one, "--signer", &two];
    let demands_two = format!("signers = [\"{one}\", \"{two}\"]\nthreshold = 2\n");
    for (trust_file, flags, refusal) in [
        ("", &["--signer", &one][..], None),
        (&demands_two, &[], Some(too_few)),
        (&demands_two, &one_of_both, Some(too_few)),
        (&demands_two, &["--signer", &one], Some(too_many)),
        (
            &demands_two,
            &["--signer", &one, "--policy", &policy],
            Some(too_many),
        ),
        (
            "",
            &["--signer", &one, "--policy", &stating],
            Some(too_many),
        ),
        // Only whoever says so lowers it.
        (&demands_two, &["--threshold", "1"], None),
        (&demands_two, &["--signer", &one, "--threshold", "1"], None),
        // What is stated below 1 is none.
        ("threshold = 0\n", &["--signer", &one], None),
    ] {
        home.write(".config/cocoon/trust.toml", trust_file.as_bytes());
        let nowhere = nowhere();
        let arguments = ["verify", &nowhere, "--json", "--manifest", &path];
        let (code, shown, _) = home.run(&[&arguments, flags].concat());
        let what = format!("{trust_file} {flags:?}: {shown}");
        assert_eq!(code, refusal.map_or(believed, |_| 1), "{what}");
        assert!(refusal.is_none_or(|text| shown.contains(text)), "{what}");
    }
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
