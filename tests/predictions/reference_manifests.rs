//! Compares the verification of NVIDIA's reference manifests with `xmlsec1`: signature, certificates and dates
//! of all manifests in NVIDIA's Python verifier, of changed ones, and, from the test vectors, of a later
//! driver's manifest and its forgery.

use std::fs;
use std::path::PathBuf;

use cocoon_inputs::unpack::wheel_file;
use cocoon_measurements::nvidia::verify_manifest;
use cocoon_measurements::policy::Policy;

use crate::tools::{Packages, had, output, vector, wheel};

/// A time at which all are valid: 4 January 2025, 14:13:20 UTC, in the formats of both programs.
const IN_TIME: (u64, &str) = (1_736_000_000, "2025-01-04 14:13:20");
/// A time after the expiry of their signers' certificates.
const LATE: (u64, &str) = (1_768_000_000, "2026-01-09 23:06:40");
/// A time before any of them was issued.
const EARLY: (u64, &str) = (1_600_000_000, "2020-09-13 12:26:40");
/// Maximum bytes of a manifest, which has 21 KB.
const MOST: u64 = 64 << 10;

/// Manifests by board and VBIOS version, and last that of a driver.
const MANIFESTS: [&str; 26] = [
    "1010_0200_882_96005E0001_PROD",
    "1010_0200_882_96005E0001_test_no_gpu",
    "1010_0200_882_96005E0003_PROD",
    "1010_0200_882_960074001A_PROD",
    "1010_0200_882_960074001C_PROD",
    "1010_0205_862_96005E0002_PROD",
    "1010_0205_862_96005E0004_PROD",
    "1010_0205_862_960074001F_PROD",
    "1010_0205_862_9600740020_PROD",
    "1010_0210_886_9600740011_PROD",
    "1010_0215_866_9600740010_PROD",
    "g520_0200_885_9600740001_PROD",
    "g520_0200_885_960074000D_PROD",
    "g520_0202_885_96006D0008_PROD",
    "g520_0202_885_96006D0027_PROD",
    "g520_0202_885_9600740014_PROD",
    "g520_0202_885_9600740018_PROD",
    "g520_0205_865_9600740006_PROD",
    "g520_0205_865_960074000F_PROD",
    "g520_0207_865_9600740015_PROD",
    "g520_0207_865_9600740019_PROD",
    "g520_0213_881_96006D0007_PROD",
    "g520_0213_881_96006D0026_PROD",
    "g520_0228_889_96006D000A_PROD",
    "g520_0228_889_96006D0029_PROD",
    "Driver_RIM_test_no_gpu",
];

#[test]
fn manifests_verify_as_xmlsec1_says() {
    let Some(peer) = had("xmlsec1 with NVIDIA's manifests", Peer::open) else {
        return;
    };
    for name in MANIFESTS {
        let good = peer.manifest(name);
        peer.agrees(name, &good, IN_TIME, true);
        peer.agrees(name, &good, LATE, false);
        let changes: [(&str, &str); 5] = [
            ("active=\"True\"", "active=\"False\""),
            ("size=\"48\"", "size=\"49\""),
            ("<ds:DigestValue>", "<ds:DigestValue>A"),
            ("    <ns0:Entity", "   <ns0:Entity"),
            ("xmlns:ns2=", "xmlns:ns3=\"urn:x\" xmlns:ns2="),
        ];
        for (from, to) in changes {
            let changed = good.replacen(from, to, 1);
            assert_ne!(changed, good, "{name}: {from}");
            peer.agrees(&format!("{name}, {to}"), &changed, IN_TIME, false);
        }
        // Written differently, but with the same canonical form.
        let other = good
            .replacen(
                "<ns0:Entity name=\"NVIDIA Corporation\" role",
                "<ns0:Entity   role",
                1,
            )
            .replacen(
                "tagCreator\"/>",
                "tagCreator\" name='NVIDIA Corporation'></ns0:Entity>",
                1,
            );
        assert_ne!(other, good);
        peer.agrees(&format!("{name}, written otherwise"), &other, IN_TIME, true);
    }
}

/// No package contains NVIDIA's later manifests. They are read from `COCOON_VECTORS`, or from `../shared/vectors`
/// beside the checkout, and may be absent if no folder is named.
#[test]
fn a_later_manifest_and_its_forgery_verify_as_xmlsec1_says() {
    let Some(peer) = had("xmlsec1 with NVIDIA's root", Peer::open) else {
        return;
    };
    for (name, good) in [
        ("NV_GPU_DRIVER_GH100_550.144.03", true),
        ("incorrect_signature_driver_rim", false),
    ] {
        let path = format!("nvidia/{name}.xml");
        let Some(manifest) = vector(&path) else {
            return;
        };
        let manifest = String::from_utf8(manifest).unwrap();
        peer.agrees(name, &manifest, LATE, good);
        // The signer's certificate is valid from the end of 2024.
        peer.agrees(name, &manifest, EARLY, false);
    }
}

struct Peer {
    packages: Packages,
    wheel: PathBuf,
    folder: tempfile::TempDir,
}

impl Peer {
    fn open() -> anyhow::Result<Self> {
        let peer = Self {
            packages: Packages::of_tests("xmlsec1")?,
            wheel: wheel("nv-local-gpu-verifier")?,
            folder: tempfile::tempdir()?,
        };
        let root = wheel_file(&peer.wheel, "verifier/certs/verifier_RIM_root.pem", MOST)?;
        fs::write(peer.folder.path().join("root.pem"), root)?;
        Ok(peer)
    }

    fn manifest(&self, name: &str) -> String {
        let path = format!("verifier/samples/{name}.swidtag");
        String::from_utf8(wheel_file(&self.wheel, &path, MOST).unwrap()).unwrap()
    }

    /// Asserts that both implementations give `good` as the result for `manifest`.
    #[track_caller]
    fn agrees(&self, what: &str, manifest: &str, (now, date): (u64, &str), good: bool) {
        let ours = verify_manifest(manifest.as_bytes(), &Policy::default(), now);
        let path = self.folder.path().join("manifest.xml");
        fs::write(&path, manifest).unwrap();
        let mut peer = self.packages.program("xmlsec1");
        peer.env("TZ", "UTC")
            .args(["--verify", "--enabled-key-data", "x509", "--trusted-pem"])
            .arg(self.folder.path().join("root.pem"))
            .args(["--verification-time", date])
            .arg(&path);
        let theirs = output(&mut peer);
        assert_eq!(theirs.is_ok(), good, "{what}: xmlsec1 says {theirs:?}");
        assert_eq!(ours.is_ok(), good, "{what}: {ours:?}");
    }
}
