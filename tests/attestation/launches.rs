//! VMs that the host launched differently than the manifest says: measured by the simulator, and named by the verdict.

use cocoon_measurements::verdict::Verdict;
use cocoon_protocol::binding::Tee;
use cocoon_protocol::config::OperatorConfig;

use crate::machine::{MANIFEST, Machine, Start, accepted, refused};

pub const SNP_LAUNCH: &str = "other image, edited command line, wrong initrd, or another CPU model, vCPU count or set of guest \
     features than the manifest lists: one digest covers them all, so it cannot be told which (the manifest assumes guest \
     features 0x1)";

fn tdx(edit: impl FnOnce(&mut Start)) -> Verdict {
    Machine::started(Tee::Tdx, edit).verdict()
}

fn snp(edit: impl FnOnce(&mut Start)) -> Verdict {
    Machine::started(Tee::SevSnp, edit).verdict()
}

/// Asserts that the machine is refused with exactly one event that differs.
#[track_caller]
fn other_event(verdict: &Verdict, agreeing: &str, title: &str, cause: &str) {
    let [register, event] = verdict.failures().collect::<Vec<_>>()[..] else {
        panic!("{:#?}", verdict.failures().collect::<Vec<_>>())
    };
    assert_eq!((register.id, event.id), ("tdx.rtmr0", "tdx.rtmr0.event"));
    assert_eq!(
        register.cause.as_deref(),
        Some(
            format!("another machine than the manifest's shapes: {agreeing}; the rows below are held against it").as_str()
        )
    );
    assert_eq!(
        (event.title.as_str(), event.cause.as_deref()),
        (title, Some(cause))
    );
    assert_eq!(verdict.authorizes(), None);
}

#[test]
fn other_firmware() {
    // In the last page of code. The descriptor and tables are in the same page, so this is a byte that none of them uses.
    refused(
        &tdx(|start| start.opened.firmware[9000] ^= 1),
        &[(
            "tdx.mrtd",
            "other image: the VM was started with another firmware than the manifest's OVMF.tdx.fd, or on a host whose KVM \
             adds pages in the older order (before 6.16)",
        )],
    );
    refused(
        &snp(|start| start.snp_firmware[9000] ^= 1),
        &[("snp.launch", SNP_LAUNCH)],
    );
}

/// MRTD does not cover the variable store, but RTMR0 does.
#[test]
fn other_variable_store_under_the_same_firmware() {
    other_event(
        &tdx(|start| start.opened.firmware[100] ^= 1),
        "15 of 16 events agree with the nearest shape, simulated, 1024 MiB",
        "RTMR0 event 1: variable store (CFV)",
        "the firmware's variable store was changed: secure-boot keys or settings that the image does not have; this event \
         hashes the firmware file's variable store, byte for byte",
    );
}

#[test]
fn other_amount_of_memory() {
    other_event(
        &tdx(|start| start.opened.memory = 1536 << 20),
        "15 of 16 events agree with the nearest shape, simulated, 8192 MiB",
        "RTMR0 event 0: memory map (TD hand-off block, 8192 MiB)",
        "the VM has another amount of memory than the manifest's shape; this event hashes the RAM ranges that QEMU hands to \
         the firmware",
    );
    // SEV-SNP does not measure the amount of memory, and nothing depends on it.
    accepted(&snp(|start| start.opened.memory = 1536 << 20));
}

#[test]
fn other_kernel() {
    let cause = "another kernel than the manifest's vmlinuz was started, or QEMU before 10.0 (or edk2 before stable202502) \
                 started it with a changed setup header";
    refused(
        &tdx(|start| start.opened.kernel[0x450] ^= 1),
        &[("tdx.rtmr1", cause)],
    );
    refused(
        &snp(|start| start.opened.kernel[0x450] ^= 1),
        &[("snp.launch", SNP_LAUNCH)],
    );
}

