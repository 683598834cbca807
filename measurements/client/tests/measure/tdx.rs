//! Tests of `cocoon measure tdx`: RTMR0 with a machine's tables, and the flags for other firmware,
//! kernels and builds.

use cocoon_measurements::guid::Guid;
use cocoon_measurements::tdx::mrtd::{PageOrder, mrtd};
use cocoon_measurements::tdx::tdvf::Tdvf;
use serde_json::Value;
use sha2::{Digest as _, Sha384};

use crate::{Artefacts, firmware, initrd, kernel};

/// SMBIOS tables with one processor that has the emulator's ID, and the end mark.
const SMBIOS: &[u8] = b"\x04\x10\0\0\x01\x03\x02\x01EMULATORCPU 0\0\0\x7f\x04\x01\0\0\0";
/// The same tables as the firmware measures them on a processor with the ID in [`TABLES`].
const MEASURED: &[u8] =
    b"\x04\x10\0\0\x01\x03\x02\x01\xf2\x06\x0c\0\xff\xfb\x8b\x1fCPU 0\0\0\x7f\x04\x01\0\0\0";
const TABLES: [&str; 8] = [
    "--memory",
    "1024M",
    "--tables",
    "@tables",
    "--cpu-signature",
    "0x000c06f2",
    "--cpu-features",
    "0x1f8bfbff",
];

fn with_tables() -> Artefacts {
    let artefacts = Artefacts::new();
    for (name, bytes) in [
        ("acpi-loader.bin", &b"a loader"[..]),
        ("acpi-rsdp.bin", b"an RSDP"),
        ("acpi-tables.bin", b"tables"),
        ("smbios.bin", SMBIOS),
    ] {
        artefacts.write(&format!("tables/{name}"), bytes);
    }
    artefacts
}

fn sha384(bytes: &[u8]) -> String {
    hex::encode(Sha384::digest(bytes))
}

/// Returns name and digest of every event of `register`, in order.
fn events<'a>(measured: &'a Value, register: &str) -> Vec<(&'a str, &'a str)> {
    let text = |event: &'a Value, field: &str| event[field].as_str().unwrap();
    let events = measured["events"].as_array().unwrap().iter();
    events
        .filter(|event| event["rtmr"] == register)
        .map(|event| (text(event, "name"), text(event, "digest")))
        .collect()
}

fn digest<'a>(measured: &'a Value, name: &str) -> &'a str {
    let events = events(measured, "rtmr0");
    events.iter().find(|event| event.0 == name).unwrap().1
}

fn replayed(events: &[(&str, &str)]) -> String {
    let register = events.iter().fold(vec![0; 48], |register, (_, digest)| {
        Sha384::digest([register, hex::decode(digest).unwrap()].concat()).to_vec()
    });
    hex::encode(register)
}

#[test]
fn rtmr0_is_that_of_the_machines_tables() {
    let artefacts = with_tables();
    let all = [&TABLES[..], &["--events"]].concat();
    let measured = artefacts.measured("tdx", &all);
    for (name, bytes) in [
        ("ACPI loader", &b"a loader"[..]),
        ("ACPI RSDP", b"an RSDP"),
        ("ACPI tables", b"tables"),
        ("SMBIOS tables", MEASURED),
    ] {
        assert_eq!(digest(&measured, name), sha384(bytes), "{name}");
    }
    let rtmr0 = events(&measured, "rtmr0");
    assert_eq!(rtmr0.len(), 16);
    assert_eq!(measured["rtmr0"], replayed(&rtmr0));
    assert_eq!(measured.get("rtmr0_simulated"), None);
    let origin = |event: &Value| event["provenance"] == "computed";
    assert!(measured["events"].as_array().unwrap().iter().all(origin));

    // Without tables it is the simulator's RTMR0, and named so.
    let simulated = artefacts.measured("tdx", &["--memory", "1024M", "--events"]);
    assert_eq!(simulated.get("rtmr0"), None);
    assert_ne!(simulated["rtmr0_simulated"], measured["rtmr0"]);
    let differing: Vec<_> = events(&simulated, "rtmr0")
        .into_iter()
        .zip(rtmr0)
        .filter(|(one, other)| one != other)
        .map(|(one, _)| one.0)
        .collect();
    assert_eq!(
        differing,
        ["ACPI loader", "ACPI RSDP", "ACPI tables", "SMBIOS tables"]
    );

    let (code, shown, error) = artefacts.run("tdx", &TABLES);
    assert_eq!(code, 0, "{error}");
    let rtmr0 = measured["rtmr0"].as_str().unwrap();
    assert_eq!(shown.lines().nth(1), Some(&*format!("RTMR0  {rtmr0}")));
    assert_eq!(shown.lines().count(), 5);

    artefacts.write("tables/acpi-tables.bin", b"other tables");
    let other = artefacts.measured("tdx", &TABLES);
    assert_ne!(other["rtmr0"], measured["rtmr0"]);
    for register in ["mrtd", "rtmr1", "rtmr2", "rtmr3"] {
        assert_eq!(other[register], measured[register]);
    }
}

