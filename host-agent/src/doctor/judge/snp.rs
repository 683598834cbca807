//! Whether this machine can start SEV-SNP guests, and whether its patch levels meet the clients' floor.

use cocoon_measurements::policy::{Policy, SnpPart};
use cocoon_measurements::snp::report::Product;

use super::super::facts::{Cpu, Facts, Release, Silence, Snp};
use super::super::finding::{Finding, Mode};
use super::super::source::Refusal;

const SNP: &[Mode] = &[Mode::SevSnp];
/// First Linux release whose KVM starts SNP guests.
const KERNEL: Release = Release(6, 11);
const BIOS: &str = "in the BIOS, AMD CBS > CPU Common Options: enable SMEE and SEV Control, set the SEV-ES ASID Space \
                    Limit to 100 and SNP Memory (RMP Table) Coverage to Enabled; NBIO Common Options: enable IOMMU \
                    and SEV-SNP Support";
const ALIASES: &str = "update the BIOS and with it the SEV firmware (AMD-SB-3015; Milan needs 1.55.22, Genoa 1.55.38) and restart; if \
                       it stays so with these, the BIOS does not search, or a memory module answers at two addresses";

/// Whether this is an EPYC of Zen 3 to Zen 5 whose reports clients can parse.
fn capable(cpu: &Cpu) -> bool {
    let (family, model) = (u8::try_from(cpu.family), u8::try_from(cpu.model));
    let known = matches!((family, model), (Ok(family), Ok(model)) if Product::of_cpu(family, model).is_some());
    cpu.vendor == "AuthenticAMD" && known && cpu.name.contains("EPYC")
}

pub(super) fn findings(facts: &Facts, policy: &Policy) -> Vec<Finding> {
    let cpu = &facts.cpu;
    if !capable(cpu) && !cpu.has("sev_snp") {
        // Further findings would not help.
        return vec![
            Finding::failure("cpu.snp", SNP, cpu.shown())
                .needed("an EPYC 7003, 8004, 9004, 9005 or later")
                .fix("use another machine; this one has no SEV-SNP"),
        ];
    }
    let mut findings = vec![Finding::ok("cpu.snp", SNP, cpu.shown()), bios(facts)];
    findings.extend(kernel(facts));
    findings.push(device(&facts.snp));
    findings.push(numbers(&facts.snp));
    findings.push(firmware(&facts.snp));
    findings.push(patches(cpu, &facts.snp, policy));
    findings.push(aliases(&facts.snp, policy));
    findings.push(masks(&facts.snp));
    findings
}

fn bios(facts: &Facts) -> Finding {
    let id = "bios.snp";
    if let Some(line) = &facts.snp.refused {
        // A message about the IOMMU has a finding of its own, with another remedy.
        if !line.contains("IOMMU") {
            return Finding::failure(id, SNP, line.clone())
                .needed("SEV-SNP, switched on")
                .fix(BIOS);
        }
    }
    let missing: Vec<&str> = ["sev", "sev_es", "sev_snp"]
        .into_iter()
        .filter(|flag| !facts.cpu.has(flag))
        .collect();
    if missing.is_empty() {
        return Finding::ok(id, SNP, "on: the kernel lists sev, sev_es and sev_snp");
    }
    Finding::failure(
        id,
        SNP,
        format!("the kernel does not list {}", missing.join(", ")),
    )
    .needed("SEV-SNP, switched on")
    .fix(BIOS)
}

