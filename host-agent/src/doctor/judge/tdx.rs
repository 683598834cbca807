//! Whether this machine can start trust domains and get quotes for them.

use super::super::facts::{Cpu, Facts, Registration, Release, Tdx};
use super::super::finding::{Finding, Mode};
use super::super::source::{Peer, Refusal};

const TDX: &[Mode] = &[Mode::Tdx];
/// First Linux release whose KVM starts trust domains, and adds pages in the order for which MRTD is predicted.
pub(in super::super) const KERNEL: Release = Release(6, 16);
/// Models of family 6 that have TDX in all or most parts: Sapphire and Emerald Rapids, Granite Rapids and its D line,
/// Sierra Forest, Clearwater Forest (`arch/x86/include/asm/intel-family.h`).
const MODELS: [u32; 6] = [0x8f, 0xcf, 0xad, 0xae, 0xaf, 0xdd];
const BIOS: &str = "in the BIOS, Socket Configuration > Processor Configuration > TME, TME-MT, TDX: enable Memory \
                    Encryption (TME), Multi-Tenant (TME-MT), Trust Domain Extension (TDX) and the SEAM Loader, and set \
                    the TME-MT/TDX key split to more than 0";

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let cpu = &facts.cpu;
    let known = cpu.vendor == "GenuineIntel" && cpu.family == 6 && MODELS.contains(&cpu.model);
    if !known && !cpu.has("tdx_host_platform") {
        // Further findings would not help.
        return vec![
            Finding::failure("cpu.tdx", TDX, cpu.shown())
                .needed("a Xeon of the 4th generation (with TDX), the 5th or later")
                .fix("use another machine; this one has no TDX"),
        ];
    }
    let mut findings = vec![
        Finding::ok("cpu.tdx", TDX, cpu.shown()),
        identity(cpu),
        bios(facts),
    ];
    findings.extend(kernel(facts));
    findings.push(module(&facts.tdx));
    findings.extend(quoting(&facts.tdx));
    findings
}

/// The processor's CPUID values that a signer of platform values needs. EDX is only shown for comparison: SMBIOS holds the
/// features that QEMU shows to the guest. TDX fixes some of them to 1 or 0 (QEMU's `target/i386/kvm/tdx.c`), and KVM grants
/// others.
fn identity(cpu: &Cpu) -> Finding {
    let id = "cpu.id";
    let (signature, features) = cpu.leaf_1;
    if signature == 0 {
        return Finding::note(id, TDX, "the processor does not answer CPUID.1");
    }
    let found = format!(
        "CPUID.1: EAX {signature:#010x}, EDX {features:#010x}; `cocoon-image manifest platform` takes this EAX as \
         --cpu-signature; its --cpu-features are the EDX of a trust domain here, which differs from this one \
         (image/README.md says how to read it)"
    );
    Finding::ok(id, TDX, found)
}

fn bios(facts: &Facts) -> Finding {
    let id = "bios.tdx";
    let missing = facts.tdx.registers.and_then(|registers| {
        let wrong = if !registers.memory_encryption {
            "memory encryption (TME) is off"
        } else if registers.private_keys == 0 {
            "trust domains have no keys (TME-MT/TDX key split)"
        } else if !registers.module_range {
            "TDX or its SEAM Loader is off: there is no place for the module"
        } else {
            return None;
        };
        Some(wrong)
    });
    if let Some(wrong) = missing {
        return Finding::failure(id, TDX, wrong)
            .needed("TDX, switched on")
            .fix(BIOS);
    }
    let keys = facts.tdx.registers.map(|registers| registers.private_keys);
    match (
        keys,
        facts.cpu.has("tdx_host_platform"),
        facts.tdx.keys_in_log,
    ) {
        (Some(keys), ..) => Finding::ok(id, TDX, format!("on, {keys} keys for trust domains")),
        (None, true, _) | (None, _, Some(true)) => {
            Finding::ok(id, TDX, "on: the kernel has found keys for trust domains")
        }
        // The flag alone proves nothing: most kernels that know it do not show it.
        (None, false, Some(false)) => {
            Finding::failure(id, TDX, "the kernel has found no keys for trust domains")
                .needed("TDX, switched on")
                .fix(BIOS)
        }
        (None, false, None) if facts.tdx.kvm == Some(true) => {
            Finding::ok(id, TDX, "on: KVM has TDX")
        }
        (None, false, None) => Finding::warning(id, TDX, "cannot be told without root")
            .needed("TDX, switched on")
            .fix("run this command as root, with the msr module loaded (modprobe msr)"),
    }
}

fn kernel(facts: &Facts) -> Vec<Finding> {
    let (kernel, tdx) = (&facts.host.kernel, &facts.tdx);
    let id = "kernel.tdx";
    let mut findings = Vec::new();
    findings.push(match kernel.release {
        Some(release) if release >= KERNEL => Finding::ok(id, TDX, format!("Linux {}", kernel.name)),
        _ => Finding::failure(id, TDX, format!("Linux {}", kernel.name))
            .needed(format!(
                "Linux {KERNEL} or later: earlier ones start no trust domain, or one with another MRTD"
            ))
            .fix("install a newer kernel (Debian: the backports suite) and start it"),
    });
    if tdx.hibernation {
        findings.push(
            Finding::failure("kernel.hibernation", TDX, "the kernel can hibernate")
                .needed("a kernel that cannot: it starts no TDX otherwise")
                .fix(
                    "add nohibernate to the kernel's command line (GRUB_CMDLINE_LINUX) and restart",
                ),
        );
    } else {
        findings.push(Finding::ok(
            "kernel.hibernation",
            TDX,
            "the kernel cannot hibernate",
        ));
    }
    let id = "kvm.tdx";
    findings.push(match tdx.kvm {
        Some(true) => Finding::ok(id, TDX, "KVM starts trust domains"),
        Some(false) => Finding::failure(id, TDX, "kvm_intel was loaded without TDX, or could not start it")
            .needed("/sys/module/kvm_intel/parameters/tdx with the value Y")
            .fix(
                "add kvm_intel.tdx=1 to the kernel's command line and restart; if it stays N, \
                 `dmesg | grep -i tdx` says why",
            ),
        None => Finding::failure(id, TDX, "kvm_intel has no parameter tdx")
            .needed("KVM with TDX (CONFIG_KVM_INTEL_TDX)")
            .fix("modprobe kvm_intel; if that changes nothing, install a kernel that was built with it"),
    });
    findings
}

