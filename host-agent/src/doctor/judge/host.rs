//! What every mode needs: processor, memory, limits, clock, port and disk.

use std::net::SocketAddr;

use super::super::facts::{Facts, Wanted};
use super::super::finding::{Finding, Mode};
use super::super::source::Refusal;

/// Features of x86-64-v3, for which the engine is built, by the kernel's names; `abm` stands for LZCNT.
const V3: [&str; 8] = ["avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe"];
/// Memory for QEMU itself and the guest's page tables, in MiB.
const OVERHEAD_MIB: u64 = 512;
/// Disk space for a private QEMU, an image and its model, in MiB.
const CACHE_MIB: u64 = 1024;
/// Open files: two for each connection of the public listener, and those of QEMU.
const FILES: u64 = 8448;
/// 1 January 2026: an earlier clock is wrong, because this program is younger.
const NOT_BEFORE: u64 = 1_767_225_600;

pub(super) fn processor(facts: &Facts) -> Vec<Finding> {
    let cpu = &facts.cpu;
    let mut findings = Vec::new();
    if cpu.has("hypervisor") {
        findings.push(
            Finding::failure("machine", Mode::REAL, "this is itself a virtual machine")
                .needed("a physical server: no TEE can be started inside a virtual machine")
                .fix("run cocoon-host on the server itself"),
        );
    } else {
        findings.push(Finding::ok("machine", Mode::REAL, "a physical machine"));
    }
    let missing: Vec<&str> = V3.into_iter().filter(|flag| !cpu.has(flag)).collect();
    findings.push(if missing.is_empty() {
        Finding::ok(
            "cpu.v3",
            Mode::HARDWARE,
            "has the instructions of x86-64-v3",
        )
    } else {
        Finding::failure(
            "cpu.v3",
            Mode::HARDWARE,
            format!("{} lacks {}", cpu.shown(), missing.join(", ")),
        )
        .needed("the instructions of x86-64-v3, for which the image's engine is built")
        .fix(
            "use a processor of 2015 or later (AMD: 2017); emulation has these instructions on any",
        )
    });
    findings
}

pub(super) fn resources(facts: &Facts, wanted: &Wanted) -> Vec<Finding> {
    let host = &facts.host;
    let findings = [
        Some(memory(host.available_kib, wanted.memory_mib)),
        Some(huge_pages(host.huge_pages)),
        Some(files(host.open_files)),
        Some(time(host.clock)),
        wanted.listen.map(|address| port(host.port, address)),
        Some(disk(host.cache_bytes)),
    ];
    findings.into_iter().flatten().collect()
}

fn memory(available_kib: Option<u64>, wanted_mib: u32) -> Finding {
    let id = "memory";
    let Some(available) = available_kib.map(|kib| kib / 1024) else {
        return Finding::warning(id, &Mode::ALL, "the kernel does not say how much is free")
            .needed(format!(
                "{wanted_mib} MiB for the guest, and {OVERHEAD_MIB} around it"
            ))
            .fix("mount procfs on /proc");
    };
    let found = format!("{available} MiB available");
    let needed = u64::from(wanted_mib) + OVERHEAD_MIB;
    if available >= needed {
        return Finding::ok(id, &Mode::ALL, found);
    }
    Finding::failure(id, &Mode::ALL, found)
        .needed(format!(
            "{needed} MiB: {wanted_mib} for the guest, which a TEE pins, and {OVERHEAD_MIB} around it"
        ))
        .fix("stop other programs or VMs, give back reserved huge pages that no appliance's placement.hugepages takes, or ask for less with --memory")
}

fn huge_pages((free, kib): (u64, u64)) -> Finding {
    let id = "memory.huge-pages";
    if free == 0 {
        return Finding::ok(id, &Mode::ALL, "none reserved and free");
    }
    let mib = free.saturating_mul(kib) / 1024;
    Finding::note(
        id,
        &Mode::ALL,
        format!("{free} reserved and free ({mib} MiB)"),
    )
    .needed(
        "as many as appliances with placement.hugepages take: for everybody else their memory is lost",
    )
    .fix("nothing, if they are for those appliances (`cocoon-host config check` counts them); else sysctl vm.nr_hugepages=0")
}

fn files(limit: Option<u64>) -> Finding {
    let id = "limits.files";
    match limit {
        None => Finding::note(
            id,
            &Mode::ALL,
            "the kernel does not say how many files may be open",
        ),
        Some(u64::MAX) => Finding::ok(id, &Mode::ALL, "no limit"),
        Some(limit) if limit >= FILES => Finding::ok(id, &Mode::ALL, format!("{limit} open files")),
        Some(limit) => Finding::warning(id, &Mode::ALL, format!("{limit} open files"))
            .needed(format!("{FILES}: each client's connection takes two"))
            .fix(format!(
                "ulimit -n {FILES}, or LimitNOFILE={FILES} in the unit"
            )),
    }
}

fn time(clock: super::super::facts::Clock) -> Finding {
    let id = "clock";
    if clock.now < NOT_BEFORE {
        return Finding::failure(
            id,
            Mode::REAL,
            "the clock stands before this program was written",
        )
        .needed("the right time: collateral and manifests have dates")
        .fix("timedatectl set-ntp true, or set the clock by hand");
    }
    match clock.synchronised {
        Some(true) => Finding::ok(id, Mode::REAL, "kept by a time service"),
        Some(false) => Finding::warning(id, Mode::REAL, "not kept by a time service")
            .needed("the right time: collateral and manifests have dates")
            .fix("timedatectl set-ntp true"),
        None => Finding::note(
            id,
            Mode::REAL,
            "nobody says whether a time service keeps it",
        )
        .fix("compare it with another clock: collateral and manifests have dates"),
    }
}

fn port(free: Result<(), Refusal>, address: SocketAddr) -> Finding {
    let id = "port";
    match free {
        Ok(()) => Finding::ok(id, &Mode::ALL, format!("{address} is free")),
        Err(Refusal::AddrInUse) => {
            Finding::failure(id, &Mode::ALL, format!("{address} is taken"))
                .needed("a public address for clients")
                .fix("stop what listens there (`cocoon-host ps` shows VMs), or choose another with --listen")
        }
        Err(Refusal::PermissionDenied) => {
            Finding::failure(id, &Mode::ALL, format!("{address} may not be used by this user"))
                .needed("a public address for clients")
                .fix("choose a port from 1024 on with --listen, or start as a service with CAP_NET_BIND_SERVICE")
        }
        Err(other) => Finding::failure(id, &Mode::ALL, format!("{address}: {other}"))
            .needed("a public address for clients")
            .fix("choose an address of this machine with --listen"),
    }
}

fn disk(free: Option<u64>) -> Finding {
    let id = "disk.cache";
    let Some(mib) = free.map(|bytes| bytes >> 20) else {
        return Finding::warning(
            id,
            &Mode::ALL,
            "there is no cache folder, or its disk is silent",
        )
        .needed("a place for packages and a private QEMU")
        .fix("set COCOON_CACHE or HOME");
    };
    let found = format!("{mib} MiB free");
    if mib >= CACHE_MIB {
        return Finding::ok(id, &Mode::ALL, found);
    }
    Finding::warning(id, &Mode::ALL, found)
        .needed(format!(
            "{CACHE_MIB} MiB where a QEMU or an image is still to be made"
        ))
        .fix("cocoon-image cache gc, or set COCOON_CACHE to a folder on another disk")
}
