//! Findings about TDX, each in each of its bad forms.

use cocoon_host_agent::doctor::facts::QemuFacts;
use cocoon_host_agent::doctor::finding::{Mode, Severity};

use crate::captured::{Captured, Case, TDX, check, covered, faults, version};

const DMESG: &str = "run dmesg";

fn no_root(machine: Captured) -> Captured {
    let machine = machine.without("msr 982").without("msr 1401");
    machine.without("msr 87").without(DMESG)
}

const CASES: &[Case] = &[
    (
        |m| m.edited("file /proc/cpuinfo", "model\t\t: 207", "model\t\t: 106"),
        "cpu.tdx",
        Severity::Failure,
        "(family 6, model 106, stepping 2)",
    ),
    (
        |m| m.without("cpuid 00000001"),
        "cpu.id",
        Severity::Note,
        "the processor does not answer CPUID.1",
    ),
    (
        |m| m,
        "cpu.id",
        Severity::Ok,
        "CPUID.1: EAX 0x000c06f2, EDX 0xbfebfbff; `cocoon-image manifest platform` takes this EAX as --cpu-signature",
    ),
    (
        |m| m.edited("file /proc/cpuinfo", " lm ", " lm hypervisor "),
        "machine",
        Severity::Failure,
        "this is itself a virtual machine",
    ),
    (
        |m| m.with("msr 982", "0000000000000000"),
        "bios.tdx",
        Severity::Failure,
        "memory encryption (TME) is off",
    ),
    (
        |m| m.with("msr 87", "0000000000000040"),
        "bios.tdx",
        Severity::Failure,
        "trust domains have no keys",
    ),
    (
        |m| m.with("msr 1401", "0000000000000400"),
        "bios.tdx",
        Severity::Failure,
        "TDX or its SEAM Loader is off",
    ),
    (
        |m| {
            m.without("msr 1401")
                .edited(DMESG, "private KeyID", "KeyID")
        },
        "bios.tdx",
        Severity::Failure,
        "the kernel has found no keys",
    ),
    (
        |m| no_root(m).without("file /sys/module/kvm_intel/parameters/tdx"),
        "bios.tdx",
        Severity::Warning,
        "cannot be told without root",
    ),
    (no_root, "bios.tdx", Severity::Ok, "on: KVM has TDX"),
    (
        |m| m.with("file /proc/sys/kernel/osrelease", "6.12.107+deb13-amd64"),
        "kernel.tdx",
        Severity::Failure,
        "Linux 6.12.107+deb13-amd64",
    ),
    (
        |m| m.without("file /proc/sys/kernel/osrelease"),
        "kernel.tdx",
        Severity::Failure,
        "Linux ",
    ),
    (
        |m| m.with("file /sys/power/disk", "[platform] shutdown reboot"),
        "kernel.hibernation",
        Severity::Failure,
        "the kernel can hibernate",
    ),
    (
        |m| m.with("file /sys/module/kvm_intel/parameters/tdx", "N"),
        "kvm.tdx",
        Severity::Failure,
        "kvm_intel was loaded without TDX",
    ),
    (
        |m| m.without("file /sys/module/kvm_intel/parameters/tdx"),
        "kvm.tdx",
        Severity::Failure,
        "kvm_intel has no parameter tdx",
    ),
    (
        |m| {
            m.edited(
                DMESG,
                "virt/tdx: module initialized",
                "virt/tdx: module not loaded",
            )
        },
        "tdx.module",
        Severity::Failure,
        "virt/tdx: module not loaded",
    ),
    (
        |m| {
            let failed = "virt/tdx: initialization failed: Hibernation support is enabled";
            m.edited(DMESG, "virt/tdx: module initialized", failed)
        },
        "tdx.module",
        Severity::Failure,
        "virt/tdx: initialization failed: Hibernation support is enabled",
    ),
    (
        |m| {
            m.without(DMESG)
                .with("file /sys/module/kvm_intel/parameters/tdx", "N")
        },
        "tdx.module",
        Severity::Note,
        "nothing is known of it; version 1.5.16",
    ),
    (
        |m| m.without("file /sys/devices/faux/tdx_host/version"),
        "tdx.module",
        Severity::Ok,
        "initialised, version not shown by this kernel",
    ),
    (
        |m| m.without("peer /var/run/tdx-qgs/qgs.socket"),
        "tdx.quotes",
        Severity::Failure,
        "nobody answers at /var/run/tdx-qgs/qgs.socket: entity not found",
    ),
    (
        |m| m.with("peer /var/run/tdx-qgs/qgs.socket", "denied"),
        "tdx.quotes",
        Severity::Failure,
        "/var/run/tdx-qgs/qgs.socket may not be used by this user",
    ),
    (
        |m| m.with("file /etc/qgs.conf", "port = 4050"),
        "tdx.quotes",
        Severity::Failure,
        "nobody answers at vsock 2:4050",
    ),
    (
        |m| {
            m.with("file /etc/qgs.conf", "port = 4050")
                .without("device /dev/vsock")
        },
        "vsock",
        Severity::Failure,
        "/dev/vsock: entity not found",
    ),
    (
        |m| m.without("device /dev/sgx_provision"),
        "tdx.sgx",
        Severity::Failure,
        "no /dev/sgx_provision",
    ),
    (
        |m| m.with("peer 127.0.0.1:8081", "refused"),
        "tdx.certificates",
        Severity::Failure,
        "https://localhost:8081/sgx/certification/v4/: connection refused",
    ),
    (
        |m| {
            m.edited(
                "file /etc/sgx_default_qcnl.conf",
                "localhost:8081",
                "pccs.example",
            )
        },
        "tdx.certificates",
        Severity::Note,
        "not on this machine",
    ),
    (
        |m| m.with(REGISTRATION, "06000000 0100 0300 0200 00"),
        "tdx.registration",
        Severity::Failure,
        "Intel does not know this platform yet",
    ),
    (
        |m| m.with(REGISTRATION, "06000000 0100 0300 0200 85"),
        "tdx.registration",
        Severity::Failure,
        "failed with error 0x85",
    ),
    (
        |m| m.without(REGISTRATION),
        "tdx.registration",
        Severity::Note,
        "the BIOS does not say",
    ),
    (
        |mut m| {
            m.qemu = QemuFacts::Found {
                version: version(10, 0),
                what: "old".into(),
                objects: None,
            };
            m
        },
        "qemu.tdx",
        Severity::Failure,
        "QEMU 10.0.3",
    ),
    (
        |mut m| {
            m.qemu = QemuFacts::Found {
                version: version(11, 1),
                what: "without".into(),
                objects: Some(vec!["sev-snp-guest".into()]),
            };
            m
        },
        "qemu.tdx",
        Severity::Failure,
        "QEMU 11.1.3 was built without tdx-guest",
    ),
    (
        |mut m| {
            m.qemu = QemuFacts::Private {
                reason: "this machine has no qemu-system-x86_64".into(),
            };
            m
        },
        "qemu.tdx",
        Severity::Failure,
        "this machine has no qemu-system-x86_64",
    ),
];

const REGISTRATION: &str =
    "hex /sys/firmware/efi/efivars/SgxRegistrationStatus-f236c5dc-a491-4bbe-bcdd-88885770df45";

#[test]
fn each_finding_in_each_bad_form() {
    check(|| Captured::new(TDX), CASES);
}

#[test]
fn every_finding_has_a_bad_form() {
    let mut findings = Captured::new(TDX).findings();
    findings.retain(|finding| finding.modes == [Mode::Tdx]);
    assert_eq!(faults(&findings, Severity::Note), [] as [&str; 0]);
    covered(&findings, CASES);
}