fn module(tdx: &Tdx) -> Finding {
    let id = "tdx.module";
    let version = (tdx.module.as_ref()).map_or_else(
        || "version not shown by this kernel".to_owned(),
        |version| format!("version {version}"),
    );
    match &tdx.module_log {
        Some(line) if line.contains("not loaded") => Finding::failure(id, TDX, line.clone())
            .needed("the TDX module, loaded by the BIOS")
            .fix("update the BIOS, and enable its SEAM Loader"),
        Some(line) if line.contains("failed") => Finding::failure(id, TDX, line.clone())
            .needed("the TDX module, initialised")
            .fix("follow what the kernel says; a BIOS update brings the current module"),
        _ if tdx.kvm == Some(true) => Finding::ok(id, TDX, format!("initialised, {version}")),
        _ => Finding::note(id, TDX, format!("nothing is known of it; {version}"))
            .needed("a current one: clients judge its version in every quote"),
    }
}

fn quoting(tdx: &Tdx) -> Vec<Finding> {
    let mut findings = vec![service(tdx)];
    if let (Peer::Vsock { .. }, Err(error)) = (&tdx.quotes.at, tdx.vsock) {
        findings.push(
            Finding::failure("vsock", TDX, format!("/dev/vsock: {error}"))
                .needed(
                    "vsock to the host itself, on which the quote generation service is configured",
                )
                .fix("modprobe vsock_loopback, or set port=0 in /etc/qgs.conf for a unix socket"),
        );
    } else {
        findings.push(Finding::ok("vsock", TDX, "there, or not needed"));
    }
    findings.push(if tdx.sgx_missing.is_empty() {
        Finding::ok("tdx.sgx", TDX, "the quoting enclave's devices are there")
    } else {
        Finding::failure("tdx.sgx", TDX, format!("no {}", tdx.sgx_missing.join(", ")))
            .needed("SGX, in which the quoting enclave runs")
            .fix("enable SW Guard Extensions (SGX) in the BIOS, and SGX Auto MP Registration with it")
    });
    findings.push(match &tdx.certificates {
        Some((url, Ok(()))) => Finding::ok("tdx.certificates", TDX, format!("{url} answers")),
        Some((url, Err(error))) => Finding::failure(
            "tdx.certificates",
            TDX,
            format!("{url}: {error}"),
        )
        .needed(
            "a cache of Intel's certificates (PCCS), from which the quoting enclave gets its own",
        )
        .fix("start it (systemctl start pccs), or change pccs_url in /etc/sgx_default_qcnl.conf"),
        None => Finding::note("tdx.certificates", TDX, "not on this machine").needed(
            "Intel's certification service or a cache of it, named in /etc/sgx_default_qcnl.conf",
        ),
    });
    findings.push(match tdx.registration {
        Registration::Complete => Finding::ok("tdx.registration", TDX, "Intel knows this platform"),
        Registration::Unknown => Finding::note("tdx.registration", TDX, "the BIOS does not say")
            .needed("a platform that Intel knows: others get no certificate, and every quote fails (0xe011)"),
        Registration::Pending => Finding::failure("tdx.registration", TDX, "Intel does not know this platform yet")
            .needed("registration, once for the life of the platform")
            .fix(
                "enable SGX Auto MP Registration in the BIOS and install Intel's sgx-ra-service, or send the manifest \
                 of PCKIDRetrievalTool by hand",
            ),
        Registration::Error(code) => {
            Finding::failure("tdx.registration", TDX, format!("failed with error {code:#04x}"))
                .needed("registration, once for the life of the platform")
                .fix("see /var/log/mpa_registration.log; SGX Factory Reset in the BIOS begins it anew")
        }
    });
    findings
}

fn service(tdx: &Tdx) -> Finding {
    let id = "tdx.quotes";
    let at = match &tdx.quotes.at {
        Peer::Unix(path) => path.display().to_string(),
        Peer::Vsock { cid, port } => format!("vsock {cid}:{port}"),
        Peer::Tcp(address) => address.to_string(),
    };
    match tdx.quotes.answers {
        Ok(()) => Finding::ok(
            id,
            TDX,
            format!("the quote generation service answers at {at}"),
        ),
        Err(Refusal::PermissionDenied) => {
            Finding::failure(id, TDX, format!("{at} may not be used by this user"))
                .needed("Intel's quote generation service (qgsd), reachable for QEMU")
                .fix("add this user to the group of the socket (usually qgsd) and log in again")
        }
        Err(error) => Finding::failure(id, TDX, format!("nobody answers at {at}: {error}"))
            .needed("Intel's quote generation service (qgsd), reachable for QEMU")
            .fix("install tdx-qgs of Intel's DCAP and start it: systemctl enable --now qgsd"),
    }
}
