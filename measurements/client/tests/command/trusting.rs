//! Tests of the command's trust settings: manifests, signers, the trust file, policy files, roots.

use std::path::Path;

use cocoon_measurements::manifest::{public_key, sign};
use cocoon_protocol::bytes::Hex32;

use crate::home::{Home, ended, manifest, nowhere};

#[test]
fn manifests_that_do_not_count_are_1_and_say_why() {
    let home = Home::new();
    let path = home.write("manifest.json", &manifest(1));
    let (code, shown, _) = home.run(&["verify", &nowhere(), "--manifest", &path]);
    assert_eq!(code, 1);
    assert_eq!(
        shown,
        format!(
            "REJECTED: no prompt was sent (0 checks passed, 1 failed)\n\n      check            result\n{}\n\
             FAIL  manifest counts\n      \
             likely    no signer is trusted and no manifest is pinned: name a signer (--signer) or the\n                \
             manifest's hash (--manifest-sha256)\n      \
             do        take manifest and signature file from the release that the operator announces, and\n                \
             trust only signers whose keys you got another way\n",
            "\u{2500}".repeat(100)
        )
    );
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
    assert_eq!(
        report["error"],
        format!(
            "manifest {path} does not count: manifest {} is not signed: get its signature file (manifest.json.dsse), or pin \
             its hash if you built it yourself",
            Hex32::sha256(&manifest_at(&path))
        )
    );
}

/// Signers among the flags do not change how many of them must have signed.
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
    let believed = 2; // the appliance cannot be reached
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
        // Only --threshold lowers it.
        (&demands_two, &["--threshold", "1"], None),
        (&demands_two, &["--signer", &one, "--threshold", "1"], None),
        // For signers among the flags, a threshold of 0 in a file counts as 1.
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

/// An error in the policy file names the file, the line, the field and the accepted values.
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
        assert_eq!(
            error,
            format!(
                "cocoon: policy file {policy} is not as it should be: TOML parse error at line 2, column 7\n  |\n2 | gpu = \"maybe\"\n  |       \
                 ^^^^^^^\nunknown variant `maybe`, expected `if_claimed` or `required`\n\n"
            )
        );
    }
}

#[test]
fn a_trust_file_that_cannot_be_read_names_its_line() {
    let home = Home::new();
    home.write(".config/cocoon/trust.toml", b"threshold = 1\nsigner = []\n");
    let path = home.write("manifest.json", &manifest(1));
    let (code, _, error) = home.run(&["verify", &nowhere(), "--manifest", &path]);
    assert_eq!(code, 2);
    let trust = home.path(".config/cocoon/trust.toml");
    assert_eq!(
        error,
        format!(
            "cocoon: trust file {} is not as it should be: TOML parse error at line 2, column 1\n  |\n2 | signer = []\n  | \
             ^^^^^^\nunknown field `signer`, expected one of `signers`, `threshold`, `release_floor`, `policy`, \
             `known_hosts`\n\n",
            trust.display()
        )
    );
}

/// If a named trust file does not exist, perhaps because of a typing error, nobody is trusted, and
/// a note says so.
#[test]
fn a_named_trust_file_that_is_not_there_is_told() {
    let home = Home::new();
    let path = home.write("manifest.json", &manifest(1));
    let missing = home.path("mine.toml").display().to_string();
    let nowhere = nowhere();
    let verify = ["verify", &nowhere, "--manifest", &path];
    let note = format!(
        "note: there is no trust file {missing} yet: the defaults count, and it is made when there is an appliance to \
         remember\n"
    );
    let (code, _, error) = home.run(&[&verify[..], &["--trust-file", &missing]].concat());
    assert_eq!((code, error.starts_with(&note)), (1, true), "{error}");
    let named = home
        .command(&verify)
        .env("COCOON_TRUST_FILE", &missing)
        .output();
    let (code, _, error) = ended(named.unwrap());
    assert_eq!((code, error.starts_with(&note)), (1, true), "{error}");
    // There is no note about the default trust file, nor about one that exists.
    assert!(!home.run(&verify).2.contains("note:"));
    home.write("mine.toml", b"");
    let (_, _, error) = home.run(&[&verify[..], &["--trust-file", &missing]].concat());
    assert!(!error.contains("note:"), "{error}");
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
    assert_eq!(
        error,
        format!(
            "cocoon: {root} is not usable as --trust-root: it holds no certificate in PEM: PEM error: PEM error in \
             post-encapsulation boundary\n"
        )
    );
}

/// With --json there is a line of JSON, whatever prevented a question.
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
    assert_eq!(
        line["error"],
        format!(
            "manifest {path} does not count: no signer is trusted and no manifest is pinned: name a signer (--signer) or \
             the manifest's hash (--manifest-sha256)"
        )
    );
    let pin = Hex32::sha256(&manifest_at(&path)).to_string();
    let (code, line) = chat(&["--manifest-sha256", &pin]);
    assert_eq!((code, &line["class"]), (2, &serde_json::Value::Null));
    let url = line["url"].as_str().unwrap();
    assert_eq!(
        line["error"],
        format!(
            "no appliance can be used: cannot reach {url}: check the address, and that the appliance is serving: Connection refused (os error 111)"
        )
    );
    let missing = home.path("none.toml").display().to_string();
    let (code, line) = chat(&["--policy", &missing]);
    assert_eq!(code, 2);
    assert_eq!(
        line["error"],
        format!("cannot read policy file {missing}: No such file or directory (os error 2)")
    );
}

fn manifest_at(path: &str) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

/// Where collateral is kept, with which permissions, and what is reported if it cannot be kept.
#[test]
fn collateral_is_kept_where_it_is_named() {
    use std::os::unix::fs::PermissionsExt as _;
    let home = Home::new();
    let bytes = manifest(1);
    let path = home.write("manifest.json", &bytes);
    let pin = Hex32::sha256(&bytes).to_string();
    let verify = |flags: &[&str]| {
        let nowhere = nowhere();
        let arguments = [
            "verify",
            &nowhere,
            "--manifest",
            &path,
            "--manifest-sha256",
            &pin,
        ];
        let (code, _, error) = home.run(&[&arguments, flags].concat());
        assert_eq!(code, 2);
        error
    };
    let usual = home.path(".cache/cocoon-client/collateral");
    verify(&["--no-collateral-cache"]);
    assert!(!usual.exists());
    verify(&[]);
    let mode = std::fs::metadata(&usual).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    let elsewhere = home.path("elsewhere").display().to_string();
    verify(&["--collateral-cache", &elsewhere]);
    assert!(home.path("elsewhere").is_dir());
    let error = verify(&["--collateral-cache", &path]);
    let note = format!(
        "note: collateral is not kept, so it is fetched each time: cannot make the folder {path} for its owner alone: "
    );
    assert!(error.starts_with(&note), "{error}");
}
