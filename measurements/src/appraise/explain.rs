//! Better explanations of a rejection, for a verifier that has the image's files.
//!
//! Likely mistakes are tried until one yields the measurement found. Only cause and advice of failed rows are rewritten, so
//! that nothing here can improve a verdict.

use cocoon_protocol::{
    bytes::{Hex, Hex32, Hex48},
    manifest::Manifest,
};

use crate::{
    snp::{
        cpu::CpuModel,
        firmware::SnpFirmware,
        launch::{FEATURE_SNP, KernelHashes, Vcpus, launch_digest},
    },
    tdx::{
        hob,
        mrtd::{PageOrder, mrtd},
        tdvf::Tdvf,
    },
    verdict::{Check, Outcome, Verdict},
};

/// Files of the image that the verifier has. A file that is not the manifest's is ignored.
#[derive(Clone, Copy, Debug, Default)]
pub struct Artefacts<'a> {
    /// The firmware for TDX, `OVMF.tdx.fd`.
    pub tdx_firmware: Option<&'a [u8]>,
    /// The firmware for SEV-SNP, `OVMF.snp.fd`.
    pub snp_firmware: Option<&'a [u8]>,
}

/// Rewrites cause and advice of failed rows in `verdict` whose measurement is exactly explained by a likely mistake of the
/// operator.
pub fn explain(verdict: &mut Verdict, manifest: &Manifest, artefacts: &Artefacts<'_>) {
    let tdx = own(manifest, "OVMF.tdx.fd", artefacts.tdx_firmware);
    let snp = own(manifest, "OVMF.snp.fd", artefacts.snp_firmware);
    let failed = (verdict.checks.iter_mut()).filter(|check| check.outcome == Outcome::Fail);
    for check in failed {
        let Some(found) = check.found.as_deref().and_then(|text| text.parse().ok()) else {
            continue;
        };
        let explained = match check.id {
            "snp.launch" => why_launch(manifest, snp, tdx, &found),
            "tdx.mrtd" => why_mrtd(tdx, snp, &found),
            "tdx.rtmr0.event" => tdx.and_then(|firmware| why_memory(check, firmware, &found)),
            _ => None,
        };
        if let Some((cause, advice)) = explained {
            (check.cause, check.advice) = (Some(cause), Some(advice.to_owned()));
        }
    }
}

type Words = (String, &'static str);

fn own<'a>(manifest: &Manifest, name: &str, bytes: Option<&'a [u8]>) -> Option<&'a [u8]> {
    let expected = manifest.artefacts.get(name)?;
    bytes.filter(|bytes| {
        bytes.len() as u64 == expected.size && Hex32::sha256(bytes) == expected.sha256
    })
}

/// Largest number of vCPUs that is tried, apart from the manifest's own.
const MAX_TRIED: u32 = 64;
/// `SEV_FEATURES` of common hosts, whose KVM and QEMU add DebugSwap and Secure TSC.
const FEATURES: [u64; 4] = [
    FEATURE_SNP,
    FEATURE_SNP | 0x20,
    FEATURE_SNP | 0x200,
    FEATURE_SNP | 0x220,
];

