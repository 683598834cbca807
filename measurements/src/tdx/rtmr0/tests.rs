//! The order of the predicted events, and their constants compared with what hardware logged.

use sha2::{Digest as _, Sha384};

use super::{GivenDigest, Machine, PlatformDigests, PlatformTables, rtmr0};
use crate::{
    tdx::{
        DirectBoot,
        boot_variables::BootApplications,
        event::{PredictedEvent, Provenance, Rtmr},
        mrtd::PageOrder,
        predict,
        rtmr::Edk2,
        smbios::ProcessorId,
        tdvf::Tdvf,
    },
    test_firmware::Firmware,
};

/// Shows the complete order for each edk2 release, as registers and names.
#[test]
fn cocoon_tdx_13() {
    let firmware = Firmware::like_ovmf().build();
    let kernel = crate::pe::tests::sample();
    let boot = DirectBoot {
        firmware: &firmware,
        kernel: &kernel,
        initrd: Some(b"initrd"),
        command_line: "a",
    };
    let events = |edk2| -> Vec<String> {
        let machine = Machine {
            edk2,
            boot_applications: BootApplications::usual(edk2),
            ..Machine::simulated(2 << 30)
        };
        let prediction = predict(&boot, &machine, PageOrder::SinglePass).unwrap();
        let named = |event: PredictedEvent| format!("{} {}", event.rtmr.index(), event.name);
        prediction.events.into_iter().map(named).collect()
    };
    let newest = [
        "0 memory map (TD hand-off block, 2048 MiB)",
        "0 variable store (CFV)",
        "0 QEMU setting BootMenu",
        "0 QEMU setting bootorder",
        "0 variable SecureBoot",
        "0 variable PK",
        "0 variable KEK",
        "0 variable db",
        "0 variable dbx",
        "0 separator",
        "0 ACPI loader",
        "0 ACPI RSDP",
        "0 ACPI tables",
        "0 SMBIOS tables",
        "1 kernel (Authenticode SHA-384)",
        "0 variable BootOrder",
        "0 variable Boot0000",
        "1 Calling EFI Application from Boot Option",
        "1 separator",
        "2 kernel command line",
        "2 initrd",
        "1 Exit Boot Services Invocation",
        "1 Exit Boot Services Returned with Success",
    ];
    assert_eq!(events(Edk2::Stable202508), newest);
    assert_eq!(events(Edk2::Stable202505), newest);
    let mut older = newest.to_vec();
    older.retain(|name| !name.contains("QEMU setting") && !name.contains("SMBIOS"));
    assert_eq!(events(Edk2::Stable202502), older);
    assert_eq!(events(Edk2::Stable202411), older);
    let place = older
        .iter()
        .position(|name| *name == "1 separator")
        .unwrap();
    older[place] = "0 separator";
    assert_eq!(events(Edk2::Stable202408), older);
}

/// The digests are those of the tables' bytes; machine-specific fields of SMBIOS are blanked first.
#[test]
fn platform_digests_are_of_the_tables() {
    let smbios = b"\x03\x09\0\0\x01\x02\0\x01\0tag\0\0\x7f\x04\0\0\0\0".as_slice();
    let blank = b"\x03\x09\0\0\x01\x02\0\0\0   \0\0\x7f\x04\0\0\0\0".as_slice();
    let tables = PlatformTables {
        acpi_loader: b"loader",
        acpi_rsdp: b"rsdp",
        acpi_tables: b"tables",
        smbios,
    };
    let processor = ProcessorId {
        signature: 0,
        features: 0,
    };
    let of = |bytes: &[u8]| GivenDigest {
        digest: Sha384::digest(bytes).into(),
        provenance: Provenance::Computed,
    };
    assert_eq!(
        PlatformDigests::of_tables(&tables, processor),
        Ok(PlatformDigests {
            acpi_loader: of(b"loader"),
            acpi_rsdp: of(b"rsdp"),
            acpi_tables: of(b"tables"),
            smbios: of(blank),
        })
    );
}

/// The item is the text that QEMU stores for `-fw_cfg …,string=262144`, measured before the boot order.
#[test]
fn a_window_for_a_gpu_is_measured_as_text() {
    let firmware = Firmware::like_ovmf().build();
    let firmware = Tdvf::parse(&firmware).unwrap();
    let machine = Machine::simulated(2 << 30);
    let plain = rtmr0(&firmware, &machine).unwrap();
    let fw_cfg = machine.fw_cfg.clone().with_window(Some(262_144));
    let mut events = rtmr0(&firmware, &Machine { fw_cfg, ..machine }).unwrap();
    let window = events.remove(3);
    assert_eq!(events, plain);
    assert_eq!(window.name, "QEMU setting opt/ovmf/X-PciMmio64Mb");
    let digest: [u8; 48] = Sha384::digest(b"262144").into();
    assert_eq!(window.digest, digest);
    assert!(
        window
            .data
            .starts_with(b"QEMU FW CFG\0opt/ovmf/X-PciMmio64Mb\0")
    );
    assert_eq!(window.data.len(), 12 + 56);
}

#[test]
fn the_simulated_platform_has_every_event_in_order() {
    let firmware = Firmware::like_ovmf().build();
    let events = rtmr0(
        &Tdvf::parse(&firmware).unwrap(),
        &Machine::simulated(2 << 30),
    )
    .unwrap();
    let names: Vec<_> = events.iter().map(|event| event.name.as_ref()).collect();
    assert_eq!(
        names,
        [
            "memory map (TD hand-off block, 2048 MiB)",
            "variable store (CFV)",
            "QEMU setting BootMenu",
            "QEMU setting bootorder",
            "variable SecureBoot",
            "variable PK",
            "variable KEK",
            "variable db",
            "variable dbx",
            "separator",
            "ACPI loader",
            "ACPI RSDP",
            "ACPI tables",
            "SMBIOS tables",
            "variable BootOrder",
            "variable Boot0000",
        ]
    );
    assert!(events.iter().all(|event| event.rtmr == Rtmr::Rtmr0));
    let simulated = events
        .iter()
        .filter(|event| event.provenance == Provenance::Simulated);
    assert_eq!(simulated.count(), 4);
}

/// Digests captured on hardware (direct boot with QEMU's default boot order, absent keys).
#[test]
fn constants_equal_what_hardware_logged() {
    let firmware = Firmware::like_ovmf().build();
    let events = rtmr0(
        &Tdvf::parse(&firmware).unwrap(),
        &Machine::simulated(2 << 30),
    )
    .unwrap();
    let digest = |name: &str| {
        let event = events.iter().find(|event| event.name == name).unwrap();
        hex::encode(event.digest)
    };
    for (name, prefix) in [
        ("QEMU setting bootorder", "53d3dbc0"),
        ("variable PK", "6f2e3cbc14f9def86980f5f6"),
        ("variable KEK", "d607c0efb41c0d757d69bca0"),
        ("variable db", "08a74f8963b337acb6c93682"),
        ("variable dbx", "18cc6e01f0c6ea99aa23f8a2"),
        ("separator", "394341b7182cd227c5c6b07e"),
        ("variable Boot0000", "5068e6a9"),
    ] {
        assert!(digest(name).starts_with(prefix), "{name}: {}", digest(name));
    }
}

#[test]
fn older_firmware_measures_neither_settings_nor_smbios() {
    let firmware = Firmware::like_ovmf().build();
    let machine = Machine {
        edk2: Edk2::Stable202502,
        ..Machine::simulated(2 << 30)
    };
    let events = rtmr0(&Tdvf::parse(&firmware).unwrap(), &machine).unwrap();
    assert_eq!(events.len(), 13);
}
