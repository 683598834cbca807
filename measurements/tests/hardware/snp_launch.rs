//! Compares our launch digest with the `sev` crate's calculator, on the end of a real firmware image.

use std::io::Write as _;

use cocoon_measurements::snp::{
    firmware::SnpFirmware,
    launch::{KernelHashes, Vcpus, launch_digest},
};
use sev::measurement::{
    snp::{SnpMeasurementArgs, snp_calc_launch_digest},
    vcpu_types::CpuType,
    vmsa::{GuestFeatures, VMMType},
};

use crate::vector;

fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

#[test]
fn every_model_equals_the_sev_crate() {
    let Some(image) = vector("snp/sev_ovmf_AmdSev_suffix.bin") else {
        return;
    };
    let firmware = SnpFirmware::parse(&image).unwrap();
    let (kernel, initrd, command_line) = (
        b"a kernel".as_slice(),
        b"an initrd".as_slice(),
        "console=ttyS0 loglevel=7",
    );
    let hashes = KernelHashes::of(kernel, Some(initrd), command_line);
    let (firmware_file, kernel_file, initrd_file) = (file(&image), file(kernel), file(initrd));
    for model in [
        "EPYC",
        "EPYC-v4",
        "EPYC-Rome-v3",
        "EPYC-Milan",
        "EPYC-Milan-v2",
        "EPYC-Genoa-v1",
        "EPYC-Turin",
    ] {
        for (count, guest_features) in [(1, 1), (3, 1), (64, 0x21)] {
            for with_kernel in [true, false] {
                let arguments = SnpMeasurementArgs {
                    vcpus: count,
                    vcpu_type: CpuType::try_from(model).unwrap(),
                    ovmf_file: firmware_file.path().to_owned(),
                    guest_features: GuestFeatures(guest_features),
                    kernel_file: with_kernel.then(|| kernel_file.path().to_owned()),
                    initrd_file: with_kernel.then(|| initrd_file.path().to_owned()),
                    append: with_kernel.then_some(command_line),
                    ovmf_hash_str: None,
                    vmm_type: Some(VMMType::QEMU),
                };
                #[expect(
                    clippy::disallowed_methods,
                    reason = "the oracle reads its own temporary files"
                )]
                let expected: Vec<u8> = snp_calc_launch_digest(arguments)
                    .unwrap()
                    .try_into()
                    .unwrap();
                let vcpus = Vcpus {
                    count,
                    model: model.parse().unwrap(),
                    guest_features,
                };
                let found =
                    launch_digest(&firmware, with_kernel.then_some(&hashes), &vcpus).unwrap();
                assert_eq!(
                    found[..],
                    expected,
                    "{model} x {count}, features {guest_features:#x}, kernel {with_kernel}"
                );
            }
        }
    }
}

#[test]
fn firmware_without_kernel_hashes_takes_no_kernel() {
    use cocoon_measurements::snp::launch::LaunchError;
    let Some(image) = vector("snp/sev_ovmf_OvmfX64_suffix.bin") else {
        return;
    };
    let firmware = SnpFirmware::parse(&image).unwrap();
    let vcpus = Vcpus {
        count: 1,
        model: "EPYC-v4".parse().unwrap(),
        guest_features: 1,
    };
    let hashes = KernelHashes::of(b"a kernel", None, "");
    assert_eq!(
        launch_digest(&firmware, Some(&hashes), &vcpus),
        Err(LaunchError::NoKernelHashes)
    );
    assert!(launch_digest(&firmware, None, &vcpus).is_ok());
}
