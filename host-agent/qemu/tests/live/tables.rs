//! Tables of real machines: the same machine always gives the same tables, and another machine gives others.
//!
//! The firmware and the kernel are those of the image's lock file.

use std::path::Path;

use cocoon_qemu::Qemu;
use cocoon_qemu::tables::{Boot, KERNEL_SPEAKS, Shape, Tables, TablesError, tables};

use crate::guest::{PATIENCE, guest, qemu};
use crate::inputs::{firmware, kernel};

const SHAPE: Shape = Shape {
    vcpus: 2,
    memory_mib: 1024,
    disks: 1,
    network: true,
    control: true,
    address_bits: 46,
    mmio64_mib: None,
};

async fn with_bios(qemu: &Qemu, kernel: &Path, shape: Shape) -> Tables {
    let boot = Boot {
        firmware: None,
        kernel,
        ready: &["READY\n"],
        deadline: PATIENCE,
    };
    tables(qemu, &shape, &boot).await.expect("tables")
}

/// With QEMU's own BIOS and a guest of sixty bytes, this needs nothing but QEMU.
#[tokio::test]
async fn tables_follow_from_the_shape_and_nothing_else() {
    let Some(qemu) = qemu().await else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let kernel = folder.path().join("kernel");
    std::fs::write(&kernel, guest()).expect("a kernel");
    let usual = with_bios(&qemu, &kernel, SHAPE).await;
    assert_eq!(with_bios(&qemu, &kernel, SHAPE).await, usual);
    assert!(usual.acpi_rsdp.starts_with(b"RSD PTR "));
    for signature in [b"FACP", b"APIC", b"MCFG"] {
        let has = usual.acpi_tables.windows(4).any(|part| part == signature);
        assert!(has, "{signature:?}");
    }
    assert_eq!(usual.boot_order, b"/rom@genroms/multiboot_dma.bin\0");
    assert!(usual.smbios.windows(11).any(|part| part == b"pc-q35-10.0"));

    let more_memory = with_bios(
        &qemu,
        &kernel,
        Shape {
            memory_mib: 1280,
            ..SHAPE
        },
    )
    .await;
    assert_ne!(more_memory.acpi_tables, usual.acpi_tables);
    assert_ne!(more_memory.smbios, usual.smbios);
    let more_vcpus = with_bios(&qemu, &kernel, Shape { vcpus: 3, ..SHAPE }).await;
    assert_ne!(more_vcpus.acpi_tables, usual.acpi_tables);
    assert_ne!(more_vcpus.acpi_loader, usual.acpi_loader);
    let no_card = with_bios(
        &qemu,
        &kernel,
        Shape {
            network: false,
            ..SHAPE
        },
    )
    .await;
    assert_ne!(no_card.acpi_tables, usual.acpi_tables);
}

#[tokio::test]
async fn a_silent_machine_has_no_tables() {
    let Some(qemu) = qemu().await else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let kernel = folder.path().join("kernel");
    std::fs::write(&kernel, guest()).expect("a kernel");
    let boot = Boot {
        firmware: None,
        kernel: &kernel,
        ready: &["never"],
        deadline: std::time::Duration::from_secs(2),
    };
    let error = tables(&qemu, &SHAPE, &boot).await.expect_err("silent");
    assert!(
        matches!(error, TablesError::Silent { seconds: 2, .. }),
        "{error:?}"
    );
    let boot = Boot {
        kernel: &folder.path().join("none"),
        ..boot
    };
    let error = tables(&qemu, &SHAPE, &boot).await.expect_err("no kernel");
    assert!(
        matches!(&error, TablesError::Open { path, .. } if path.ends_with("none")),
        "{error:?}"
    );
}

/// With the appliance's firmware, which places devices as the processor's address bits permit and adds its own name.
#[tokio::test]
async fn the_firmware_decides_where_the_window_begins() {
    let Some(qemu) = qemu().await else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (Some(firmware), Some(kernel)) = (firmware(folder.path()), kernel(folder.path())) else {
        return;
    };
    let boot = Boot {
        firmware: Some(&firmware),
        kernel: &kernel,
        ready: &KERNEL_SPEAKS,
        deadline: PATIENCE,
    };
    let usual = tables(&qemu, &SHAPE, &boot).await.expect("tables");
    assert_eq!(tables(&qemu, &SHAPE, &boot).await.expect("again"), usual);
    assert_eq!(usual.boot_order, b"/rom@genroms/linuxboot_dma.bin\0");
    // The 64-bit window, as the DSDT's descriptor holds its first and last address: from 2^46 - 2^43, 32 GiB long.
    let window = |tables: &Tables, first: u64| {
        let range = [first, first + (32 << 30) - 1]
            .map(u64::to_le_bytes)
            .concat();
        tables.acpi_tables.windows(16).any(|part| part == range)
    };
    assert!(window(&usual, 0x3800_0000_0000));
    let few_bits = Shape {
        address_bits: 42,
        ..SHAPE
    };
    let few_bits = tables(&qemu, &few_bits, &boot).await.expect("tables");
    assert!(window(&few_bits, 0x380_0000_0000));
    assert_eq!(few_bits.acpi_loader, usual.acpi_loader);
    assert_eq!(few_bits.smbios, usual.smbios);
    let edk2 = b"EDK II";
    assert!(usual.smbios.windows(edk2.len()).any(|part| part == edk2));
    // A GPU's port is one more device and moves the window even if nothing is behind it. SMBIOS and boot order stay.
    let with_port = Shape {
        mmio64_mib: Some(256 << 10),
        ..SHAPE
    };
    let with_port = tables(&qemu, &with_port, &boot).await.expect("tables");
    assert_ne!(with_port.acpi_tables, usual.acpi_tables);
    assert_eq!(with_port.smbios, usual.smbios);
    assert_eq!(with_port.boot_order, usual.boot_order);
    assert!(!window(&with_port, 0x3800_0000_0000));
    // Address bits beyond 46 change nothing, since the firmware does not use them.
    let many_bits = Shape {
        address_bits: 52,
        ..SHAPE
    };
    assert_eq!(
        tables(&qemu, &many_bits, &boot).await.expect("tables"),
        usual
    );
}
