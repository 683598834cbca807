//! Predicts what this machine will measure when it runs an image, and whether clients will accept that.
//!
//! The values are computed from the image's files with the functions that clients and builders use. What only evidence can
//! show (TDX patch levels, the machine's identity, advisories) is reported as unknown.

use cocoon_measurements::manifest;
use cocoon_measurements::policy::GpuRequirement;
use cocoon_measurements::snp::firmware::SnpFirmware;
use cocoon_measurements::snp::launch::{KernelHashes, Vcpus, launch_digest};
use cocoon_measurements::tdx::event::{Rtmr, replay};
use cocoon_measurements::tdx::mrtd::{PageOrder, mrtd};
use cocoon_measurements::tdx::rtmr;
use cocoon_measurements::tdx::rtmr0::Machine;
use cocoon_measurements::tdx::tdvf::Tdvf;
use cocoon_protocol::bytes::{Hex, Hex32, Hex48};
use cocoon_protocol::manifest::{Manifest, PlatformSource};
use cocoon_qemu::tables::Tables;

use super::facts::{Facts, Wanted};
use super::finding::{Finding, Mode, Severity};
use super::judge::PAGE_ORDER_SINCE;
use super::policy::PolicyFile;
use crate::text::chain;

mod artefacts;
mod rtmr0;

pub use artefacts::{Artefacts, ArtefactsError};
pub use rtmr0::predicted;

const TDX: &[Mode] = &[Mode::Tdx];
const SNP: &[Mode] = &[Mode::SevSnp];
const SIMULATED: &[Mode] = &[Mode::SimulatedKvm, Mode::SimulatedEmulated];
const REBUILD: &str =
    "take the image's files as they were built: `cocoon-image verify` names the one that differs";

/// The machine to predict measurements for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// Number of virtual CPUs.
    pub vcpus: u16,
    /// QEMU's CPU model for SNP guests.
    pub cpu_model: String,
    /// ACPI and SMBIOS tables of the machine as a trust domain under this machine's QEMU, if they were computed.
    pub tables: Option<Tables>,
}

/// Whether computing the tables is useful: the manifest lists shapes of this size, and only the tables show whether one
/// matches. With a GPU the tables would show nothing.
#[must_use]
pub fn wants_tables(manifest: &Manifest, wanted: &Wanted, vcpus: u16) -> bool {
    let sought = rtmr0::Sought::new(wanted, vcpus, &[]);
    !wanted.gpu && !sought.fitting(&manifest.tdx.platforms).is_empty()
}

/// Returns one finding for each check.
#[must_use]
pub fn judge(
    image: &Artefacts,
    policy: &PolicyFile,
    facts: &Facts,
    wanted: &Wanted,
    shape: &Shape,
) -> Vec<Finding> {
    let manifest = &image.manifest;
    let mut findings = vec![counts(image, policy, facts.host.clock.now)];
    findings.push(intact(image));
    findings.extend(tdx(image, facts, wanted, shape));
    findings.push(launch(image, shape));
    findings.push(aml_guard(manifest, policy));
    findings.push(
        Finding::note(
            "client.tcb",
            TDX,
            "told only by a quote, with Intel's collateral",
        )
        .needed(format!(
            "a TCB status among {:?}, and no open advisory",
            policy.policy.accepted_tcb_statuses
        )),
    );
    if !policy.policy.machines.is_empty() {
        let listed = policy.policy.machines.len();
        findings.push(
            Finding::warning("client.machine", Mode::REAL, "this machine's identity is told only by its evidence")
                .needed(format!("one of the {listed} machines that the policy lists"))
                .fix("give clients the identity that `cocoon verify` shows as evidence.machine, another way than over the connection"),
        );
    }
    findings.push(gpu(manifest, policy));
    findings.push(simulated(manifest, wanted));
    findings
}

/// Checks whether clients accept the manifest.
fn counts(image: &Artefacts, policy: &PolicyFile, now: u64) -> Finding {
    let id = "client.manifest";
    let mut believed = policy.believed();
    let named = !believed.signers.is_empty();
    if !named {
        // Pinning the manifest skips the signatures; dates, release floor and inputs are still checked.
        believed.pinned = vec![image.manifest_id];
        believed.threshold = 1;
    }
    match manifest::trust(
        &image.manifest_bytes,
        image.envelope.as_deref(),
        &believed,
        now,
    ) {
        Ok(trusted) if named => Finding::ok(
            id,
            &Mode::ALL,
            format!("release {}, {}", trusted.release, trusted.basis()),
        ),
        Ok(trusted) => Finding::note(
            id,
            &Mode::ALL,
            format!(
                "release {}, in its time; signatures not judged, as the policy names no signer",
                trusted.release
            ),
        )
        .needed("a signature of signers whom the clients pin")
        .fix("cocoon-image manifest sign, and publish the signer's key"),
        Err(refusal) => Finding::failure(id, &Mode::ALL, chain(&refusal))
            .needed("a manifest that counts for these clients")
            .fix("build and sign a release: cocoon-image build, cocoon-image manifest sign"),
    }
}

