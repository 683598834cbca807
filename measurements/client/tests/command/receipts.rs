//! Tests of `cocoon receipt verify`: its output, and which check refuses an invalid receipt.

use cocoon_client::receipts::{BUNDLE_VERSION, Bundle};
use cocoon_measurements::manifest::{public_key, sign};
use cocoon_protocol::binding::{Claims, Tee};
use cocoon_protocol::bytes::{Blob, Hex, Hex32, Hex48};
use cocoon_protocol::document::{DOCUMENT_VERSION, Document, Evidence, Kind};
use cocoon_protocol::receipt::{
    Outcome, Receipt, SignedReceipt, Tokens, commit_request, commit_response,
};
use ed25519_dalek::{Signer as _, SigningKey};
use serde_json::Value;

use crate::home::{Home, manifest, nowhere};

const SALT: Hex32 = Hex([11; 32]);

fn key() -> SigningKey {
    SigningKey::from_bytes(&[5; 32])
}

fn meter_key() -> String {
    hex::encode(key().verifying_key().to_bytes())
}

fn document() -> Vec<u8> {
    let document = Document {
        version: DOCUMENT_VERSION,
        kind: Kind::Session,
        claims: Claims {
            tee: Tee::Tdx,
            leaf_spki_sha256: Hex([1; 32]),
            meter_key: Hex(key().verifying_key().to_bytes()),
            manifest_id: Hex([2; 32]),
            model_digest: Hex([3; 32]),
            config_digest: Hex48::ZERO,
            gpu_section_digest: Hex32::ZERO,
        },
        nonce: Hex([4; 32]),
        evidence: Evidence::Tdx {
            quote: Blob(vec![]),
            event_log: Blob(vec![]),
        },
        batch: None,
        gpu: None,
        gpu_collateral: None,
        named: None,
        config: Blob(vec![]),
        collateral: None,
    };
    document.to_json()
}

/// Returns a kept receipt that was changed before signing.
fn kept(edit: fn(&mut Receipt)) -> Vec<u8> {
    let document = document();
    let mut receipt = Receipt {
        outcome: Outcome::Length,
        manifest_id: Hex([2; 32]),
        model_digest: Hex([3; 32]),
        evidence_digest: Hex32::sha256(&document),
        nonce: Hex([4; 32]),
        number: 9,
        tokens: Tokens {
            prompt: 41,
            completion: 8,
        },
        request: commit_request(&SALT, &Hex32::sha256(b"question")),
        response: commit_response(&SALT, &Hex32::sha256(b"answer")),
        engine: None,
    };
    edit(&mut receipt);
    let signature = Hex(key().sign(&receipt.encode()).to_bytes());
    let bundle = Bundle {
        version: BUNDLE_VERSION,
        received: 1_800_000_000,
        receipt: Blob(SignedReceipt { receipt, signature }.encode().to_vec()),
        salt: SALT,
        document: Blob(document),
        collateral: Vec::new(),
        leaf_spki_sha256: Hex([1; 32]),
        exporter: Hex([6; 32]),
    };
    bundle.to_json()
}

fn verify(home: &Home, flags: &[&str]) -> (i32, Value) {
    let file = home.path("kept.json").display().to_string();
    let arguments = ["receipt", "verify", &file, "--json"];
    let (code, shown, error) = home.run(&[&arguments, flags].concat());
    assert_eq!(error, "");
    (code, serde_json::from_str(&shown).unwrap())
}

fn failed(report: &Value) -> Vec<&str> {
    let checks = report["checks"].as_array().unwrap();
    let failed = checks.iter().filter(|check| check["outcome"] == "fail");
    failed.map(|check| check["id"].as_str().unwrap()).collect()
}

