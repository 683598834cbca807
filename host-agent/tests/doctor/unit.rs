//! The packaged systemd unit allows exactly the devices that the daemon and its QEMUs open.

use std::collections::BTreeSet;
use std::path::Path;

use crate::captured::{Captured, H100_VFIO, SNP, TDX};

/// Parts of QEMU's command line, and the device that QEMU opens for each. Every part occurs in a golden test.
const QEMU: [(&str, &str); 6] = [
    ("-accel kvm", "/dev/kvm"),
    ("sev-snp-guest", "/dev/sev"),
    ("iommufd", "/dev/iommu"),
    // `vfio_device_fops`, class `vfio-dev` (drivers/vfio/device_cdev.c).
    ("vfio-pci,", "/dev/vfio/devices/vfio0"),
    ("tap,", "/dev/net/tun"),
    ("vhost=on", "/dev/vhost-net"),
];

/// Devices that systemd's own rules (`50-udev-default.rules`) open to everybody or to the group `kvm`.
const SYSTEMD: [&str; 4] = ["/dev/kvm", "/dev/vsock", "/dev/net/tun", "/dev/vhost-net"];

/// Devices that are opened only to see whether they exist. A refusal shows that, too.
const LOOKED_AT: [&str; 2] = ["/dev/sgx_enclave", "/dev/sgx_provision"];

/// Returns the name of a device in the unit. Device classes have their names of `/proc/devices`.
fn rule(device: &str) -> String {
    match device.strip_prefix("/dev/vfio/") {
        Some(name) if name.starts_with("devices/") => "char-vfio-dev".to_owned(),
        Some(_) => "char-vfio".to_owned(),
        None => device.to_owned(),
    }
}

/// Returns the devices that `Facts::read` opens on machines that have everything.
fn opened() -> BTreeSet<String> {
    let mut opened = BTreeSet::new();
    for machine in [
        Captured::new(TDX).and(H100_VFIO).wanting_gpu(),
        Captured::new(SNP).and(H100_VFIO).wanting_gpu(),
    ] {
        machine.facts();
        opened.append(&mut machine.opened.lock().unwrap());
    }
    opened.retain(|device| !LOOKED_AT.contains(&device.as_str()));
    opened
}

fn packaged(name: &str) -> String {
    let packaging = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging");
    std::fs::read_to_string(packaging.join(name)).unwrap()
}

fn allowed() -> BTreeSet<String> {
    let unit = packaged("cocoon-host.service");
    let allowed = unit
        .lines()
        .filter_map(|line| line.strip_prefix("DeviceAllow="));
    allowed
        .map(|rule| rule.strip_suffix(" rw").unwrap().to_owned())
        .collect()
}

/// The unit only opens the service's cgroup. Devices that only root may open by their modes also need a udev rule.
#[test]
fn what_the_unit_allows_is_the_daemons_to_open() {
    let rules = packaged("cocoon-host.rules");
    let rules = rules.lines().filter(|line| !line.starts_with('#'));
    let given: BTreeSet<String> = rules
        .map(|line| {
            let device = line.strip_suffix(", GROUP=\"kvm\", MODE=\"0660\"").unwrap();
            match device.strip_prefix("SUBSYSTEM==\"misc\", KERNEL==") {
                Some(name) => format!("/dev/{}", name.trim_matches('"')),
                None => {
                    let class = device.strip_prefix("SUBSYSTEM==").unwrap();
                    format!("char-{}", class.trim_matches('"'))
                }
            }
        })
        .collect();
    let mut ours = allowed();
    ours.retain(|device| !SYSTEMD.contains(&device.as_str()));
    assert_eq!(given, ours);
    assert!(packaged("cocoon-host.service").contains("\nSupplementaryGroups=kvm\n"));
    let users = packaged("cocoon.sysusers");
    assert!(users.contains("\nm cocoon kvm\n"), "{users}");
}

#[test]
fn the_unit_allows_the_devices_that_are_opened() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let unit = packaged("cocoon-host.service");
    assert!(unit.contains("\nDevicePolicy=closed\n"));

    let golden = std::fs::read_dir(root.join("qemu/tests/golden")).unwrap();
    let lines: String = golden
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "txt"))
        .map(|path| std::fs::read_to_string(path).unwrap())
        .collect();
    for (part, device) in QEMU {
        assert!(lines.contains(part), "QEMU is never told {part}: {device}");
    }
    let needed: BTreeSet<String> = (opened().iter())
        .map(|device| rule(device))
        .chain(QEMU.map(|(_, device)| rule(device)))
        .collect();
    assert_eq!(allowed(), needed);
}
