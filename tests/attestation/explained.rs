//! A verifier that has the image's files explains refusals: it names exactly what was launched instead. An explanation
//! never changes an outcome.

use cocoon_measurements::appraise::explain::{Artefacts, explain};
use cocoon_measurements::snp::firmware::SnpFirmware;
use cocoon_measurements::snp::launch::{Vcpus, launch_digest};
use cocoon_measurements::tdx::mrtd::{PageOrder, mrtd};
use cocoon_measurements::tdx::tdvf::Tdvf;
use cocoon_measurements::verdict::{Class, Verdict};
use cocoon_protocol::binding::Tee;
use cocoon_simulator::launch::Launched;

use crate::machine::{IMAGE, MANIFEST, Machine, Start};

fn files() -> Artefacts<'static> {
    Artefacts {
        tdx_firmware: Some(&IMAGE.tdx_firmware),
        snp_firmware: Some(&IMAGE.snp_firmware),
    }
}

/// Returns the cause of the row `id` after the explanation. Asserts that ids, outcomes and the refusal stay the same.
#[track_caller]
fn explained(mut verdict: Verdict, artefacts: &Artefacts<'_>, id: &str) -> String {
    let rows = |verdict: &Verdict| -> Vec<_> {
        let rows = verdict.checks.iter();
        rows.map(|check| (check.id, check.outcome)).collect()
    };
    let before = rows(&verdict);
    explain(&mut verdict, &MANIFEST, artefacts);
    assert_eq!(rows(&verdict), before);
    assert_eq!(
        (verdict.class, verdict.authorizes()),
        (Class::Rejected, None)
    );
    let row = verdict.failures().find(|check| check.id == id).unwrap();
    assert!(row.advice.as_deref().is_some_and(|text| !text.is_empty()));
    row.cause.clone().unwrap()
}

fn snp(edit: impl FnOnce(&mut Start)) -> String {
    let verdict = Machine::started(Tee::SevSnp, edit).verdict();
    explained(verdict, &files(), "snp.launch")
}

const OTHER_VCPUS: &str = "the manifest's image on processors that the manifest does not list:";

#[test]
fn launch_digests() {
    assert_eq!(
        snp(|start| start.opened.vcpus = 3),
        format!("{OTHER_VCPUS} 3 vCPUs of EPYC-v4, guest features 0x1")
    );
    let rome = snp(|start| start.cpu_model = "EPYC-Rome".into());
    assert!(
        rome.starts_with(&format!("{OTHER_VCPUS} 2 vCPUs of EPYC-Rome")),
        "{rome}"
    );
    assert_eq!(
        snp(|start| start.opened.initrd = None),
        "the manifest's firmware, kernel and command line without the initrd (with 2 vCPUs of EPYC-v4, guest features 0x1)"
    );
    assert_eq!(
        snp(|start| start.opened.append = "console=ttyS0 cocoon.model=tiny:04:05:100".into()),
        "edited command line: the manifest's files were started with another one; words missing (-) and added (+): -quiet \
         (with 2 vCPUs of EPYC-v4, guest features 0x1)"
    );
    let unexplained = snp(|start| start.opened.kernel[0x450] ^= 1);
    assert!(
        unexplained.starts_with("other image, edited command line, wrong initrd"),
        "{unexplained}"
    );
}

#[test]
fn launch_digests_of_other_settings() {
    let firmware = SnpFirmware::parse(&IMAGE.snp_firmware).unwrap();
    let measuring = |digest| {
        let mut vm = Machine::good(Tee::SevSnp);
        let Launched::Snp { report, .. } = &mut vm.vm else {
            panic!("an SNP guest was launched")
        };
        report.measurement = digest;
        explained(vm.verdict(), &files(), "snp.launch")
    };
    let vcpus = |guest_features| Vcpus {
        count: 2,
        model: "EPYC-v4".parse().unwrap(),
        guest_features,
    };
    assert_eq!(
        measuring(launch_digest(&firmware, None, &vcpus(1)).unwrap()),
        "the firmware was not told the kernel's hashes (kernel-hashes=on is missing), so it would start any kernel (with 2 \
         vCPUs of EPYC-v4, guest features 0x1)"
    );
    let hashes = cocoon_measurements::snp::launch::KernelHashes::of(
        &IMAGE.kernel,
        Some(&IMAGE.initrd),
        &IMAGE.cmdline,
    );
    assert_eq!(
        measuring(launch_digest(&firmware, Some(&hashes), &vcpus(0x21)).unwrap()),
        "the manifest's image on processors that the manifest lists, but with other guest features (SEV_FEATURES) than it \
         assumes: 0x21 instead of 0x1 (with 2 vCPUs of EPYC-v4, guest features 0x21)"
    );
    let unlisted = Vcpus {
        count: 3,
        ..vcpus(0x21)
    };
    assert_eq!(
        measuring(launch_digest(&firmware, Some(&hashes), &unlisted).unwrap()),
        format!("{OTHER_VCPUS} 3 vCPUs of EPYC-v4, guest features 0x21")
    );
}

#[test]
fn firmware_and_memory() {
    let firmware = Tdvf::parse(&IMAGE.tdx_firmware).unwrap();
    let mut vm = Machine::good(Tee::Tdx);
    vm.td().mr_td = mrtd(&firmware, PageOrder::TwoPass);
    assert_eq!(
        explained(vm.verdict(), &files(), "tdx.mrtd"),
        "the manifest's own firmware, on a host whose KVM adds pages in the older order (Linux before 6.16, or QEMU 8.2 of \
         Ubuntu 24.04)"
    );
    let memory = Machine::started(Tee::Tdx, |start| start.opened.memory = 1536 << 20);
    assert_eq!(
        explained(memory.verdict(), &files(), "tdx.rtmr0.event"),
        "the VM has another amount of memory than the manifest's shape: 1536 MiB"
    );
}

/// Files whose digests are not the manifest's are not used for explanations.
#[test]
fn strange_files_are_not_looked_at() {
    let mut other = IMAGE.snp_firmware.clone();
    other[9000] ^= 1;
    let artefacts = Artefacts {
        snp_firmware: Some(&other),
        ..Artefacts::default()
    };
    for artefacts in [artefacts, Artefacts::default()] {
        let vm = Machine::started(Tee::SevSnp, |start| start.opened.vcpus = 3);
        let cause = explained(vm.verdict(), &artefacts, "snp.launch");
        assert!(
            cause.starts_with("other image, edited command line"),
            "{cause}"
        );
    }
}
