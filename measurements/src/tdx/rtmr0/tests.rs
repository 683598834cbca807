//! The predicted list against its own order, and its constants against what hardware logged.

use super::{Machine, rtmr0};
use crate::{
    tdx::{
        event::{Provenance, Rtmr},
        rtmr::Edk2,
        tdvf::Tdvf,
    },
    test_firmware::Firmware,
};

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
