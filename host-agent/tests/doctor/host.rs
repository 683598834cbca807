//! Findings that concern every mode, each in each of its bad forms.

use cocoon_host_agent::doctor::facts::{QemuFacts, Tried};
use cocoon_host_agent::doctor::finding::{Mode, Severity};
use cocoon_host_agent::doctor::source::Refusal;

use crate::captured::{Captured, Case, LAPTOP, check, covered};

const LIMITS: &str = "file /proc/self/limits";
const MEMORY: &str = "file /proc/meminfo";

fn tried(mut machine: Captured, works: bool) -> Captured {
    machine.tried = Tried::Yes {
        works,
        reason: "as it was found".into(),
    };
    machine
}

fn taken(mut machine: Captured, why: Refusal) -> Captured {
    machine.taken = Err(why);
    machine
}

const CASES: &[Case] = &[
    (
        |m| {
            m.edited("file /proc/cpuinfo", " avx2 ", " ")
                .edited("file /proc/cpuinfo", " abm ", " ")
        },
        "cpu.v3",
        Severity::Failure,
        "lacks avx2, abm",
    ),
    (
        |m| m.edited(MEMORY, "9123456", "4718591"),
        "memory",
        Severity::Failure,
        "4607 MiB available",
    ),
    (
        |m| m.edited(MEMORY, "9123456", "4718592"),
        "memory",
        Severity::Ok,
        "4608 MiB available",
    ),
    (
        |m| m.without(MEMORY),
        "memory",
        Severity::Warning,
        "the kernel does not say how much is free",
    ),
    (
        |m| {
            m.edited(
                MEMORY,
                "HugePages_Free:        0",
                "HugePages_Free:        512",
            )
        },
        "memory.huge-pages",
        Severity::Note,
        "512 reserved and free (1024 MiB)",
    ),
    (
        |m| m.edited(LIMITS, "1048576  ", "256  "),
        "limits.files",
        Severity::Warning,
        "256 open files",
    ),
    (
        |m| m.without(LIMITS),
        "limits.files",
        Severity::Note,
        "the kernel does not say",
    ),
    (
        |m| m.with("now", "3600"),
        "clock",
        Severity::Failure,
        "the clock stands before this program was written",
    ),
    (
        |m| m.with(SYNCHRONISED, "no"),
        "clock",
        Severity::Warning,
        "not kept by a time service",
    ),
    (
        |m| m.without(SYNCHRONISED),
        "clock",
        Severity::Note,
        "nobody says whether a time service keeps it",
    ),
    (
        |m| taken(m, Refusal::AddrInUse),
        "port",
        Severity::Failure,
        "127.0.0.1:8443 is taken",
    ),
    (
        |m| taken(m, Refusal::PermissionDenied),
        "port",
        Severity::Failure,
        "127.0.0.1:8443 may not be used by this user",
    ),
    (
        |m| taken(m, Refusal::AddrNotAvailable),
        "port",
        Severity::Failure,
        "127.0.0.1:8443: address not available",
    ),
    (
        |m| m.with("free", "1073741823"),
        "disk.cache",
        Severity::Warning,
        "1023 MiB free",
    ),
    (
        |m| m.without("free"),
        "disk.cache",
        Severity::Warning,
        "there is no cache folder",
    ),
    (
        |m| m.with("device /dev/kvm", "denied"),
        "kvm.device",
        Severity::Failure,
        "/dev/kvm may not be opened by this user",
    ),
    (
        |m| m.without("device /dev/kvm"),
        "kvm.device",
        Severity::Failure,
        "/dev/kvm: entity not found",
    ),
    (
        |m| tried(m, false),
        "kvm.works",
        Severity::Failure,
        "as it was found",
    ),
    (
        |m| tried(m, true),
        "kvm.works",
        Severity::Ok,
        "as it was found",
    ),
    (
        |m| m,
        "kvm.works",
        Severity::Note,
        "not tried: that takes the kernel of an image",
    ),
    (
        |mut m| {
            m.tried = Tried::NoQemu;
            m
        },
        "kvm.works",
        Severity::Note,
        "not tried: this machine has no QEMU yet",
    ),
    (
        |m| m.edited("file /proc/cpuinfo", " lm ", " lm hypervisor "),
        "kvm.works",
        Severity::Warning,
        "inside a virtual machine it often runs small programs only",
    ),
    (
        |mut m| {
            m.qemu = QemuFacts::Private {
                reason: "the system's QEMU 7.2.19 is older than 10.0.0".into(),
            };
            m
        },
        "qemu",
        Severity::Note,
        "the system's QEMU 7.2.19 is older than 10.0.0: a private copy is fetched at the first start",
    ),
    (
        |m| m,
        "firmware",
        Severity::Note,
        "an OVMF of this machine's is not used",
    ),
    (
        |mut m| {
            m.qemu = QemuFacts::Unusable {
                reason: "/nowhere does not run".into(),
            };
            m
        },
        "qemu",
        Severity::Failure,
        "/nowhere does not run",
    ),
];

const SYNCHRONISED: &str = "run timedatectl show --property=NTPSynchronized --value";

#[test]
fn each_finding_in_each_bad_form() {
    check(|| Captured::new(LAPTOP), CASES);
}

#[test]
fn every_finding_has_a_bad_form() {
    let mut findings = Captured::new(LAPTOP).findings();
    findings.retain(|finding| finding.modes.len() > 2);
    covered(&findings, CASES);
}

/// Emulation needs neither KVM nor a modern processor.
#[test]
fn emulation_is_what_remains() {
    let machine = Captured::new(LAPTOP).without("device /dev/kvm").edited(
        "file /proc/cpuinfo",
        " avx2 ",
        " ",
    );
    let prevented = |mode| {
        machine
            .findings()
            .iter()
            .any(|finding| finding.prevents(mode))
    };
    assert!(prevented(Mode::SimulatedKvm));
    assert!(!prevented(Mode::SimulatedEmulated));
    // Without `/dev/kvm`, there is no second finding that KVM does not work.
    let findings = tried(machine, false).findings();
    assert!(findings.iter().all(|finding| finding.id != "kvm.works"));
}
