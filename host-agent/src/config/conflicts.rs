//! What each appliance may have by itself, and what they may not have together, or not on this machine.

use std::net::{IpAddr, SocketAddr};

use cocoon_qemu::accel::Wanted;

use super::TeeMode;
use super::machine::Machine;
use super::reader::{Report, Wrong};
use super::schema::{At, Entry, Located};

mod devices;

/// Reports every conflict at the later of the two places, naming the line of the earlier.
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
                // Folders of some file systems do not tell them apart.
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

/// What is shown, to anybody or to the operator, has addresses of its own.
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

/// `key` of `entry`, which another appliance has already.
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

/// Whether two listeners stand in each other's way.
pub(super) fn same(a: SocketAddr, b: SocketAddr) -> bool {
    // The wildcard of IPv6 takes IPv4 too, and not the other way round.
    let covers =
        |all: IpAddr, one: IpAddr| all.is_unspecified() && (all.is_ipv6() || one.is_ipv4());
    let (one, other) = (a.ip(), b.ip());
    // Port 0 is a different one each time.
    a.port() == b.port()
        && a.port() != 0
        && (one == other || covers(one, other) || covers(other, one))
}

/// What an appliance starts from is its own affair: after an update it may start from something else.
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

/// Real hardware runs no trust domain under emulation.
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

/// What starts by itself must fit beside what the machine keeps; each that is started by hand must fit alone.
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

/// More virtual processors than real ones only make a guest wait for its own locks.
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