fn kernel(facts: &Facts) -> Vec<Finding> {
    let kernel = &facts.host.kernel;
    let id = "kernel.snp";
    let mut findings = Vec::new();
    findings.push(match kernel.release {
        Some(release) if release >= KERNEL => {
            Finding::ok(id, SNP, format!("Linux {}", kernel.name))
        }
        _ => Finding::failure(id, SNP, format!("Linux {}", kernel.name))
            .needed(format!(
                "Linux {KERNEL} or later, whose KVM starts SNP guests"
            ))
            .fix("install a newer kernel and start it"),
    });
    let [sev, es, snp] = facts.snp.kvm;
    let id = "kvm.snp";
    let parameters = "/sys/module/kvm_amd/parameters/{sev,sev_es,sev_snp} with the value Y";
    findings.push(match (sev, es, snp) {
        (Some(true), Some(true), Some(true)) => Finding::ok(id, SNP, "KVM starts SNP guests"),
        (.., None) => Finding::failure(id, SNP, "kvm_amd has no parameter sev_snp")
            .needed(parameters)
            .fix("modprobe kvm_amd; if that changes nothing, install a kernel with CONFIG_KVM_AMD_SEV"),
        _ => Finding::failure(id, SNP, "kvm_amd was loaded without SNP, or could not start it")
            .needed(parameters)
            .fix(
                "add kvm_amd.sev=1 kvm_amd.sev_es=1 kvm_amd.sev_snp=1 to the kernel's command line and restart; if it \
                 stays N, `dmesg | grep -i -e sev -e rmp` says why",
            ),
    });
    let id = "iommu.snp";
    let against = [
        "iommu=pt",
        "iommu.passthrough=1",
        "iommu=off",
        "amd_iommu=off",
        "amd_iommu=pgtbl_v2",
    ];
    let told = against.into_iter().find(|argument| kernel.told(argument));
    findings.push(match (told, &facts.snp.refused) {
        (Some(argument), _) => {
            Finding::failure(id, SNP, format!("the kernel was started with {argument}"))
                .needed("the IOMMU, on and not in passthrough mode: SNP is refused otherwise")
                .fix(format!(
                    "remove {argument} from the kernel's command line and restart"
                ))
        }
        (None, Some(line)) if line.contains("IOMMU") => Finding::failure(id, SNP, line.clone())
            .needed("the IOMMU, on and not in passthrough mode: SNP is refused otherwise")
            .fix("enable IOMMU in the BIOS (AMD CBS > NBIO Common Options)"),
        _ if facts.gpus.iommu_groups == 0 => Finding::failure(id, SNP, "there is no IOMMU")
            .needed("the IOMMU: SNP is refused otherwise")
            .fix("enable IOMMU in the BIOS (AMD CBS > NBIO Common Options)"),
        _ => Finding::ok(id, SNP, "on"),
    });
    findings
}

fn device(snp: &Snp) -> Finding {
    let (id, needed) = ("snp.device", "/dev/sev, the way to the secure processor");
    match snp.device {
        Ok(()) => Finding::ok(id, SNP, "/dev/sev can be used"),
        Err(Refusal::PermissionDenied) => {
            Finding::failure(id, SNP, "/dev/sev may not be opened by this user")
                .needed(needed)
                .fix("give QEMU's user access: a udev rule KERNEL==\"sev\", GROUP=\"kvm\", MODE=\"0660\"")
        }
        Err(error) => Finding::failure(id, SNP, format!("/dev/sev: {error}"))
            .needed(needed)
            .fix("modprobe ccp; if that changes nothing, update the BIOS and enable the secure processor"),
    }
}

fn numbers(snp: &Snp) -> Finding {
    let id = "snp.asids";
    let Snp {
        cbitpos,
        reduced_phys_bits,
        min_sev_asid,
        ..
    } = snp;
    if !(32..=63).contains(cbitpos) || *reduced_phys_bits == 0 {
        return Finding::failure(id, SNP, "CPUID names no encryption bit")
            .needed("leaf 8000001F, from which QEMU's options follow")
            .fix(BIOS);
    }
    if *min_sev_asid <= 1 {
        return Finding::failure(id, SNP, "no ASID is left for SNP guests")
            .needed("at least one")
            .fix(
                "set the SEV-ES ASID Space Limit in the BIOS to 100 (AMD CBS > CPU Common Options)",
            );
    }
    Finding::ok(
        id,
        SNP,
        format!(
            "{} SNP guests at once, encryption bit {cbitpos}, {reduced_phys_bits} address bit(s) less",
            min_sev_asid - 1
        ),
    )
}

fn firmware(snp: &Snp) -> Finding {
    let id = "snp.firmware";
    let told = snp.status.as_ref().ok().map(|status| {
        let (major, minor, build) = status.firmware;
        format!("{major}.{minor} build:{build}")
    });
    match told.or_else(|| snp.firmware.clone()) {
        Some(version) => Finding::ok(id, SNP, format!("interface {version}")),
        None => Finding::note(
            id,
            SNP,
            "neither the secure processor nor the kernel's log tells its version",
        )
        .needed("a current one: clients judge its level in every report"),
    }
}