#[test]
fn a_window_for_a_gpu_is_one_event_more() {
    let artefacts = with_tables();
    let all = [&TABLES[..], &["--events"]].concat();
    let plain = artefacts.measured("tdx", &all);
    let all = [&all[..], &["--mmio64-mib", "262144"]].concat();
    let measured = artefacts.measured("tdx", &all);
    let mut rtmr0 = events(&measured, "rtmr0");
    assert_eq!(measured["rtmr0"], replayed(&rtmr0));
    let window = rtmr0.remove(3);
    assert_eq!(rtmr0, events(&plain, "rtmr0"));
    let digest = sha384(b"262144");
    assert_eq!(window, ("QEMU setting opt/ovmf/X-PciMmio64Mb", &*digest));
    let error = artefacts.refused("tdx", &["--mmio64-mib", "262144"]);
    assert!(error.contains("--memory <SIZE>"), "{error}");
}

#[test]
fn tables_that_are_none_are_refused() {
    let artefacts = with_tables();
    let error = artefacts.refused("tdx", &TABLES[..4]);
    assert!(
        error.contains("--cpu-signature <BITS>") && error.contains("--cpu-features <BITS>"),
        "{error}"
    );
    artefacts.write("tables/smbios.bin", &SMBIOS[..20]);
    let error = artefacts.refused("tdx", &TABLES);
    let folder = artefacts.path("tables");
    let expected = format!("cannot measure the tables in {}", folder.display());
    assert!(
        error.contains(&expected) && error.contains("SMBIOS table"),
        "{error}"
    );
    std::fs::remove_file(folder.join("acpi-rsdp.bin")).unwrap();
    let error = artefacts.refused("tdx", &TABLES);
    let expected = format!("cannot read {}", folder.join("acpi-rsdp.bin").display());
    assert!(error.contains(&expected), "{error}");
}

#[test]
fn page_orders() {
    let artefacts = Artefacts::new();
    let firmware = firmware::tdx();
    let firmware = Tdvf::parse(&firmware).unwrap();
    let default = artefacts.measured("tdx", &[]);
    let mut seen = Vec::new();
    for (order, name) in [
        (PageOrder::SinglePass, "single-pass"),
        (PageOrder::TwoPass, "two-pass"),
    ] {
        let measured = artefacts.measured("tdx", &["--page-order", name]);
        assert_eq!(measured["mrtd"], hex::encode(mrtd(&firmware, order)));
        assert_eq!(measured["rtmr1"], default["rtmr1"]);
        seen.push(measured["mrtd"].clone());
    }
    assert_ne!(seen[0], seen[1]);
    assert_eq!(seen[0], default["mrtd"]);
}

/// The patched kernel is computed by hand from the boot protocol and then measured unchanged.
#[test]
fn kernel_forms() {
    let artefacts = Artefacts::new();
    let patched = artefacts.measured(
        "tdx",
        &["--memory", "1024", "--kernel-form", "patched", "--events"],
    );
    let unchanged = ["--memory", "1024", "--kernel-form", "unchanged"];
    let default = artefacts.measured("tdx", &["--memory", "1024"]);
    assert_eq!(artefacts.measured("tdx", &unchanged), default);
    assert_ne!(patched["rtmr1"], default["rtmr1"]);

    let mut by_hand = kernel();
    let size = u32::try_from(initrd().len()).unwrap();
    // The last page at which the initrd fits below the end of 1 GiB, minus what q35 reserves for
    // ACPI tables.
    let address = ((1 << 30) - 0x2_8000 - 1 - size) & !0xfff;
    for (at, bytes) in [
        (0x210, &[0xb0, 0x81][..]),
        (0x218, &address.to_le_bytes()),
        (0x21c, &size.to_le_bytes()),
        (0x224, &[0x00, 0xfe]),
        (0x228, &[0, 0, 2, 0]),
    ] {
        by_hand[at..at + bytes.len()].copy_from_slice(bytes);
    }
    artefacts.write("vmlinuz", &by_hand);
    let expected = artefacts.measured("tdx", &unchanged);
    assert_eq!(patched["rtmr1"], expected["rtmr1"]);

    let error = artefacts.refused("tdx", &["--kernel-form", "patched"]);
    assert!(error.contains("--memory <SIZE>"), "{error}");
    by_hand[0x202] = 0;
    artefacts.write("vmlinuz", &by_hand);
    let error = artefacts.refused("tdx", &["--memory", "1024", "--kernel-form", "patched"]);
    assert!(
        error.contains("cannot tell how QEMU changes the kernel") && error.contains("0x202"),
        "{error}"
    );
}