fn why_launch(
    manifest: &Manifest,
    snp: Option<&[u8]>,
    tdx: Option<&[u8]>,
    found: &Hex48,
) -> Option<Words> {
    let kernel = manifest.artefacts.get("vmlinuz")?.sha256.0;
    let initrd = manifest.artefacts.get("initrd.img")?.sha256.0;
    let hashes = |command_line: &str, initrd: [u8; 32]| KernelHashes {
        kernel,
        initrd,
        command_line: KernelHashes::of(&[], None, command_line).command_line,
    };
    let good = hashes(&manifest.cmdline, initrd);
    let own = SnpFirmware::parse(snp?).ok()?;
    // The firmware that operators confuse with the right one.
    let other = tdx.and_then(|bytes| SnpFirmware::parse(bytes).ok());
    for (firmware, hashes, instead) in [
        (Some(&own), Some(&good), None),
        (Some(&own), None, Some(NO_HASHES)),
        (
            Some(&own),
            Some(&hashes(&manifest.cmdline, Hex32::sha256(&[]).0)),
            Some(NO_INITRD),
        ),
        (other.as_ref(), Some(&good), Some(TDX_FIRMWARE)),
        (other.as_ref(), None, Some(TDX_FIRMWARE)),
    ] {
        let Some(firmware) = firmware else { continue };
        if let Some(vcpus) = processors(manifest, firmware, hashes, found) {
            let shape = shown(&vcpus);
            return Some(match instead {
                None if listed(manifest, &vcpus) => (
                    format!(
                        "{OTHER_FEATURES} {:#x} instead of {:#x} (with {shape})",
                        vcpus.guest_features, manifest.snp.guest_features
                    ),
                    FEATURES_ADVICE,
                ),
                None => (format!("{OTHER_VCPUS} {shape}"), VCPUS_ADVICE),
                Some(instead) => (format!("{instead} (with {shape})"), LAUNCH_ADVICE),
            });
        }
    }
    // An edited command line on a machine shape of the manifest.
    let shapes: Vec<Vcpus> = manifest
        .snp
        .launch
        .iter()
        .filter_map(|entry| {
            Some(Vcpus {
                count: entry.vcpus,
                model: entry.cpu_model.parse().ok()?,
                guest_features: manifest.snp.guest_features,
            })
        })
        .collect();
    super::cmdline::edits(&manifest.cmdline).find_map(|line| {
        let hashes = hashes(&line, initrd);
        let fits = |vcpus: &&Vcpus| measures(&own, Some(&hashes), vcpus, found);
        let vcpus = shapes.iter().find(fits)?;
        let words = super::cmdline::shown(&line, &manifest.cmdline);
        Some((
            format!("{OTHER_CMDLINE} {words} (with {})", shown(vcpus)),
            LAUNCH_ADVICE,
        ))
    })
}

/// Finds processors with which `firmware` and `hashes` yield `found`.
///
/// Tries every QEMU model with a distinct signature, the usual sets of features, 1 to [`MAX_TRIED`] vCPUs, and up to eight
/// larger numbers from the manifest.
fn processors(
    manifest: &Manifest,
    firmware: &SnpFirmware,
    hashes: Option<&KernelHashes>,
    found: &Hex48,
) -> Option<Vcpus> {
    let mut models: Vec<CpuModel> = Vec::new();
    // The manifest's names come first, so that they are the ones shown.
    let own = manifest
        .snp
        .launch
        .iter()
        .filter_map(|entry| entry.cpu_model.parse().ok());
    for model in own.chain(CpuModel::all()) {
        if models
            .iter()
            .all(|known: &CpuModel| known.signature() != model.signature())
        {
            models.push(model);
        }
    }
    let mut features = vec![manifest.snp.guest_features];
    features.extend(
        FEATURES
            .into_iter()
            .filter(|bits| *bits != manifest.snp.guest_features),
    );
    let mut counts: Vec<u32> = manifest
        .snp
        .launch
        .iter()
        .map(|entry| entry.vcpus)
        .collect();
    counts.sort_unstable();
    counts.dedup();
    counts.retain(|count| *count > MAX_TRIED);
    counts.truncate(8);
    counts.extend(1..=MAX_TRIED);
    features.iter().find_map(|features| {
        models.iter().find_map(|model| {
            let vcpus = |count: &u32| Vcpus {
                count: *count,
                model: model.clone(),
                guest_features: *features,
            };
            let mut tried = counts.iter().map(vcpus);
            tried.find(|vcpus| measures(firmware, hashes, vcpus, found))
        })
    })
}

/// Whether the manifest lists this model and number of vCPUs, whatever the features.
fn listed(manifest: &Manifest, vcpus: &Vcpus) -> bool {
    manifest.snp.launch.iter().any(|entry| {
        let model = entry.cpu_model.parse::<CpuModel>();
        entry.vcpus == vcpus.count
            && model.is_ok_and(|model| model.signature() == vcpus.model.signature())
    })
}