/// Finding for a value that the secure processor does not report here. Clients see it in the first report.
fn unknown(id: &'static str, what: &str, silence: &Silence) -> Finding {
    let (why, fix) = match silence {
        Silence::NotAsked => (
            "only `cocoon-host doctor` asks".to_owned(),
            "cocoon-host doctor",
        ),
        Silence::NotSetUp => (
            "the secure processor is asked when KVM starts SNP guests".to_owned(),
            "see kvm.snp, and examine the machine again",
        ),
        Silence::Failed(error) => (
            format!("the secure processor does not say: {error}"),
            "run this command as root; if that changes nothing, `dmesg | grep -i -e ccp -e sev` says more",
        ),
    };
    Finding::note(id, SNP, format!("{what} is not known: {why}")).fix(fix)
}

/// Compares patch levels with the clients' floor. If the secure processor does not report them, compares only the microcode,
/// whose level is the lowest byte of its revision.
fn patches(cpu: &Cpu, snp: &Snp, policy: &Policy) -> Finding {
    let id = "snp.tcb";
    let byte = |number: u32| u8::try_from(number).unwrap_or(u8::MAX);
    // The report's root is not known yet, so the processor's own identification selects the part.
    let part = SnpPart::of(
        None,
        Some([byte(cpu.family), byte(cpu.model), byte(cpu.stepping)]),
    );
    let floor = policy.snp_tcb_floor.of(part);
    let update =
        "update the BIOS (and with it the secure processor's firmware), then the microcode package";
    let silence = match &snp.status {
        Ok(status) => {
            let below: Vec<String> = (floor.below(&status.reported).into_iter())
                .map(|(what, found, least)| format!("{what} {found} instead of {least}"))
                .collect();
            if below.is_empty() {
                return Finding::ok(
                    id,
                    SNP,
                    format!("at or above the clients' floor for {part}"),
                );
            }
            return Finding::failure(
                id,
                SNP,
                format!("below the clients' floor for {part}: {}", below.join(", ")),
            )
            .needed("levels that clients accept")
            .fix(format!(
                "{update}; then `snphost commit` and `snphost config reset` (the VirTEE project's tool) have reports say it"
            ));
        }
        Err(silence) => silence,
    };
    let level = cpu.microcode & 0xff;
    if level < u32::from(floor.microcode) || floor.microcode == u8::MAX {
        return Finding::failure(
            id,
            SNP,
            format!(
                "microcode {level} is below the clients' floor of {} for {part}",
                floor.microcode
            ),
        )
        .needed("levels that clients accept")
        .fix(update);
    }
    let what = format!("microcode {level} is at or above the clients' floor for {part}; the rest");
    unknown(id, &what, silence)
}

/// Whether the firmware has checked memory for aliases (AMD-SB-3015, "BadRAM").
fn aliases(snp: &Snp, policy: &Policy) -> Finding {
    let id = "snp.platform";
    match &snp.status {
        Ok(status) if status.alias_check => {
            Finding::ok(id, SNP, "memory has been searched for aliases")
        }
        Ok(_) if policy.accept_missing_alias_check => Finding::warning(
            id,
            SNP,
            "memory has not been searched for aliases, which this policy accepts",
        )
        .fix(ALIASES),
        Ok(_) => Finding::failure(id, SNP, "memory has not been searched for aliases")
            .needed("the search at the start: clients refuse reports without it")
            .fix(ALIASES),
        Err(silence) => unknown(id, "whether memory has been searched for aliases", silence),
    }
}

/// Whether reports name the chip and are signed by its own key; their certificate is found by both.
fn masks(snp: &Snp) -> Finding {
    let id = "snp.chip";
    let status = match &snp.status {
        Ok(status) => status,
        Err(silence) => return unknown(id, "whether reports name the chip", silence),
    };
    const UNMASK: &str = "`snphost config reset` (the VirTEE project's tool)";
    if status.chip_key_masked {
        return Finding::failure(id, SNP, "reports are not signed (MASK_CHIP_KEY)")
            .needed("a signature")
            .fix(UNMASK);
    }
    if status.provider_key {
        return Finding::warning(
            id,
            SNP,
            "a provider's key (VLEK) signs reports, not the chip's own",
        )
        .needed("its certificate, which nobody fetches: the host loads it with the key; a client that lists machines refuses it");
    }
    if status.chip_id_masked {
        return Finding::failure(
            id,
            SNP,
            "reports leave out the chip's identity (MASK_CHIP_ID)",
        )
        .needed("the identity, by which a report's certificate is found and checked")
        .fix(UNMASK);
    }
    Finding::ok(id, SNP, "reports name the chip, and its own key signs them")
}
