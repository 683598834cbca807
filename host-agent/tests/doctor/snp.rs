//! Findings about SEV-SNP, each in each of its bad forms.

use cocoon_host_agent::doctor::facts::{QemuFacts, Silence};
use cocoon_host_agent::doctor::finding::{Mode, Severity};

use crate::captured::{Captured, Case, SNP, check, covered, faults, version};

const CPUINFO: &str = "file /proc/cpuinfo";
const DMESG: &str = "run dmesg";
const STATUS: &str = "snp status";
const CMDLINE: &str = "file /proc/cmdline";
const ENABLED: &str = "AMD-Vi: IOMMU SNP support enabled.";

const CASES: &[Case] = &[
    (
        |m| {
            m.edited(CPUINFO, "cpu family\t: 25", "cpu family\t: 23")
                .edited(CPUINFO, " sev_snp", "")
        },
        "cpu.snp",
        Severity::Failure,
        "AMD EPYC 9354 32-Core Processor (family 23, model 17",
    ),
    (
        |m| m.edited(CPUINFO, " sev_es sev_snp", ""),
        "bios.snp",
        Severity::Failure,
        "the kernel does not list sev_es, sev_snp",
    ),
    (
        |m| {
            m.edited(
                DMESG,
                "SEV-SNP: RMP table physical range",
                "SEV-SNP: Memory for the RMP table has not been reserved by BIOS",
            )
        },
        "bios.snp",
        Severity::Failure,
        "RMP table has not been reserved by BIOS",
    ),
    (
        |m| m.with("file /proc/sys/kernel/osrelease", "6.8.0-40-generic"),
        "kernel.snp",
        Severity::Failure,
        "Linux 6.8.0-40-generic",
    ),
    (
        |m| m.with("file /sys/module/kvm_amd/parameters/sev_snp", "N"),
        "kvm.snp",
        Severity::Failure,
        "kvm_amd was loaded without SNP",
    ),
    (
        |m| m.without("file /sys/module/kvm_amd/parameters/sev_snp"),
        "kvm.snp",
        Severity::Failure,
        "kvm_amd has no parameter sev_snp",
    ),
    (
        |m| m.edited(CMDLINE, "quiet", "quiet iommu=pt"),
        "iommu.snp",
        Severity::Failure,
        "the kernel was started with iommu=pt",
    ),
    (
        |m| m.edited(CMDLINE, "quiet", "quiet amd_iommu=pgtbl_v2"),
        "iommu.snp",
        Severity::Failure,
        "the kernel was started with amd_iommu=pgtbl_v2",
    ),
    (
        |m| {
            m.edited(
                DMESG,
                ENABLED,
                "AMD-Vi: SNP: IOMMU SNP feature not enabled, SNP cannot be supported.",
            )
        },
        "iommu.snp",
        Severity::Failure,
        "IOMMU SNP feature not enabled",
    ),
    (
        |m| m.with("names /sys/kernel/iommu_groups", ""),
        "iommu.snp",
        Severity::Failure,
        "there is no IOMMU",
    ),
    (
        |m| m.without("device /dev/sev"),
        "snp.device",
        Severity::Failure,
        "/dev/sev: entity not found",
    ),
    (
        |m| m.with("device /dev/sev", "denied"),
        "snp.device",
        Severity::Failure,
        "/dev/sev may not be opened by this user",
    ),
    (
        |m| m.with("cpuid 8000001f", "0101fd3f 00004173 000003ee 00000001"),
        "snp.asids",
        Severity::Failure,
        "no ASID is left for SNP guests",
    ),
    (
        |m| m.with("cpuid 80000000", "80000008 0 0 0"),
        "snp.asids",
        Severity::Failure,
        "CPUID names no encryption bit",
    ),
    (
        |m| m.without(DMESG).without(STATUS),
        "snp.firmware",
        Severity::Note,
        "neither the secure processor nor the kernel's log tells its version",
    ),
    (
        |m| m.edited(STATUS, "SNP 27", "SNP 26"),
        "snp.tcb",
        Severity::Failure,
        "below the clients' floor for Genoa: SNP firmware 26 instead of 27",
    ),
    (
        |m| m.without(STATUS),
        "snp.tcb",
        Severity::Note,
        "microcode 86 is at or above the clients' floor for Genoa; the rest is not known: the secure processor does not say: \
         there is no such device",
    ),
    (turin, "snp.tcb", Severity::Failure, "FMC 0 instead of 1"),
    (
        |m| m.without(STATUS).edited(CPUINFO, "0xa101156", "0xa101155"),
        "snp.tcb",
        Severity::Failure,
        "microcode 85 is below the clients' floor of 86 for Genoa",
    ),
    (
        |mut m| {
            m.policy.snp_tcb_floor.genoa.bootloader = 255;
            m
        },
        "snp.tcb",
        Severity::Failure,
        "boot loader 10 instead of 255",
    ),
    (
        |m| m.edited(STATUS, "alias check yes", "alias check no"),
        "snp.platform",
        Severity::Failure,
        "memory has not been searched for aliases",
    ),
    (
        |m| {
            let mut m = m.edited(STATUS, "alias check yes", "alias check no");
            m.policy.accept_missing_alias_check = true;
            m
        },
        "snp.platform",
        Severity::Warning,
        "which this policy accepts",
    ),
    (
        |m| m.without(STATUS),
        "snp.platform",
        Severity::Note,
        "whether memory has been searched for aliases is not known",
    ),
    (
        |m| m.edited(STATUS, "id masked no", "id masked yes"),
        "snp.chip",
        Severity::Failure,
        "reports leave out the chip's identity",
    ),
    (
        |m| m.edited(STATUS, "key masked no", "key masked yes"),
        "snp.chip",
        Severity::Failure,
        "reports are not signed",
    ),
    (
        |m| {
            m.edited(STATUS, "key masked no", "key masked yes").edited(
                STATUS,
                "provider key no",
                "provider key yes",
            )
        },
        "snp.chip",
        Severity::Failure,
        "reports are not signed",
    ),
    (
        |m| m.edited(STATUS, "provider key no", "provider key yes"),
        "snp.chip",
        Severity::Warning,
        "a provider's key (VLEK) signs reports",
    ),
    (
        |m| {
            m.edited(STATUS, "id masked no", "id masked yes").edited(
                STATUS,
                "provider key no",
                "provider key yes",
            )
        },
        "snp.chip",
        Severity::Warning,
        "a provider's key (VLEK) signs reports",
    ),
    (
        |m| m.without(STATUS),
        "snp.chip",
        Severity::Note,
        "whether reports name the chip is not known",
    ),
    (
        |mut m| {
            m.qemu = QemuFacts::Found {
                version: version(11, 1),
                what: "without".into(),
                objects: Some(vec!["tdx-guest".into()]),
            };
            m
        },
        "qemu.snp",
        Severity::Failure,
        "QEMU 11.1.3 was built without sev-snp-guest",
    ),
    (
        |mut m| {
            m.qemu = QemuFacts::Found {
                version: version(11, 1),
                what: "silent".into(),
                objects: None,
            };
            m
        },
        "qemu.snp",
        Severity::Warning,
        "QEMU 11.1.3 does not list its objects",
    ),
];