fn measures(
    firmware: &SnpFirmware,
    hashes: Option<&KernelHashes>,
    vcpus: &Vcpus,
    found: &Hex48,
) -> bool {
    launch_digest(firmware, hashes, vcpus).is_ok_and(|digest| Hex(digest) == *found)
}

fn shown(vcpus: &Vcpus) -> String {
    format!(
        "{} vCPUs of {}, guest features {:#x}",
        vcpus.count, vcpus.model, vcpus.guest_features
    )
}

fn why_mrtd(tdx: Option<&[u8]>, snp: Option<&[u8]>, found: &Hex48) -> Option<Words> {
    let fits = |bytes: Option<&[u8]>, order| {
        let firmware = bytes.and_then(|bytes| Tdvf::parse(bytes).ok());
        firmware.is_some_and(|firmware| Hex(mrtd(&firmware, order)) == *found)
    };
    if fits(tdx, PageOrder::TwoPass) {
        return Some((OLD_KVM.to_owned(), OLD_KVM_ADVICE));
    }
    let orders = [PageOrder::SinglePass, PageOrder::TwoPass];
    let swapped = orders.into_iter().any(|order| fits(snp, order));
    swapped.then(|| (SNP_FIRMWARE.to_owned(), LAUNCH_ADVICE))
}

/// Finds the amount of memory whose hand-off blocks were measured.
fn why_memory(check: &Check, firmware: &[u8], found: &Hex48) -> Option<Words> {
    const MIB: u64 = 1 << 20;
    if !check.title.contains("memory map") {
        return None;
    }
    let firmware = Tdvf::parse(firmware).ok()?;
    let usual = (1..=1024)
        .map(|n| n * 64 * MIB)
        .chain((65..=2048).map(|n| n * 1024 * MIB));
    let fits = |memory: &u64| {
        hob::td_hob(&firmware, *memory).is_ok_and(|blocks| Hex48::sha384(&blocks) == *found)
    };
    let memory = usual.into_iter().find(fits)?;
    Some((
        format!("{OTHER_MEMORY} {} MiB", memory / MIB),
        MEMORY_ADVICE,
    ))
}

const OTHER_VCPUS: &str = "the manifest's image on processors that the manifest does not list:";
const VCPUS_ADVICE: &str =
    "the operator starts the VM with a CPU model and vCPU count that the manifest lists";
const OTHER_FEATURES: &str = "the manifest's image on processors that the manifest lists, but with other guest features (SEV_FEATURES) than it assumes:";
const FEATURES_ADVICE: &str = "the operator keeps KVM and QEMU from adding features: DebugSwap (0x20, parameter debug_swap=0 of the module kvm_amd) and Secure TSC (0x200); or the manifest is made for these features";
const NO_HASHES: &str = "the firmware was not told the kernel's hashes (kernel-hashes=on is missing), so it would start any kernel";
const NO_INITRD: &str = "the manifest's firmware, kernel and command line without the initrd";
const TDX_FIRMWARE: &str = "the VM was started with OVMF.tdx.fd, the firmware for Intel TDX";
const OTHER_CMDLINE: &str = "edited command line: the manifest's files were started with another one; words missing (-) and added (+):";
const LAUNCH_ADVICE: &str = "the operator starts the VM with this release's cocoon-host, which chooses files and settings by itself";
const OLD_KVM: &str = "the manifest's own firmware, on a host whose KVM adds pages in the older order (Linux before 6.16, or QEMU 8.2 of Ubuntu 24.04)";
const OLD_KVM_ADVICE: &str = "the operator starts the VM on Linux 6.16 and QEMU 10.1 or later";
const SNP_FIRMWARE: &str = "the VM was started with OVMF.snp.fd, the firmware for AMD SEV-SNP";
const OTHER_MEMORY: &str = "the VM has another amount of memory than the manifest's shape:";
const MEMORY_ADVICE: &str =
    "the operator starts the VM with an amount of memory that the manifest names";
