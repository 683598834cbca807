//! Conflicts: values that an appliance cannot have, that two appliances cannot share, or that exceed this machine.

use std::net::{IpAddr, SocketAddr};

use cocoon_qemu::accel::Wanted;

use super::TeeMode;
use super::machine::Machine;
use super::reader::{Report, Wrong};
use super::schema::{At, Entry, Located};

mod devices;

/// Reports every conflict. One between two places is reported at the later place and names the line of the earlier.
pub(super) fn find(file: &Located, machine: &Machine, report: &mut Report<'_>) {
    let all = &file.appliances;
    for (index, entry) in all.iter().enumerate() {
        let before = &all[..index];
        taken(
            report,
            before,
            entry,
            "name",
            |e| e.name.as_ref(),
            |a, b| {
                // Case-insensitive file systems do not distinguish such folders.
                a.eq_ignore_ascii_case(b)
            },
        );
        taken(
            report,
            before,
            entry,
            "listen",
            |e| e.listen.as_ref(),
            |a, b| same(*a, *b),
        );
        taken(
            report,
            before,
            entry,
            "gpu",
            |e| e.gpu.as_ref(),
            |a, b| a == b,
        );
        devices::devices(report, before, entry, machine);
        files(report, entry, machine);
        emulated(report, entry);
    }
    shown(report, file);
    memory(report, file, machine);
    devices::pools(report, file, machine);
    processors(report, all, machine);
    for (key, (path, at)) in &file.files {
        if !(machine.has_file)(path) {
            let wrong = Wrong::because(format!("there is no file {}", path.display()));
            report.add(*at, key, wrong);
        }
    }
}

/// Reports addresses of `[web]` and `[status]` that are also used elsewhere.
fn shown(report: &mut Report<'_>, file: &Located) {
    let appliances = file.appliances.iter().filter_map(|e| e.listen);
    let appliances = appliances.map(|(listen, at)| (listen, at, "an appliance's"));
    let web = file
        .web
        .as_ref()
        .map(|(web, at)| (web.listen, *at, "[web]'s"));
    let status = file.status.as_ref().filter(|(status, _)| status.named);
    let status = status.map(|(status, at)| (status.web.listen, *at, "[status]'s"));
    for (key, own) in [("web.listen", web), ("status.listen", status)] {
        let Some((listen, at, _)) = own else { continue };
        let mut others = appliances
            .clone()
            .chain(web.filter(|_| key == "status.listen"));
        if let Some((_, other_at, whose)) = others.find(|(other, ..)| same(*other, listen)) {
            let line = report.line(other_at);
            let message = format!("{listen} is {whose}, in line {line}");
            report.add(at, key, Wrong::because(message));
        }
    }
}

/// Reports `key` of `entry` if an earlier appliance has the same value.
fn taken<T>(
    report: &mut Report<'_>,
    before: &[Entry],
    entry: &Entry,
    key: &str,
    get: impl Fn(&Entry) -> Option<&At<T>>,
    same: impl Fn(&T, &T) -> bool,
) where
    T: std::fmt::Display,
{
    let Some((value, at)) = get(entry) else {
        return;
    };
    let other = before
        .iter()
        .filter_map(&get)
        .find(|(other, _)| same(value, other));
    if let Some((other, other_at)) = other {
        let line = report.line(*other_at);
        let message =
            format!("{value} is taken by the appliance whose {key} is {other} in line {line}");
        report.add(*at, &format!("appliance.{key}"), Wrong::because(message));
    }
}

/// Whether two listeners conflict.
pub(super) fn same(a: SocketAddr, b: SocketAddr) -> bool {
    // A listener on `::` also takes IPv4 connections; one on `0.0.0.0` takes no IPv6.
    let covers =
        |all: IpAddr, one: IpAddr| all.is_unspecified() && (all.is_ipv6() || one.is_ipv4());
    let (one, other) = (a.ip(), b.ip());
    // With port 0, each listener gets a different port.
    a.port() == b.port()
        && a.port() != 0
        && (one == other || covers(one, other) || covers(other, one))
}

/// Warns of a missing image or manifest. It is no error, since the appliance may run another image after an update.
fn files(report: &mut Report<'_>, entry: &Entry, machine: &Machine) {
    if let Some((path, at)) = &entry.image
        && !(machine.has_folder)(path)
    {
        let message = format!(
            "there is no folder {}: `cocoon-image build --variant cpu --out FOLDER` makes one",
            path.display()
        );
        report.warn(*at, "appliance.image", Wrong::because(message));
    }
    if let Some((path, at)) = &entry.manifest
        && !(machine.has_file)(path)
    {
        let message = format!("there is no file {}", path.display());
        report.warn(*at, "appliance.manifest", Wrong::because(message));
    }
}

/// Reports a real TEE with emulation, which no TEE supports.
fn emulated(report: &mut Report<'_>, entry: &Entry) {
    if let Some((TeeMode::Real(tee), at)) = entry.tee
        && entry.accel == Wanted::Emulated
    {
        let message = format!("{tee} needs KVM, and accelerator is \"tcg\"");
        let wrong = Wrong {
            suggestion: Some(format!("\"simulated-{tee}\"")),
            ..Wrong::because(message)
        };
        report.add(at, "appliance.tee", wrong);
    }
}

/// Reports appliances that do not fit into memory: those with `autostart` together, each of the others alone.
fn memory(report: &mut Report<'_>, file: &Located, machine: &Machine) {
    let Some(total) = machine.memory_mib else {
        return;
    };
    let reserve = file.host.memory_reserve_mib;
    let free = total.saturating_sub(reserve.into());
    let mut used = 0;
    for entry in &file.appliances {
        let Some((mib, at)) = entry.memory_mib else {
            continue;
        };
        let before = if entry.autostart { used } else { 0 };
        let after = before + u64::from(mib);
        if entry.autostart {
            used = after;
        }
        if after > free {
            let others = if before > 0 {
                format!(" beside {before} MiB of the appliances above")
            } else {
                String::new()
            };
            let message = format!(
                "{mib} MiB{others} do not fit: the machine has {total} MiB, of which host.memory_reserve keeps {reserve}"
            );
            report.add(at, "appliance.memory", Wrong::because(message));
        }
    }
}

/// Reports appliances with more virtual CPUs than the machine has: their guests would only wait for their own locks.
fn processors(report: &mut Report<'_>, all: &[Entry], machine: &Machine) {
    for entry in all {
        if let Some((vcpus, at)) = entry.vcpus
            && usize::from(vcpus) > machine.processors
        {
            let message = format!(
                "{vcpus} do not fit: the machine has {} processors",
                machine.processors
            );
            report.add(at, "appliance.vcpus", Wrong::because(message));
        }
    }
}