#[test]
fn each_finding_in_each_bad_form() {
    check(|| Captured::new(SNP), CASES);
}

#[test]
fn every_finding_has_a_bad_form() {
    let mut findings = Captured::new(SNP).findings();
    findings.retain(|finding| finding.modes == [Mode::SevSnp]);
    assert_eq!(faults(&findings, Severity::Note), [] as [&str; 0]);
    covered(&findings, CASES);
}

/// Returns a machine with an EPYC of the next generation, whose TCB has one more component, the FMC.
fn turin(m: Captured) -> Captured {
    let mut m = m
        .edited(CPUINFO, "cpu family\t: 25", "cpu family\t: 26")
        .edited(CPUINFO, "model\t\t: 17", "model\t\t: 2")
        .edited(STATUS, "boot loader", "FMC 0, boot loader");
    m.policy.snp_tcb_floor.turin.fmc = 1;
    m
}

/// A start does not need the status. If KVM has not set up SNP, the request alone would make the kernel do so.
#[test]
fn the_secure_processor_is_asked_only_when_it_helps() {
    let status = |machine: &Captured| machine.facts().snp.status;
    let mut machine = Captured::new(SNP);
    assert!(status(&machine).is_ok());
    machine.wanted.examine = false;
    assert_eq!(status(&machine), Err(Silence::NotAsked));
    let found = machine.finding("snp.chip").found;
    assert!(found.ends_with("only `cocoon-host doctor` asks"), "{found}");

    let off = Captured::new(SNP).with("file /sys/module/kvm_amd/parameters/sev_snp", "N");
    assert_eq!(status(&off), Err(Silence::NotSetUp));
    let found = off.finding("snp.platform").found;
    assert!(
        found.ends_with("asked when KVM starts SNP guests"),
        "{found}"
    );
}

/// If the secure processor does not answer, the kernel's log shows the firmware's version.
#[test]
fn the_firmwares_version_is_told_by_either() {
    let version = |machine: Captured| machine.finding("snp.firmware").found;
    let expected = "interface 1.55 build:40";
    assert_eq!(version(Captured::new(SNP).without(DMESG)), expected);
    assert_eq!(version(Captured::new(SNP).without(STATUS)), expected);
}

#[test]
fn what_the_processor_says_becomes_qemus_options() {
    let snp = Captured::new(SNP).facts().snp;
    assert_eq!((snp.cbitpos, snp.reduced_phys_bits), (51, 5));
    let asids = Captured::new(SNP).finding("snp.asids");
    assert_eq!(
        asids.found,
        "98 SNP guests at once, encryption bit 51, 5 address bit(s) less"
    );
}

/// Processors that a table of model numbers could confuse.
#[test]
fn other_processors_are_told_apart() {
    for (from, to, capable) in [
        ("model\t\t: 17", "model\t\t: 1", true),
        ("model\t\t: 17", "model\t\t: 160", true),
        ("model\t\t: 17", "model\t\t: 97", false),
        ("AMD EPYC 9354", "AMD Ryzen 9", false),
        ("AuthenticAMD", "HygonGenuine", false),
    ] {
        let machine = Captured::new(SNP)
            .edited(CPUINFO, " sev_snp", "")
            .edited(CPUINFO, from, to);
        let prevented = machine.finding("cpu.snp").prevents(Mode::SevSnp);
        assert_eq!(prevented, !capable, "{to}");
    }
}
