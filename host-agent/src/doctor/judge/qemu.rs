//! Findings about KVM, the guest's firmware and QEMU.

use cocoon_qemu::find::{MINIMUM_TDX, Version};

use super::super::facts::{Facts, QemuFacts, Tried};
use super::super::finding::{Finding, Mode};
use super::super::source::Refusal;

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let mut findings = kvm(facts);
    findings.push(Finding::note(
        "firmware",
        &Mode::ALL,
        "the image's own (OVMF.tdx.fd, OVMF.snp.fd): an OVMF of this machine's is not used, whatever its version",
    ));
    match &facts.qemu {
        QemuFacts::Found {
            version,
            what,
            objects,
        } => {
            findings.push(Finding::ok("qemu", &Mode::ALL, what.clone()));
            findings.push(tdx(*version, objects.as_deref()));
            findings.push(snp(*version, objects.as_deref()));
        }
        QemuFacts::Private { reason } => {
            let found = format!("{reason}: a private copy is fetched at the first start");
            findings.push(
                Finding::note(
                    "qemu",
                    &[Mode::SevSnp, Mode::SimulatedKvm, Mode::SimulatedEmulated],
                    found,
                )
                .needed("a mirror of Debian's archive, as apt on this machine is configured for"),
            );
            findings.push(
                Finding::failure("qemu.tdx", &[Mode::Tdx], reason.clone())
                    .needed(format!(
                        "QEMU {MINIMUM_TDX} or later with TDX; the private copy is older"
                    ))
                    .fix("install QEMU from Debian's backports suite, or name one with --qemu"),
            );
        }
        QemuFacts::Unusable { reason } => findings.push(
            Finding::failure("qemu", &Mode::ALL, reason.clone())
                .needed("QEMU 10.0 or later")
                .fix("name another with --qemu, or none: then one is found or fetched"),
        ),
    }
    findings
}

fn tdx(version: Version, objects: Option<&[String]>) -> Finding {
    let (id, modes) = ("qemu.tdx", &[Mode::Tdx]);
    let old = version < MINIMUM_TDX;
    let fix = "install QEMU from Debian's backports suite, or name one with --qemu";
    if old {
        return Finding::failure(id, modes, format!("QEMU {version}"))
            .needed(format!(
                "QEMU {MINIMUM_TDX} or later, which starts trust domains"
            ))
            .fix(fix);
    }
    object(id, modes, version, objects, "tdx-guest", fix)
}

fn snp(version: Version, objects: Option<&[String]>) -> Finding {
    let fix = "install a QEMU that was built with it, or name one with --qemu";
    object(
        "qemu.snp",
        &[Mode::SevSnp],
        version,
        objects,
        "sev-snp-guest",
        fix,
    )
}

fn object(
    id: &'static str,
    modes: &[Mode],
    version: Version,
    objects: Option<&[String]>,
    wanted: &str,
    fix: &str,
) -> Finding {
    let has = |objects: &[String]| objects.iter().any(|object| object == wanted);
    match objects.map(has) {
        Some(true) => Finding::ok(id, modes, format!("QEMU {version} has {wanted}")),
        Some(false) => Finding::failure(
            id,
            modes,
            format!("QEMU {version} was built without {wanted}"),
        )
        .needed(wanted)
        .fix(fix),
        None => Finding::warning(
            id,
            modes,
            format!("QEMU {version} does not list its objects"),
        )
        .needed(wanted)
        .fix(fix),
    }
}

fn kvm(facts: &Facts) -> Vec<Finding> {
    let (id, modes) = ("kvm.device", Mode::HARDWARE);
    let device = match facts.kvm {
        Ok(()) => Finding::ok(id, modes, "/dev/kvm can be used"),
        Err(Refusal::PermissionDenied) => {
            Finding::failure(id, modes, "/dev/kvm may not be opened by this user")
                .needed("access to KVM")
                .fix("usermod -aG kvm USER, and log in again")
        }
        Err(error) => Finding::failure(id, modes, format!("/dev/kvm: {error}"))
            .needed("KVM")
            .fix("enable virtualisation in the BIOS (VT-x, or SVM), then modprobe kvm_intel or kvm_amd"),
    };
    let usable = facts.kvm.is_ok();
    let mut findings = vec![device];
    match &facts.kvm_tried {
        Tried::Yes { works: true, reason } => {
            findings.push(Finding::ok("kvm.works", modes, reason.clone()));
        }
        Tried::Yes { works: false, reason } if usable => findings.push(
            Finding::failure("kvm.works", modes, reason.clone())
                .needed("a KVM that starts the image's kernel")
                .fix("run on the server itself; inside a virtual machine KVM often runs small programs only"),
        ),
        Tried::NoImage if usable => findings.push(
            untried(facts, "not tried: that takes the kernel of an image")
                .fix("name an image with --image"),
        ),
        Tried::NoQemu if usable => findings.push(
            untried(facts, "not tried: this machine has no QEMU yet")
                .fix("install one, or start an appliance: `up` tries KVM by itself"),
        ),
        // The finding about the device says it already.
        Tried::Yes { .. } | Tried::NoImage | Tried::NoQemu => {}
    }
    findings
}

/// Finding for an untried KVM. On a server it works; inside a virtual machine its device alone proves little.
fn untried(facts: &Facts, found: &str) -> Finding {
    let id = "kvm.works";
    if facts.cpu.has("hypervisor") {
        let found = format!("{found}; inside a virtual machine it often runs small programs only");
        Finding::warning(id, Mode::HARDWARE, found).needed("a KVM that starts the image's kernel")
    } else {
        Finding::note(id, Mode::HARDWARE, found)
    }
}
