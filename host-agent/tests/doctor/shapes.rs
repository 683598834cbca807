//! RTMR0 before a launch: which of a manifest's shapes a machine would be, told by its QEMU's tables.

use cocoon_host_agent::doctor::clients::{self, Shape, predicted};
use cocoon_host_agent::doctor::finding::Severity;
use cocoon_host_agent::doctor::policy::PolicyFile;
use cocoon_protocol::bytes::Hex;
use cocoon_protocol::manifest::{ReferenceEvent, TdxPlatform};
use cocoon_qemu::tables::Tables;

use crate::captured::{Captured, TDX};
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

/// With the tables of this machine's QEMU the shape is told event by event.
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
    // The processor's own event is not judged here.
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