/// The number of events in each register for each release, and other changes of a release.
#[test]
fn releases_of_edk2() {
    let artefacts = Artefacts::new();
    let of = |release| {
        let arguments = ["--memory", "1024", "--events", "--edk2", release];
        artefacts.measured("tdx", &arguments)
    };
    let count = |measured: &Value| {
        ["rtmr0", "rtmr1", "rtmr2"].map(|register| events(measured, register).len())
    };
    let releases = [
        "stable202408",
        "stable202411",
        "stable202502",
        "stable202505",
        "stable202508",
    ];
    let measured = releases.map(of);
    assert_eq!(
        [0, 1, 2, 3, 4].map(|release| count(&measured[release])),
        [[14, 4, 2], [13, 5, 2], [13, 5, 2], [16, 5, 2], [16, 5, 2]]
    );
    let [oldest, .., before, newest] = &measured;
    assert_eq!(events(oldest, "rtmr0").last().unwrap().0, "separator");
    // The token for the initrd moves to the beginning of the command line.
    assert_ne!(before["rtmr2"], newest["rtmr2"]);
    assert_eq!(before["rtmr0_simulated"], newest["rtmr0_simulated"]);
    let default = artefacts.measured("tdx", &["--memory", "1024", "--events"]);
    assert_eq!(&default, newest);
    assert_eq!(artefacts.measured("tdx", &[]).get("events"), None);
    let (_, shown, _) = artefacts.run("tdx", &["--memory", "1024", "--events"]);
    let (name, first) = events(newest, "rtmr0")[0];
    assert_eq!(shown.lines().count(), 5 + 23);
    assert_eq!(
        shown.lines().nth(5),
        Some(&*format!("RTMR0  {first}  {name}"))
    );
}

#[test]
fn applications_of_the_firmware() {
    let artefacts = Artefacts::new();
    let of = |further: &[&str]| {
        let arguments = [&["--memory", "1024", "--events"], further].concat();
        artefacts.measured("tdx", &arguments)
    };
    let usual = of(&[]);
    assert_eq!(of(&["--applications", "usual"]), usual);
    assert_eq!(of(&["--applications", "menu"]), usual);
    let old = of(&["--edk2", "stable202502"]);
    let ui_app = of(&["--applications", "ui-app"]);
    assert_eq!(
        digest(&ui_app, "variable Boot0000"),
        digest(&old, "variable Boot0000")
    );
    assert_ne!(
        digest(&ui_app, "variable Boot0000"),
        digest(&usual, "variable Boot0000")
    );
    let both = of(&["--applications", "menu-and-ui-app"]);
    assert_eq!(digest(&both, "variable BootOrder"), sha384(&[0, 0, 1, 0]));
    assert_eq!(digest(&usual, "variable BootOrder"), sha384(&[0, 0]));
    assert_eq!(
        digest(&both, "variable Boot0000"),
        digest(&usual, "variable Boot0000")
    );
    assert_eq!(
        events(&both, "rtmr0").last().unwrap().0,
        "variable Boot0001"
    );
}

#[test]
fn firmware_without_secure_boot() {
    let artefacts = Artefacts::new();
    let of = |further: &[&str]| {
        let arguments = [&["--memory", "1024", "--events"], further].concat();
        artefacts.measured("tdx", &arguments)
    };
    let variable = |value: &[u8]| {
        let mut data = Guid::parse("8be4df61-93ca-11d2-aa0d-00e098032b8c")
            .0
            .to_vec();
        data.extend(10_u64.to_le_bytes());
        data.extend((value.len() as u64).to_le_bytes());
        data.extend("SecureBoot".encode_utf16().flat_map(u16::to_le_bytes));
        data.extend(value);
        sha384(&data)
    };
    let (with, without) = (of(&[]), of(&["--no-secure-boot"]));
    assert_eq!(digest(&with, "variable SecureBoot"), variable(&[0]));
    assert_eq!(digest(&without, "variable SecureBoot"), variable(&[]));
    let differing = events(&with, "rtmr0")
        .into_iter()
        .zip(events(&without, "rtmr0"));
    assert_eq!(differing.filter(|(one, other)| one != other).count(), 1);
}
