//! Tests of `cocoon measure snp`: the launch digest, and the ID block signed by its owner and an
//! author.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cocoon_measurements::snp::firmware::SnpFirmware;
use cocoon_measurements::snp::id_block::{IdKey, launch_identity};
use cocoon_measurements::snp::launch::{FEATURE_SNP, KernelHashes, Vcpus, launch_digest};
use p384::ecdsa::SigningKey;
use p384::pkcs8::{EncodePrivateKey as _, LineEnding};
use serde_json::Value;

use crate::{Artefacts, CMDLINE, firmware, initrd, kernel};

/// Returns the key whose private scalar consists of this byte 48 times.
fn pem(byte: u8) -> String {
    let key = SigningKey::from_slice(&[byte; 48]).unwrap();
    key.to_pkcs8_pem(LineEnding::LF).unwrap().to_string()
}

fn with_keys() -> Artefacts {
    let artefacts = Artefacts::new();
    artefacts.write("owner.pem", pem(0x11).as_bytes());
    artefacts.write("author.pem", pem(0x22).as_bytes());
    artefacts
}

fn decoded(value: &Value) -> Vec<u8> {
    STANDARD.decode(value.as_str().unwrap()).unwrap()
}

/// Slow measuring shows progress, fast measuring does not.
#[test]
fn what_takes_long_is_told() {
    let artefacts = Artefacts::new();
    let (code, _, told) = artefacts.run("snp", &["--vcpus", "1"]);
    assert_eq!((code, told.as_str()), (0, ""));
    // A sparse file, which takes no disk space.
    let large = std::fs::File::options()
        .write(true)
        .open(artefacts.path("initrd"));
    large.unwrap().set_len((256 << 20) + 1).unwrap();
    let (code, shown, told) = artefacts.run("snp", &["--vcpus", "1"]);
    assert_eq!(code, 0, "{told}");
    assert!(shown.starts_with("launch digest  "), "{shown}");
    // Without a terminal there is no bar, but dots as time passes.
    let dots = told.strip_prefix("measuring 256.").unwrap_or_default();
    let dots = dots.split_once(" MiB …").map(|(_, dots)| dots);
    assert!(
        dots.is_some_and(|dots| dots.trim_end().chars().all(|dot| dot == '.')),
        "{told}"
    );
    // A file that is too large is refused before anything is read.
    let large = std::fs::File::options()
        .write(true)
        .open(artefacts.path("initrd"));
    large.unwrap().set_len((4 << 30) + 1).unwrap();
    let told = artefacts.refused("snp", &["--vcpus", "1"]);
    let path = artefacts.path("initrd").display().to_string();
    assert_eq!(
        told,
        format!("cocoon: {path} has 4294967297 bytes, more than any kernel, firmware or initrd\n")
    );
}

#[test]
fn the_launch_digest_is_that_of_the_artefacts() {
    let artefacts = Artefacts::new();
    let hashes = KernelHashes::of(&kernel(), Some(&initrd()), CMDLINE);
    let firmware = firmware::snp();
    let expected = |count, model: &str, guest_features| {
        let vcpus = Vcpus {
            count,
            model: model.parse().unwrap(),
            guest_features,
        };
        let firmware = SnpFirmware::parse(&firmware).unwrap();
        hex::encode(launch_digest(&firmware, Some(&hashes), &vcpus).unwrap())
    };
    let plain = artefacts.measured("snp", &["--vcpus", "2"]);
    assert_eq!(plain["launch_digest"], expected(2, "EPYC-v4", FEATURE_SNP));
    assert_eq!(plain.get("id_block"), None);
    let other = [
        "--vcpus",
        "3",
        "--cpu",
        "EPYC-Genoa",
        "--guest-features",
        "0x21",
    ];
    let other = artefacts.measured("snp", &other);
    assert_eq!(other["launch_digest"], expected(3, "EPYC-Genoa", 0x21));
}

#[test]
fn an_id_block_is_signed_by_owner_and_author() {
    let artefacts = with_keys();
    let owned = ["--vcpus", "2", "--id-key", "@owner.pem"];
    let digest = |byte| hex::encode(IdKey::from_pem(&pem(byte)).unwrap().digest());
    let measured = artefacts.measured("snp", &owned);
    let identity = &measured["id_block"];
    assert_eq!(identity["author_key_enabled"], false);
    assert_eq!(identity.get("author_key_digest"), None);
    assert_eq!(identity["id_key_digest"], digest(0x11));
    let found = launch_identity(&decoded(&identity["block"]), &decoded(&identity["auth"])).unwrap();
    assert_eq!(hex::encode(found.id_key_digest), digest(0x11));
    assert_eq!(found.author_key_digest, [0; 48]);

    let (family, image) = ("0f".repeat(16), "1e".repeat(16));
    let further = ["--author-key", "@author.pem", "--policy", "0xb0000"];
    let names = [
        "--guest-svn",
        "7",
        "--family-id",
        &family,
        "--image-id",
        &image,
    ];
    let vouched = [&owned[..], &further, &names].concat();
    let measured = artefacts.measured("snp", &vouched);
    let identity = &measured["id_block"];
    assert_eq!(identity["author_key_enabled"], true);
    assert_eq!(identity["author_key_digest"], digest(0x22));
    let block = decoded(&identity["block"]);
    let expected = [
        hex::decode(measured["launch_digest"].as_str().unwrap()).unwrap(),
        vec![0x0f; 16],
        vec![0x1e; 16],
        [1_u32, 7].map(u32::to_le_bytes).concat(),
        0xb_0000_u64.to_le_bytes().to_vec(),
    ];
    assert_eq!(block, expected.concat());
    let found = launch_identity(&block, &decoded(&identity["auth"])).unwrap();
    assert_eq!(hex::encode(found.author_key_digest), digest(0x22));

    let (code, shown, error) = artefacts.run("snp", &vouched);
    assert_eq!(code, 0, "{error}");
    let qemu = shown.lines().last().unwrap();
    let block = identity["block"].as_str().unwrap();
    assert!(
        qemu.starts_with(&format!("for QEMU       id-block={block},id-auth=")),
        "{qemu}"
    );
    assert!(qemu.ends_with(",author-key-enabled=on"), "{qemu}");
}

#[test]
fn keys_that_are_none_are_refused_without_a_word_of_them() {
    let artefacts = with_keys();
    let error = artefacts.refused("snp", &["--vcpus", "2", "--author-key", "@author.pem"]);
    assert!(error.contains("--id-key <FILE>"), "{error}");
    let cut = pem(0x11).replace("BEGIN PRIVATE", "BEGIN PUBLIC");
    artefacts.write("owner.pem", cut.as_bytes());
    let error = artefacts.refused("snp", &["--vcpus", "2", "--id-key", "@owner.pem"]);
    let path = artefacts.path("owner.pem");
    let expected = format!("cannot use {}", path.display());
    assert!(
        error.contains(&expected) && error.contains("no P-384 key in PKCS#8 PEM"),
        "{error}"
    );
    let secret = cut.lines().nth(1).unwrap();
    assert!(!error.contains(secret), "{error}");
}