/// Checks whether the files are those that the manifest describes.
fn intact(image: &Artefacts) -> Finding {
    let id = "client.image";
    let other: Vec<&str> = (image.files())
        .into_iter()
        .filter(|(name, bytes)| {
            let listed = image.manifest.artefacts.get(*name);
            listed.is_none_or(|listed| listed.sha256 != Hex32::sha256(bytes))
        })
        .map(|(name, _)| name)
        .collect();
    if other.is_empty() {
        return Finding::ok(id, &Mode::ALL, "the files are those of the manifest");
    }
    Finding::failure(
        id,
        &Mode::ALL,
        format!("not the manifest's: {}", other.join(", ")),
    )
    .needed("the files that the manifest describes")
    .fix(REBUILD)
}

fn tdx(image: &Artefacts, facts: &Facts, wanted: &Wanted, shape: &Shape) -> Vec<Finding> {
    let (expected, id) = (&image.manifest.tdx, "client.tdx.mrtd");
    let Ok(firmware) = Tdvf::parse(&image.tdx_firmware) else {
        return vec![
            Finding::failure(id, TDX, "OVMF.tdx.fd is no TDX firmware")
                .needed("the image's own")
                .fix(REBUILD),
        ];
    };
    let current = (facts.host.kernel.release).is_some_and(|release| release >= PAGE_ORDER_SINCE);
    let order = if current {
        PageOrder::SinglePass
    } else {
        PageOrder::TwoPass
    };
    let mut findings = vec![compared(
        id,
        "MRTD",
        &expected.mrtd,
        &Hex(mrtd(&firmware, order)),
        "start Linux 6.16 or later, with the release's own OVMF.tdx.fd",
    )];
    let edk2 = Machine::simulated(0).edk2;
    let id = "client.tdx.kernel";
    findings.push(match rtmr::rtmr1(&image.kernel) {
        Err(error) => Finding::failure(id, TDX, chain(&error))
            .needed("the image's own kernel")
            .fix(REBUILD),
        Ok(mut events) => {
            events.extend(rtmr::rtmr2(&image.cmdline, Some(&image.initrd), edk2));
            let registers = replay(events.iter().map(|event| (event.rtmr, &event.digest)));
            let register = |rtmr: Rtmr| Hex(registers[rtmr.index()]);
            let (kernel, rest) = (register(Rtmr::Rtmr1), register(Rtmr::Rtmr2));
            let mut row = compared(id, "RTMR1", &expected.rtmr1, &kernel, REBUILD);
            if row.severity == Severity::Ok {
                row = compared(id, "RTMR2", &expected.rtmr2, &rest, REBUILD);
            }
            if row.severity == Severity::Ok {
                row.found =
                    format!("RTMR1 will be {kernel} and RTMR2 {rest}, as the manifest says");
            }
            row
        }
    });
    let sought = rtmr0::Sought::new(wanted, shape.vcpus, &facts.gpus.all);
    findings.push(rtmr0::row(image, &sought, shape.tables.as_ref()));
    findings
}

fn compared(id: &'static str, what: &str, expected: &Hex48, found: &Hex48, fix: &str) -> Finding {
    if expected == found {
        return Finding::ok(
            id,
            TDX,
            format!("{what} will be {found}, as the manifest says"),
        );
    }
    Finding::failure(id, TDX, format!("{what} will be {found}"))
        .needed(expected.to_string())
        .fix(fix)
}

