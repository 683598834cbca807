//! Compares measurements of the locked firmware with values that other programs computed for its release. These
//! expected values are independent of the code under test.

use cocoon_image::firmware::path;
use cocoon_measurements::snp::firmware::SnpFirmware;
use cocoon_measurements::snp::launch::{FEATURE_SNP, Vcpus, launch_digest};
use cocoon_measurements::tdx::mrtd::{PageOrder, mrtd};
use cocoon_measurements::tdx::tdvf::Tdvf;
use cocoon_measurements::tdx::varstore;
use sha2::{Digest as _, Sha384};

use crate::tools::{Packages, had, read};

/// MRTD of `OVMF.inteltdx.ms.fd` 2026.08+ds-2, with pages added and extended in one pass, and in two. Computed by a
/// Python program from Intel's description of TDH.MEM.PAGE.ADD and TDH.MR.EXTEND.
const MRTD: [(PageOrder, &str); 2] = [
    (
        PageOrder::SinglePass,
        "a7a1f751abc454f9cbab198ca8d2edb2821935df525c74182b5e776cb0929e8c59aefecce725b0d08a5e9d3d3183bd08",
    ),
    (
        PageOrder::TwoPass,
        "b90b236113eb4c0d4df4ef590568c14e6028a3a31d7e8ac63dee9845df5008d3ebf82d4f5974e933798f65d7a279b9a9",
    ),
];
/// Digest of the variable store without keys, as an event of RTMR0 in logs of real TDX machines.
const BLANK_STORE: &str = "344bc51c980ba621aaa00da3ed7436f7d6e549197dfe699515dfa2c6583d95e6412af21c097d473155875ffd561d6790";

#[test]
fn the_locked_tdx_firmware_has_the_measurements_that_others_computed() {
    let Some((firmware, store)) = had("the locked firmware for TDX", || {
        let firmware = Packages::as_locked("firmware-tdx")?.file(path::TDX);
        let store = Packages::as_locked("firmware-vars")?.file(path::VARSTORE);
        Ok((read(&firmware)?, read(&store)?))
    }) else {
        return;
    };
    let blank = varstore::blank(&firmware, &store).unwrap();
    // As built by Debian, and with the blank variable store of the image.
    for bytes in [&firmware, &blank] {
        let parsed = Tdvf::parse(bytes).unwrap();
        for (order, expected) in MRTD {
            assert_eq!(hex::encode(mrtd(&parsed, order)), expected, "{order:?}");
        }
    }
    let parsed = Tdvf::parse(&blank).unwrap();
    let volume = parsed.configuration_volume().unwrap();
    assert_eq!(
        hex::encode(Sha384::digest(parsed.data(volume))),
        BLANK_STORE
    );
}

/// The digest's beginning and end, as computed by `sev-snp-measure` 0.0.13 for `OVMF.amdsev.fd`
/// 2026.08+ds-2 alone on one `EPYC-v4`.
#[test]
fn the_locked_snp_firmware_has_the_launch_digest_that_others_computed() {
    let Some(firmware) = had("the locked firmware for SEV-SNP", || {
        read(&Packages::as_locked("firmware-snp")?.file(path::SNP))
    }) else {
        return;
    };
    let firmware = SnpFirmware::parse(&firmware).unwrap();
    let vcpus = Vcpus {
        count: 1,
        model: "EPYC-v4".parse().unwrap(),
        guest_features: FEATURE_SNP,
    };
    let digest = hex::encode(launch_digest(&firmware, None, &vcpus).unwrap());
    assert!(
        digest.starts_with("d74bd3ea") && digest.ends_with("da58"),
        "{digest}"
    );
}
