//! `cocoon-host doctor` on machines described as text: one captured, the others composed. Good machines and a laptop are
//! broken in every way that has a finding of its own. The command also runs on the machine that runs the tests.
//!
//! No TEE host has been examined by this program. Except for `cloud-vm.txt`, the machines are composed from the documentation
//! of kernel interfaces, firmware and tools. Each file names its sources.

#[path = "../../../tests/src/absent.rs"]
mod absent;
mod captured;
mod clients;
mod collateral;
mod command;
mod gpu;
#[path = "../common/hardware.rs"]
mod hardware;
mod host;
#[path = "../common/image.rs"]
mod image;
mod preparing;
mod shapes;
mod snp;
mod starting;
mod tdx;
mod unit;

use captured::{CLOUD_VM, Captured, H100_VFIO, LAPTOP, SNP, TDX, faults};
use cocoon_host_agent::doctor::finding::{Mode, Severity};
use cocoon_host_agent::doctor::{Readiness, Report};

/// Returns the modes that a machine is ready for.
fn ready(machine: &Captured) -> Vec<Mode> {
    let findings = machine.findings();
    let modes = Mode::ALL.into_iter();
    modes
        .filter(|mode| Readiness::of(*mode, &findings).ready)
        .collect()
}

#[test]
fn good_machines_are_ready_and_have_nothing_to_complain_of() {
    use Mode::{SevSnp, SimulatedEmulated, SimulatedKvm, Tdx};
    for (text, real, no) in [(TDX, Tdx, "cpu.snp"), (SNP, SevSnp, "cpu.tdx")] {
        let machine = Captured::new(text);
        assert_eq!(ready(&machine), [real, SimulatedKvm, SimulatedEmulated]);
        // The only fault is that the machine lacks the other vendor's TEE.
        assert_eq!(faults(&machine.findings(), Severity::Warning), [no]);
        let machine = machine.and(H100_VFIO).wanting_gpu();
        assert_eq!(ready(&machine), [real, SimulatedKvm, SimulatedEmulated]);
        assert_eq!(faults(&machine.findings(), Severity::Warning), [no]);
    }
}

#[test]
fn a_laptop_simulates_and_says_so() {
    let machine = Captured::new(LAPTOP);
    assert_eq!(
        ready(&machine),
        [Mode::SimulatedKvm, Mode::SimulatedEmulated]
    );
    assert_eq!(
        faults(&machine.findings(), Severity::Failure),
        ["cpu.tdx", "cpu.snp"]
    );
}

/// A real kernel shows what no document does: this machine is itself a guest, on a processor with TDX, without systemd and
/// without half of the files.
#[test]
fn a_captured_machine_is_understood() {
    let machine = Captured::new(CLOUD_VM);
    assert_eq!(
        ready(&machine),
        [Mode::SimulatedKvm, Mode::SimulatedEmulated]
    );
    let machine = machine.findings();
    let of = |severity| {
        let such = machine
            .iter()
            .filter(|finding| finding.severity == severity);
        Vec::from_iter(such.map(|finding| finding.id))
    };
    assert_eq!(
        of(Severity::Failure),
        [
            "machine",
            "bios.tdx",
            "kvm.tdx",
            "tdx.quotes",
            "tdx.sgx",
            "cpu.snp"
        ]
    );
    // Its KVM runs under another hypervisor, so it may not run a whole guest.
    assert_eq!(of(Severity::Warning), ["kvm.works"]);
}

#[test]
fn whatever_is_wrong_has_a_remedy() {
    let empty = Captured::new("=== now\n0");
    let mut findings = empty.findings();
    for text in [TDX, SNP, LAPTOP, CLOUD_VM] {
        findings.extend(Captured::new(text).wanting_gpu().findings());
    }
    for finding in findings {
        assert!(!finding.found.is_empty(), "{finding:?}");
        assert!(!finding.modes.is_empty(), "{finding:?}");
        if finding.severity >= Severity::Warning {
            assert!(!finding.needed.is_empty(), "{finding:?}");
            assert!(!finding.fix.is_empty(), "{finding:?}");
        }
    }
}

#[test]
fn a_report_keeps_to_the_modes_that_were_asked_for() {
    let findings = Captured::new(LAPTOP).findings();
    let report = Report::new(findings.clone(), None, &[Mode::Tdx]);
    assert!(!report.accepted());
    assert_eq!(report.modes.len(), 1);
    assert_eq!(report.modes[0].because, ["cpu.tdx"]);
    assert!(
        report
            .findings
            .iter()
            .all(|finding| finding.modes.contains(&Mode::Tdx))
    );
    let simulated = [Mode::SimulatedKvm, Mode::SimulatedEmulated];
    let report = Report::new(findings, None, &simulated);
    assert!(report.accepted());
    let ids: Vec<_> = report.findings.iter().map(|finding| finding.id).collect();
    assert!(!ids.contains(&"cpu.tdx"), "{ids:?}");
}

#[test]
fn people_read_a_table_with_the_worst_last() {
    let report = Report::new(Captured::new(LAPTOP).findings(), None, &Mode::ALL);
    let text = report.to_string();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "This machine");
    let cpu = lines
        .iter()
        .position(|line| line.contains("FAILURE  cpu.tdx"));
    let at = cpu.expect("the finding");
    assert!(lines[..at].iter().all(|line| !line.contains("FAILURE")));
    assert!(
        lines[at + 1].trim_start().starts_with("needed: a Xeon"),
        "{text}"
    );
    assert!(lines[at + 2].trim_start().starts_with("fix: "), "{text}");
    assert!(lines[at + 3].ends_with("for: real TDX"), "{text}");
    let end = "\
        real TDX                   not ready (cpu.tdx)\n\
        real SEV-SNP               not ready (cpu.snp)\n\
        simulated under KVM        ready\n\
        simulated under emulation  ready\n";
    assert!(text.ends_with(end), "{text}");
}

/// Text from kernels and firmware could contain control sequences that steer a terminal.
#[test]
fn foreign_text_is_made_harmless() {
    let machine = Captured::new(LAPTOP).edited("file /proc/cpuinfo", "i7-1165G7", "i7\u{1b}[2J");
    let report = Report::new(machine.findings(), None, &Mode::ALL);
    assert!(!report.to_string().contains('\u{1b}'));
}