/// Predicts the launch digest of this machine.
fn launch(image: &Artefacts, shape: &Shape) -> Finding {
    let (id, reference) = ("client.snp.launch", &image.manifest.snp);
    let digest = || {
        let firmware = SnpFirmware::parse(&image.snp_firmware).map_err(|error| chain(&error))?;
        let vcpus = Vcpus {
            count: shape.vcpus.into(),
            model: shape.cpu_model.parse().map_err(|error| chain(&error))?,
            guest_features: reference.guest_features,
        };
        let kernel = KernelHashes::of(&image.kernel, Some(&image.initrd), &image.cmdline);
        launch_digest(&firmware, Some(&kernel), &vcpus).map_err(|error| chain(&error))
    };
    let digest = match digest() {
        Ok(digest) => Hex(digest),
        Err(error) => {
            return Finding::failure(id, SNP, error)
                .needed("a launch that can be measured")
                .fix(REBUILD);
        }
    };
    if reference.launch.is_empty() {
        return Finding::failure(
            id,
            SNP,
            "the image is not released for SEV-SNP: its manifest lists no launch digest",
        )
        .needed("an image whose manifest lists some, or TDX")
        .fix("start it on a TDX machine");
    }
    let machine = format!("{} with {} vCPUs", shape.cpu_model, shape.vcpus);
    if reference.launch.iter().any(|entry| entry.digest == digest) {
        return Finding::ok(
            id,
            SNP,
            format!("{machine} will measure {digest}, as the manifest says"),
        );
    }
    let of_model = reference
        .launch
        .iter()
        .filter(|entry| entry.cpu_model == shape.cpu_model);
    let counts: Vec<String> = of_model.map(|entry| entry.vcpus.to_string()).collect();
    Finding::failure(
        id,
        SNP,
        format!("{machine} will measure {digest}, which the manifest does not list"),
    )
    .needed(format!(
        "the manifest's files; for this model it lists vCPUs {}",
        counts.join(", ")
    ))
    .fix("ask for a listed number with --vcpus")
}

fn aml_guard(manifest: &Manifest, policy: &PolicyFile) -> Finding {
    let id = "client.snp.aml";
    if manifest.aml_guard {
        Finding::ok(
            id,
            SNP,
            "the kernel keeps the host's ACPI code away from memory",
        )
    } else if policy.policy.accept_missing_aml_guard {
        Finding::warning(
            id,
            SNP,
            "the kernel runs the host's ACPI code; the policy accepts that",
        )
        .needed("an image with the guard (aml_guard)")
        .fix("nothing yet: no variant has it")
    } else {
        Finding::failure(id, SNP, "the kernel runs the host's ACPI code, which SEV-SNP does not measure")
            .needed("an image with the guard (aml_guard), or a policy that accepts its absence")
            .fix("nothing yet: no variant has the guard; clients can set accept_missing_aml_guard, knowing what it is")
    }
}

fn gpu(manifest: &Manifest, policy: &PolicyFile) -> Finding {
    let id = "client.gpu";
    match (manifest.variant.as_str(), policy.policy.gpu) {
        ("cpu", GpuRequirement::Required) => {
            Finding::failure(id, &Mode::ALL, "the image uses no GPU")
                .needed("an image with one: the policy says gpu = \"required\"")
                .fix("cocoon-image build --variant cuda")
        }
        ("cpu", GpuRequirement::IfClaimed) => {
            Finding::ok(id, &Mode::ALL, "the image uses none and claims none")
        }
        ("cuda-simulated", _) => Finding::failure(
            id,
            Mode::REAL,
            "the image's GPU is simulated, and guests refuse that in a TEE",
        )
        .needed("a simulated machine, or an image without that GPU")
        .fix("cocoon-image build --variant cpu"),
        (variant, _) => Finding::note(
            id,
            &Mode::ALL,
            format!(
                "the image's variant is {variant}: clients refuse it without evidence of its GPUs, each under NVIDIA's roots"
            ),
        ),
    }
}

fn simulated(manifest: &Manifest, wanted: &Wanted) -> Finding {
    let (id, memory) = ("client.simulated", wanted.memory_mib);
    let shapes: Vec<u64> = (manifest.tdx.platforms.iter())
        .filter(|platform| platform.source == PlatformSource::Simulator)
        .map(|platform| platform.memory_mib)
        .collect();
    if shapes.contains(&memory.into()) {
        return Finding::note(
            id,
            SIMULATED,
            "accepted as simulated only, and with --trust-root",
        )
        .needed("real TDX or SEV-SNP for anything that is to be protected");
    }
    let sizes: Vec<String> = shapes.iter().map(u64::to_string).collect();
    Finding::failure(
        id,
        SIMULATED,
        format!("no simulated shape with {memory} MiB"),
    )
    .needed(format!("one of {} MiB", sizes.join(", ")))
    .fix("ask for one of them with --memory")
}