#[test]
fn edited_command_line() {
    const OTHER: &str =
        "edited command line: the kernel was started with another one than the manifest's";
    let kept = &MANIFEST.cmdline;
    for (line, words) in [
        (
            "",
            "-console=ttyS0 -quiet -cocoon.model=tiny:04:05:100".to_owned(),
        ),
        (
            "console=ttyS0",
            "-quiet -cocoon.model=tiny:04:05:100".to_owned(),
        ),
        (
            &format!("{kept} "),
            "the words are the manifest's, the space between or behind them is not".to_owned(),
        ),
        (&format!("{kept} init=/bin/sh"), "+init=/bin/sh".to_owned()),
    ] {
        let edit = |start: &mut Start| line.clone_into(&mut start.opened.append);
        let cause = format!("{OTHER}; words missing (-) and added (+): {words}");
        refused(&tdx(edit), &[("tdx.rtmr2", &cause)]);
        refused(&snp(edit), &[("snp.launch", SNP_LAUNCH)]);
    }
    // A command line that cannot be guessed is refused as well, but not shown.
    let unlikely = |start: &mut Start| start.opened.append = "root=/dev/sda7".into();
    let cause =
        format!("{OTHER}; only its digest is measured, so the difference itself cannot be shown");
    refused(&tdx(unlikely), &[("tdx.rtmr2", &cause)]);
}

#[test]
fn other_initrd() {
    let longer = |start: &mut Start| start.opened.initrd.as_mut().unwrap().push(0);
    refused(
        &tdx(longer),
        &[(
            "tdx.rtmr2",
            "wrong initrd: the kernel command line is the manifest's, the initrd is not",
        )],
    );
    refused(&snp(longer), &[("snp.launch", SNP_LAUNCH)]);
    let none = |start: &mut Start| start.opened.initrd = None;
    refused(
        &tdx(none),
        &[(
            "tdx.rtmr2",
            "the kernel did not measure just a command line and an initrd: another kernel, or no initrd",
        )],
    );
    refused(&snp(none), &[("snp.launch", SNP_LAUNCH)]);
}

#[test]
fn other_processors() {
    // The manifest lists no shape with three vCPUs. RTMR0 of the simulated TDX platform does not depend on the number.
    refused(
        &snp(|start| start.opened.vcpus = 3),
        &[("snp.launch", SNP_LAUNCH)],
    );
    refused(
        &snp(|start| start.cpu_model = "EPYC-Rome".into()),
        &[("snp.launch", SNP_LAUNCH)],
    );
}

/// The configuration is the same in launch, evidence and document, but its bytes are not the canonical encoding.
#[test]
fn non_canonical_configuration() {
    let canonical = String::from_utf8(OperatorConfig::default().canonical()).unwrap();
    let text = "operator configuration is not in canonical form: encode it again with this release's tools";
    for other in [
        format!("{canonical} "),
        format!(" {canonical}"),
        canonical.replace(',', ", "),
    ] {
        for tee in [Tee::Tdx, Tee::SevSnp] {
            let vm = Machine::started(tee, |start| start.config = other.clone().into_bytes());
            refused(&vm.verdict(), &[("document.config", text)]);
        }
    }
    let unknown = canonical.replacen('{', "{\"debug\":true,", 1);
    let vm = Machine::started(Tee::Tdx, |start| start.config = unknown.into_bytes());
    let verdict = vm.verdict();
    let failed = verdict.failures().next().unwrap();
    assert_eq!(failed.id, "document.config");
    assert!(
        failed
            .cause
            .as_deref()
            .is_some_and(|cause| cause.starts_with(
                "operator configuration is not JSON of the expected schema: unknown field `debug`"
            )),
        "{failed:?}"
    );
}

/// The launch measured one configuration, and the guest was given another and accepted it.
#[test]
fn configuration_swapped_after_the_launch() {
    let cause = "the launch was given another configuration than the document shows";
    for (tee, id) in [(Tee::Tdx, "tdx.config"), (Tee::SevSnp, "snp.config")] {
        let mut vm = Machine::good(tee);
        vm.config = OperatorConfig {
            name: "other".into(),
            ..OperatorConfig::default()
        }
        .canonical();
        vm.claims.config_digest = cocoon_protocol::config::digest(tee, &vm.config);
        refused(&vm.verdict(), &[(id, cause)]);
    }
}
