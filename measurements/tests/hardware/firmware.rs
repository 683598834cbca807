//! Debian's firmware and kernel: literals that independent implementations computed from the same files.

use cocoon_measurements::{
    pe,
    snp::{
        firmware::SnpFirmware,
        launch::{FEATURE_SNP, KernelHashes, Vcpus, launch_digest},
    },
    tdx::{
        DirectBoot,
        event::Rtmr,
        mrtd::{PageOrder, mrtd},
        predict, rtmr,
        rtmr0::Machine,
        tdvf::Tdvf,
        varstore,
    },
};
use sha2::{Digest as _, Sha384};

use crate::artefact;

const TDX: &str = "OVMF.inteltdx.ms.fd";
const SNP: &str = "OVMF.amdsev.fd";
const STORE: &str = "OVMF_VARS_4M.fd";
const KERNEL: &str = "vmlinuz-6.12.107+deb13-cloud-amd64";
const COMMAND_LINE: &str = "console=ttyS0 root=/dev/vda";

fn initrd() -> Vec<u8> {
    vec![b'A'; 1 << 20]
}

/// edk2 2026.08+ds-2.
#[test]
fn mrtd_of_debian_firmware_in_both_orders() {
    let Some(firmware) = artefact(TDX) else {
        return;
    };
    let tdvf = Tdvf::parse(&firmware).unwrap();
    assert_eq!(
        hex::encode(mrtd(&tdvf, PageOrder::SinglePass)),
        "a7a1f751abc454f9cbab198ca8d2edb2821935df525c74182b5e776cb0929e8c59aefecce725b0d08a5e9d3d3183bd08"
    );
    assert_eq!(
        hex::encode(mrtd(&tdvf, PageOrder::TwoPass)),
        "b90b236113eb4c0d4df4ef590568c14e6028a3a31d7e8ac63dee9845df5008d3ebf82d4f5974e933798f65d7a279b9a9"
    );
}

#[test]
fn a_blank_store_keeps_mrtd_and_is_the_one_that_hardware_measured() {
    let (Some(firmware), Some(store)) = (artefact(TDX), artefact(STORE)) else {
        return;
    };
    let blank = varstore::blank(&firmware, &store).unwrap();
    let tdvf = Tdvf::parse(&blank).unwrap();
    assert_eq!(
        mrtd(&tdvf, PageOrder::SinglePass),
        mrtd(&Tdvf::parse(&firmware).unwrap(), PageOrder::SinglePass)
    );
    let volume = tdvf.configuration_volume().unwrap();
    assert_eq!(
        hex::encode(Sha384::digest(tdvf.data(volume))),
        "344bc51c980ba621aaa00da3ed7436f7d6e549197dfe699515dfa2c6583d95e6412af21c097d473155875ffd561d6790"
    );
}

#[test]
fn authenticode_and_rtmr1_of_debian_kernel() {
    let Some(kernel) = artefact(KERNEL) else {
        return;
    };
    assert_eq!(
        hex::encode(pe::authenticode_sha384(&kernel).unwrap()),
        "b87b2bfd7eb3fcc0c5e3f28a8bd807420d85d8d2ccd0d2727a5b7025aa2d16a6c3369b80556175dad1e1749843ee8f93"
    );
    let sha256 = hex::encode(pe::authenticode_sha256(&kernel).unwrap());
    assert!(
        sha256.starts_with("782467f0") && sha256.ends_with("1390"),
        "{sha256}"
    );
    let events = rtmr::rtmr1(&kernel).unwrap();
    let registers = cocoon_measurements::tdx::event::replay(
        events.iter().map(|event| (event.rtmr, &event.digest)),
    );
    assert_eq!(
        hex::encode(registers[Rtmr::Rtmr1.index()]),
        "77ec4f2c75e1f25365ff6400aa6f599736cc0f6ab85b1379bbb4cd34cad28b716b0805750258d471b132abb2ea76450d"
    );
}

#[test]
fn a_whole_prediction_has_the_same_registers() {
    let (Some(firmware), Some(kernel)) = (artefact(TDX), artefact(KERNEL)) else {
        return;
    };
    let initrd = initrd();
    let boot = DirectBoot {
        firmware: &firmware,
        kernel: &kernel,
        initrd: Some(&initrd),
        command_line: COMMAND_LINE,
    };
    let prediction = predict(&boot, &Machine::simulated(1 << 30), PageOrder::SinglePass).unwrap();
    let registers = prediction.registers();
    assert!(hex::encode(registers[1]).starts_with("77ec4f2c75e1f253"));
    assert!(hex::encode(registers[2]).starts_with("a24dddf7bd314134"));
    assert_ne!(registers[0], [0; 48]);
    assert_eq!(registers[3], [0; 48]);
}

/// As computed by the Python package sev-snp-measure 0.0.13.
#[test]
fn launch_digests_equal_another_implementation() {
    let (Some(firmware), Some(kernel)) = (artefact(SNP), artefact(KERNEL)) else {
        return;
    };
    let firmware = SnpFirmware::parse(&firmware).unwrap();
    let kernel = KernelHashes::of(&kernel, Some(&initrd()), COMMAND_LINE);
    for (model, count, kernel, first, last) in [
        (
            "EPYC-v4",
            1,
            Some(&kernel),
            "b2b00e6319a1543968a3a4cd1e218739",
            "564877e6404d",
        ),
        (
            "EPYC-v4",
            4,
            Some(&kernel),
            "67a17502d8ae5942f2cb902b11f63651",
            "9beda25b3203",
        ),
        (
            "EPYC-Milan",
            1,
            Some(&kernel),
            "71ee3b7efb78a3b4faa6c29776b5cf84",
            "951247c6e6d2e",
        ),
        ("EPYC-Milan", 4, Some(&kernel), "d66d6d5f", "236e"),
        ("EPYC-Genoa", 1, Some(&kernel), "7ecc24de", "a8f0"),
        ("EPYC-Genoa", 4, Some(&kernel), "78956673", "e708"),
        ("EPYC-v4", 1, None, "d74bd3ea", "da58"),
    ] {
        let vcpus = Vcpus {
            count,
            model: model.parse().unwrap(),
            guest_features: FEATURE_SNP,
        };
        let digest = hex::encode(launch_digest(&firmware, kernel, &vcpus).unwrap());
        assert!(
            digest.starts_with(first) && digest.ends_with(last),
            "{model} x {count}: {digest}"
        );
    }
}