#[test]
fn a_good_receipt_is_verified_and_says_what_it_is_about() {
    let home = Home::new();
    let file = home.write("kept.json", &kept(|_| ()));
    let request = home.write("request", b"question");
    let response = home.write("response", b"answer");
    let flags = [
        "--meter-key",
        &meter_key(),
        "--request",
        &request,
        "--response",
        &response,
    ];
    let (code, report) = verify(&home, &flags);
    assert_eq!((code, failed(&report)), (0, vec![]), "{report:#}");
    assert_eq!(report["accepted"], true);
    let tokens = serde_json::json!({ "prompt": 41, "completion": 8, "cached": 0 });
    assert_eq!(report["receipt"]["tokens"], tokens);
    assert_eq!(report["receipt"]["outcome"], "length");

    let key = meter_key();
    let (code, shown, _) = home.run(&["receipt", "verify", &file, "--meter-key", &key]);
    assert_eq!(code, 0, "{shown}");
    assert!(
        shown.ends_with(
            "VERIFIED under the given meter key: answer 9 of its connection, cut at its limit of tokens, \
             41 tokens of prompt (0 cached), 8 of answer\n"
        ),
        "{shown}"
    );
    assert!(
        shown.contains("not opened: the body is not at hand"),
        "{shown}"
    );
}

#[test]
fn every_other_is_refused_by_name() {
    let home = Home::new();
    let (key, other) = (meter_key(), "11".repeat(32));
    home.write("kept.json", &kept(|_| ()));
    let (code, report) = verify(&home, &["--meter-key", &other]);
    let both = vec!["receipt.meter_key", "receipt.signature"];
    assert_eq!((code, failed(&report)), (1, both));
    let wrong = home.write("wrong", b"another question");
    for (flag, id) in [
        ("--request", "receipt.request"),
        ("--response", "receipt.response"),
    ] {
        let (code, report) = verify(&home, &["--meter-key", &key, flag, &wrong]);
        assert_eq!((code, failed(&report)), (1, vec![id]));
    }
    home.write("kept.json", &kept(|receipt| receipt.nonce.0[0] ^= 1));
    let (code, report) = verify(&home, &["--meter-key", &key]);
    assert_eq!((code, failed(&report)), (1, vec!["receipt.nonce"]));

    let mut rubbish: Value = serde_json::from_slice(&kept(|_| ())).unwrap();
    rubbish["receipt"] = "AAAA".into();
    home.write("kept.json", rubbish.to_string().as_bytes());
    let (code, report) = verify(&home, &["--meter-key", &key]);
    assert_eq!((code, failed(&report)), (1, vec!["receipt.form"]));
    assert_eq!(
        report["checks"][0]["cause"],
        "its receipt cannot be read: a receipt has 356 bytes, found 3"
    );
}

/// Text from a kept document is shown without control characters.
#[test]
fn names_in_a_kept_document_steer_nothing() {
    let home = Home::new();
    let mut bundle: Value = serde_json::from_slice(&kept(|_| ())).unwrap();
    let document = br#"{"\u001b[2J\nVERIFIED":0}"#.to_vec();
    bundle["document"] = serde_json::to_value(Blob(document)).unwrap();
    let file = home.write("kept.json", bundle.to_string().as_bytes());
    let (code, shown, error) = home.run(&["receipt", "verify", &file, "--meter-key", &meter_key()]);
    assert_eq!((code, error.as_str()), (1, ""), "{shown}");
    let last = shown.lines().last().unwrap();
    let begins = "REJECTED: its session document cannot be read: attestation document is not JSON of the expected schema: \
                  unknown field `[2JVERIFIED`, expected ";
    assert!(last.starts_with(begins), "{shown}");
    assert!(!shown.contains('\u{1b}'), "{shown:?}");
}

