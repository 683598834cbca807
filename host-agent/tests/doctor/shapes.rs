//! RTMR0 before a launch: which of a manifest's shapes the machine will match, judged by the tables of its QEMU.

use cocoon_host_agent::doctor::clients::{self, Shape, predicted};
use cocoon_host_agent::doctor::finding::{Finding, Severity};
use cocoon_host_agent::doctor::policy::PolicyFile;
use cocoon_protocol::bytes::Hex;
use cocoon_protocol::manifest::{ReferenceEvent, TdxPlatform};
use cocoon_qemu::tables::Tables;

use crate::captured::{Captured, H100_VFIO, TDX};
use crate::clients::{image, manifest};

fn tables() -> Tables {
    Tables {
        acpi_loader: b"loader".into(),
        acpi_rsdp: b"rsdp".into(),
        acpi_tables: b"tables".into(),
        boot_order: Vec::new(),
        smbios: b"smbios".into(),
    }
}

/// With the tables of this machine's QEMU, the shape is compared event by event.
#[test]
fn a_shape_is_told_by_its_events() {
    let tables = tables();
    let judged = |tables: &Tables, edit: fn(&mut TdxPlatform)| {
        let events = predicted(&image(), 4096, &self::tables()).unwrap();
        let image = manifest(|manifest| {
            let platform = &mut manifest.tdx.platforms[1];
            let event = |(name, digest)| ReferenceEvent { name, digest };
            platform.rtmr0_events = events.into_iter().map(event).collect();
            edit(platform);
        });
        let machine = Captured::new(TDX);
        let shape = Shape {
            vcpus: 2,
            cpu_model: "EPYC-v4".into(),
            tables: Some(tables.clone()),
        };
        let policy = PolicyFile::default();
        let rows = clients::judge(&image, &policy, &machine.facts(), &machine.wanted, &shape);
        rows.into_iter()
            .find(|row| row.id == "client.tdx.rtmr0")
            .unwrap()
    };
    let same = judged(&tables, |_| ());
    assert_eq!(same.severity, Severity::Ok, "{same:?}");
    assert!(
        same.found
            .starts_with("2 vCPUs, 4096 MiB, QEMU 11.1.3: every event agrees")
    );
    // The SMBIOS event depends on the processor and is not compared.
    let smbios = |platform: &mut TdxPlatform| {
        let event = platform
            .rtmr0_events
            .iter_mut()
            .find(|event| event.name == "SMBIOS tables");
        event.unwrap().digest = Hex([1; 48]);
    };
    assert_eq!(judged(&tables, smbios).severity, Severity::Ok);
    let mut other = tables.clone();
    other.acpi_tables.push(0);
    let differs = judged(&other, |_| ());
    assert_eq!(differs.severity, Severity::Failure);
    assert_eq!(
        differs.found,
        "the nearest shape, 2 vCPUs, 4096 MiB, QEMU 11.1.3, differs in ACPI tables"
    );
    let shorter = judged(&tables, |platform| drop(platform.rtmr0_events.pop()));
    assert!(
        shorter.found.ends_with("differs in the number of events"),
        "{shorter:?}"
    );
}

/// Returns the row for a machine whose tables are unknown.
fn row(machine: &Captured, vcpus: u16, edit: fn(&mut TdxPlatform)) -> Finding {
    let image = manifest(|manifest| edit(&mut manifest.tdx.platforms[1]));
    let shape = Shape {
        vcpus,
        cpu_model: "EPYC-v4".into(),
        tables: None,
    };
    let policy = PolicyFile::default();
    let rows = clients::judge(&image, &policy, &machine.facts(), &machine.wanted, &shape);
    let mut rows = rows.into_iter();
    rows.find(|row| row.id == "client.tdx.rtmr0").unwrap()
}

const ADD: &str = "ask for a shape that is listed (--memory, --vcpus), or let the signers add this machine: cocoon-host tables, \
     then cocoon-image manifest platform";

/// As in `up`, a shape for another number of vCPUs never matches.
#[test]
fn a_shape_for_another_number_of_vcpus_is_none() {
    let machine = Captured::new(TDX);
    let fits = row(&machine, 2, |platform| platform.vcpus = Some(2));
    assert_eq!(fits.severity, Severity::Note, "{fits:?}");
    let other = row(&machine, 3, |platform| platform.vcpus = Some(2));
    assert_eq!(other.severity, Severity::Failure);
    assert_eq!(
        other.found,
        "no shape of a real machine with 3 vCPUs and 4096 MiB; known are: 2 vCPUs, 4096 MiB, QEMU 11.1.3"
    );
    assert_eq!(other.fix, ADD);
    // A shape without a number of vCPUs may match any.
    assert_eq!(row(&machine, 3, |_| ()).severity, Severity::Note);
}

/// The largest BAR of this machine's GPU is 128 GiB, so its BARs together need a window of 256 GiB.
#[test]
fn a_shape_with_a_gpu_is_one_with_this_gpus_window() {
    let machine = Captured::new(TDX).and(H100_VFIO).wanting_gpu();
    let fits = row(&machine, 2, |platform| platform.mmio64_mib = Some(262_144));
    assert_eq!(fits.severity, Severity::Note, "{fits:?}");
    assert_eq!(
        fits.found,
        "shapes with 2 vCPUs, 4096 MiB and a GPU with a window of 262144 MiB: 2 vCPUs, 4096 MiB, QEMU 11.1.3; what the GPU adds to the tables is told by evidence alone"
    );
    let edits: [fn(&mut TdxPlatform); 2] = [
        |platform| platform.mmio64_mib = Some(131_072),
        |platform| platform.mmio64_mib = None,
    ];
    for edit in edits {
        let other = row(&machine, 2, edit);
        assert_eq!(other.severity, Severity::Failure, "{other:?}");
        assert_eq!(
            other.found,
            "no shape of a real machine with 2 vCPUs, 4096 MiB and a GPU with a window of 262144 MiB; known are: \
             2 vCPUs, 4096 MiB, QEMU 11.1.3"
        );
        assert_eq!(other.fix, format!("{ADD}, both with --mmio64-mib 262144"));
    }
    // If the machine has no GPU yet, any window may match.
    let bare = Captured::new(TDX).wanting_gpu();
    let any = row(&bare, 2, |platform| platform.mmio64_mib = Some(131_072));
    assert_eq!(any.severity, Severity::Note, "{any:?}");
    let none = row(&bare, 2, |_| ());
    assert_eq!(none.fix, format!("{ADD}, both with --mmio64-mib MIB"));
    // A machine without a GPU does not match a shape with one.
    let without = Captured::new(TDX).and(H100_VFIO);
    let other = row(&without, 2, |platform| platform.mmio64_mib = Some(262_144));
    assert_eq!(other.severity, Severity::Failure, "{other:?}");
}

/// Computing the tables means running the firmware under emulation, so it is done only if it decides something.
#[test]
fn tables_are_computed_where_they_tell_something() {
    let image = manifest(|manifest| manifest.tdx.platforms[1].vcpus = Some(2));
    let mut wanted = Captured::new(TDX).wanted;
    let worth = |wanted: &_, vcpus| clients::wants_tables(&image.manifest, wanted, vcpus);
    assert!(worth(&wanted, 2));
    assert!(!worth(&wanted, 3));
    let gpus = manifest(|manifest| manifest.tdx.platforms[1].mmio64_mib = Some(262_144));
    wanted.gpu = true;
    assert!(!worth(&wanted, 2));
    assert!(!clients::wants_tables(&gpus.manifest, &wanted, 2));
}
