//! Conflicts of networks, placements and GPUs: used elsewhere, missing on this machine, or impossible with the TEE.

use cocoon_protocol::binding::Tee;
use cocoon_qemu::accel::Wanted;
use cocoon_qemu::spec::HugePages;

use super::super::devices::Network;
use super::super::reader::{Report, Wrong};
use super::super::schema::{Entry, Located};
use super::super::{Machine, TeeMode};
use crate::numa;

/// Reports devices that `entry` cannot have, or that an appliance `before` it has.
pub(super) fn devices(report: &mut Report<'_>, before: &[Entry], entry: &Entry, machine: &Machine) {
    networks(report, before, entry);
    places(report, entry, machine);
    if let (Some((_, at)), Some((TeeMode::Real(Tee::Tdx) | TeeMode::Simulated(Tee::Tdx), _))) =
        (&entry.cpu, entry.tee)
    {
        let wrong = Wrong::because("only SEV-SNP has a CPU model measured: leave it out");
        report.add(*at, "appliance.cpu", wrong);
    }
    if let (Some((gpu, at)), Wanted::Emulated) = (&entry.gpu, entry.accel) {
        let message =
            format!("{gpu} can be given to a VM under KVM only, and accelerator is \"tcg\"");
        report.add(*at, "appliance.gpu", Wrong::because(message));
    } else if let (Some((gpu, at)), Some((TeeMode::Simulated(_), _))) = (&entry.gpu, entry.tee) {
        let message = format!(
            "{gpu} changes what is measured, and a simulated TEE measures no machine with a GPU"
        );
        report.add(*at, "appliance.gpu", Wrong::because(message));
    }
}

/// Reports a device, socket or address that another appliance's network already uses.
fn networks(report: &mut Report<'_>, before: &[Entry], entry: &Entry) {
    let (network, at) = &entry.devices.network;
    let mut refuse = |what: &str, other: usize| {
        let line = report.line(other);
        let message = format!("{what} is taken by the network in line {line}");
        report.add(*at, "appliance.network", Wrong::because(message));
    };
    for (other, other_at) in before.iter().map(|other| &other.devices.network) {
        match (network, other) {
            (
                Network::Tap {
                    device, address, ..
                },
                Network::Tap {
                    device: theirs,
                    address: at,
                    ..
                },
            ) => {
                if device == theirs {
                    refuse(&format!("the device {device}"), *other_at);
                } else if address.ip == at.ip {
                    refuse(&format!("the address {}", address.ip), *other_at);
                }
            }
            (
                Network::Passt { socket, relay, .. },
                Network::Passt {
                    socket: theirs,
                    relay: port,
                    ..
                },
            ) => {
                if socket == theirs {
                    refuse(&format!("the socket {}", socket.display()), *other_at);
                } else if relay == port {
                    refuse(&format!("the address {relay}"), *other_at);
                }
            }
            _ => {}
        }
    }
}

fn places(report: &mut Report<'_>, entry: &Entry, machine: &Machine) {
    let devices = &entry.devices;
    let unknown = devices.placement.nodes.iter();
    let mut unknown =
        unknown.filter(|node| !machine.nodes.is_empty() && !machine.nodes.contains(node));
    if let Some(node) = unknown.next() {
        let known: Vec<String> = machine.nodes.iter().map(u32::to_string).collect();
        let wrong = Wrong {
            allowed: Some(known.join(", ")),
            ..Wrong::because(format!("the machine has no NUMA node {node}"))
        };
        report.add(devices.nodes_at, "appliance.placement.numa_nodes", wrong);
    }
    let Some(page) = devices.placement.hugepages else {
        return;
    };
    let mut refuse = |message: String| {
        let wrong = Wrong::because(message);
        report.add(devices.hugepages_at, "appliance.placement.hugepages", wrong);
    };
    if let Some((TeeMode::Real(tee), _)) = entry.tee {
        refuse(format!(
            "{tee} keeps private memory in guest_memfd, which takes no huge pages: leave it out"
        ));
    }
    if let Some((mib, _)) = entry
        .memory_mib
        .filter(|(mib, _)| !mib.is_multiple_of(page.mib()))
    {
        refuse(format!(
            "{mib} MiB of memory are no multiple of a page of {} MiB",
            page.mib()
        ));
    }
}

/// Reports appliances for which the kernel's pools of huge pages are too small. Those that start with the daemon must fit
/// together, each of the others alone.
pub(super) fn pools(report: &mut Report<'_>, file: &Located, machine: &Machine) {
    for page in [HugePages::TwoMib, HugePages::OneGib] {
        let Some(pool) = (machine.hugepages)(page) else {
            continue;
        };
        let mut used = 0;
        for entry in &file.appliances {
            let placed = entry.devices.placement.hugepages == Some(page);
            let Some((mib, _)) = entry.memory_mib.filter(|_| placed) else {
                continue;
            };
            let own = u64::from(mib / page.mib());
            let needed = if entry.autostart { used + own } else { own };
            if entry.autostart {
                used = needed;
            }
            if needed > pool {
                let folder = numa::pool(page);
                let message = format!(
                    "{needed} pages of {} MiB are needed and the kernel's pool has {pool}: write the number to {folder}/nr_hugepages",
                    page.mib()
                );
                let at = entry.devices.hugepages_at;
                report.add(at, "appliance.placement.hugepages", Wrong::because(message));
            }
        }
    }
}
