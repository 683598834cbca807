//! Releases and builds of OVMF, each booted for real and compared with the prediction event by event.

use cocoon_measurements::tdx::boot_variables::BootApplications;
use cocoon_measurements::tdx::rtmr::Edk2;
use cocoon_measurements::tdx::rtmr0::SecureBoot;

use crate::artefacts::Artefacts;
use crate::boot::{Firmware, Programs};
use crate::measured::{Build, check};
use crate::tools::{Packages, had};

/// The release that the image uses, in the build for plain machines, with a GPU's port and the firmware's window for it.
#[tokio::test]
async fn edk2_stable202508_measures_what_is_predicted() {
    let Some((artefacts, programs)) = opened().await else {
        return;
    };
    let whole = artefacts.ovmf.file("usr/share/ovmf/OVMF.fd");
    let build = Build {
        firmware: Firmware::Whole(whole.clone()),
        predicted_from: whole,
        edk2: Edk2::Stable202508,
        secure_boot: SecureBoot::NotBuilt,
        boot_applications: BootApplications::BootManagerMenuAndUiApp,
        smbios_last: false,
        acpi: true,
        vcpus: 2,
        memory_mib: 640,
        mmio64_mib: Some(256 << 10),
    };
    check(&artefacts, &programs, build).await.unwrap();
}

/// The same release with secure boot built in and no keys enrolled, like the image's firmware.
#[tokio::test]
async fn edk2_with_secure_boot_measures_what_is_predicted() {
    let Some((artefacts, programs)) = opened().await else {
        return;
    };
    let build = Build {
        firmware: Firmware::Guarded {
            code: artefacts
                .ovmf
                .file("usr/share/OVMF/OVMF_CODE_4M.secboot.fd"),
            variables: artefacts.ovmf.file("usr/share/OVMF/OVMF_VARS_4M.fd"),
        },
        predicted_from: artefacts.ovmf.file("usr/share/ovmf/OVMF.fd"),
        edk2: Edk2::Stable202508,
        secure_boot: SecureBoot::Off,
        boot_applications: BootApplications::BootManagerMenuAndUiApp,
        smbios_last: true,
        acpi: true,
        vcpus: 1,
        memory_mib: 512,
        mmio64_mib: None,
    };
    check(&artefacts, &programs, build).await.unwrap();
}

/// An older release: other boot options, no SMBIOS, and another order on the command line.
#[tokio::test]
async fn edk2_stable202502_measures_what_is_predicted() {
    let Some((artefacts, programs)) = opened().await else {
        return;
    };
    let Some(older) = had("OVMF of edk2 stable202502", || {
        Packages::of_tests("ovmf-trixie")
    }) else {
        return;
    };
    let whole = older.file("usr/share/ovmf/OVMF.fd");
    let build = Build {
        firmware: Firmware::Whole(whole.clone()),
        predicted_from: whole,
        edk2: Edk2::Stable202502,
        secure_boot: SecureBoot::NotBuilt,
        boot_applications: BootApplications::UiApp,
        smbios_last: false,
        acpi: true,
        vcpus: 1,
        memory_mib: 512,
        mmio64_mib: None,
    };
    check(&artefacts, &programs, build).await.unwrap();
}

/// Firmware from before the changes of 2024 and 2025. It receives the kernel as patched by QEMU, so its measurement
/// depends on memory and initrd.
#[tokio::test]
async fn edk2_stable202211_measures_what_is_predicted() {
    let Some((artefacts, programs)) = opened().await else {
        return;
    };
    let Some(older) = had("OVMF of edk2 stable202211", || {
        Packages::of_tests("ovmf-bookworm")
    }) else {
        return;
    };
    let whole = older.file("usr/share/ovmf/OVMF.fd");
    let build = Build {
        firmware: Firmware::Whole(whole.clone()),
        predicted_from: whole,
        edk2: Edk2::Stable202408,
        secure_boot: SecureBoot::Off,
        boot_applications: BootApplications::UiApp,
        smbios_last: false,
        acpi: false,
        vcpus: 1,
        memory_mib: 700,
        mmio64_mib: None,
    };
    check(&artefacts, &programs, build).await.unwrap();
}

async fn opened() -> Option<(Artefacts, Programs)> {
    let programs = Programs::open().await;
    had("QEMU, swtpm or OVMF", || {
        Ok((Artefacts::open()?, programs?))
    })
}