/// Under a manifest, the session document is appraised. A valid receipt is rejected if its session
/// document is.
#[test]
fn a_receipt_is_worth_no_more_than_its_session() {
    let home = Home::new();
    home.write("kept.json", &kept(|_| ()));
    let bytes = manifest(1);
    let path = home.write("manifest.json", &bytes);
    let pin = Hex32::sha256(&bytes).to_string();
    let (code, report) = verify(&home, &["--manifest", &path, "--manifest-sha256", &pin]);
    assert_eq!((code, &report["accepted"]), (1, &Value::Bool(false)));
    assert_eq!(report["verdict"]["class"], "rejected");
    assert_eq!(failed(&report), Vec::<&str>::new());
    // The prompt was answered, so the output must not say that it was not sent.
    let file = home.path("kept.json").display().to_string();
    let shown = ["receipt", "verify", &file, "--manifest", &path];
    let (_, shown, _) = home.run(&[&shown[..], &["--manifest-sha256", &pin]].concat());
    let begins = "session: REJECTED: under this manifest and policy its prompt should not have been sent\n\n";
    assert!(shown.starts_with(begins), "{shown}");
    assert!(
        shown.ends_with("\nREJECTED: its session document is\n"),
        "{shown}"
    );
    // Without a trusted signer, the manifest itself is refused.
    let (code, report) = verify(&home, &["--manifest", &path]);
    assert_eq!((code, &report["verdict"]["class"]), (1, &"rejected".into()));
}

/// A receipt of an earlier release is not a rollback: newer releases that were seen since do not
/// refuse it, and it does not lower the memory of releases.
#[test]
fn a_receipt_of_an_earlier_release_is_no_rollback() {
    let home = Home::new();
    home.write("kept.json", &kept(|_| ()));
    let signer = hex::encode(public_key(&[6; 32]));
    let signed = |release| {
        let bytes = manifest(release);
        let path = home.write(&format!("{release}/manifest.json"), &bytes);
        let envelope = sign(&bytes, &[6; 32]).unwrap();
        home.write(&format!("{release}/manifest.json.dsse"), &envelope);
        path
    };
    let (older, newer) = (signed(6), signed(7));
    let nowhere = nowhere();
    let seen = [
        "verify",
        &nowhere,
        "--manifest",
        &newer,
        "--signer",
        &signer,
    ];
    assert_eq!(home.run(&seen).0, 2, "it counts, and nobody is there");
    let memory = home.path(".config/cocoon/trust.releases.toml");
    let remembered = std::fs::read_to_string(&memory).unwrap();

    let refused = |report: &Value| {
        let check = &report["verdict"]["checks"][0];
        assert_eq!(check["id"], "manifest.trust");
        check["outcome"] == "fail"
    };
    let flags = ["--manifest", &older, "--signer", &signer];
    let (code, report) = verify(&home, &flags);
    assert_eq!((code, refused(&report)), (1, false), "{report:#}");
    let newest = signed(8);
    let (_, report) = verify(&home, &["--manifest", &newest, "--signer", &signer]);
    assert!(!refused(&report), "{report:#}");
    assert_eq!(std::fs::read_to_string(&memory).unwrap(), remembered);
    // A release floor in a file still counts.
    let policy = home.write("policy.toml", b"release_floor = 7\n");
    let (code, report) = verify(&home, &[&flags[..], &["--policy", &policy]].concat());
    assert_eq!((code, refused(&report)), (1, true), "{report:#}");
    // There is no flag to reset the memory.
    let file = home.path("kept.json").display().to_string();
    let reset = ["receipt", "verify", &file, "--reset-release-floor"];
    let (code, _, error) = home.run(&[&reset, &flags[..]].concat());
    assert_eq!(code, 2);
    assert!(
        error.contains("unexpected argument '--reset-release-floor'"),
        "{error}"
    );
}

#[test]
fn wrong_usage_is_2() {
    let home = Home::new();
    let file = home.write("kept.json", b"[]");
    let (code, _, error) = home.run(&["receipt", "verify", &file]);
    assert_eq!(code, 2);
    assert!(
        error.contains("<--manifest <FILE>|--meter-key <HEX>>"),
        "{error}"
    );
    let (code, _, error) = home.run(&["receipt", "verify", &file, "--meter-key", &meter_key()]);
    assert_eq!(code, 2);
    let begins = format!("cocoon: {file} is no use as a receipt: it is not a bundle");
    assert!(error.starts_with(&begins), "{error}");
}
