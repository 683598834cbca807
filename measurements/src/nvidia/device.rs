//! Verification of one GPU's report and certificates, and the checks that need no reference manifest.

use cocoon_protocol::bytes::{Hex, Hex32};

use super::{
    DriverState, Gpu, GpuDemand, GpuEvidence,
    certificate::{check_path, raw_signature_holds},
    chain::{DeviceChain, FirmwareIdError},
    known::Known,
    opaque::{Feature, Opaque},
    root::{self, Authority},
    spdm::Report,
};
use crate::{
    policy::Policy,
    roots::RootClass,
    verdict::{Check, chain},
};

/// Name of the supported chip. Other architectures' evidence is refused as unsupported.
pub(super) const HOPPER: &str = "GH100";

/// A GPU whose signatures were verified.
#[derive(Debug)]
pub(super) struct Device<'a> {
    pub report: Report<'a>,
    pub chain: DeviceChain,
    pub root: RootClass,
    pub gpu: Gpu,
}

/// Parses and verifies one GPU's evidence. Apart from its form and the chip's name, nothing in the report is judged before
/// the signatures hold.
pub(super) fn verify<'a>(
    evidence: &GpuEvidence<'a>,
    policy: &Policy,
    now: u64,
    known: &Known,
) -> (Option<Device<'a>>, Vec<Check>) {
    let mut checks = Vec::new();
    let device = verified(evidence, policy, now, (known, &mut checks));
    let device = device.map_err(|row| checks.push(*row)).ok();
    (device, checks)
}

fn verified<'a>(
    evidence: &GpuEvidence<'a>,
    policy: &Policy,
    now: u64,
    (known, checks): (&Known, &mut Vec<Check>),
) -> Result<Device<'a>, Box<Check>> {
    let refused = |id, title: &str, cause| Box::new(Check::fail(id, title, cause, OTHER_EVIDENCE));
    let title = "form of the report";
    let report = Report::parse(evidence.report)
        .map_err(|error| refused("gpu.report", title, chain(&error)))?;
    let found = format!("SPDM 1.1, {} measurements", report.measurements.len());
    checks.push(Check::pass("gpu.report", title, found));
    // Reports name the chip from Blackwell on. Another chip is refused by name, whatever its certificates look like.
    if let Some(chip) = report.opaque.chip.as_deref().filter(|chip| *chip != HOPPER) {
        return Err(unsupported(chip));
    }
    let title = "certificates of the GPU";
    let certificates = DeviceChain::parse(evidence.chain)
        .map_err(|error| refused("gpu.chain", title, chain(&error)))?;
    let chip = certificates.chip();
    if chip != HOPPER {
        return Err(unsupported(&chip));
    }
    if certificates.has_tcb_info() {
        return Err(unsupported(OTHER_FORM));
    }
    checks.push(Check::pass("gpu.architecture", ARCHITECTURE, HOPPER).expected(HOPPER));
    let [leaf, .., anchor] = &certificates.certificates[..] else {
        return Err(refused("gpu.chain", title, NO_CHAIN.to_owned()));
    };
    let (class, row) = root::judge(Authority::Devices, anchor, policy, now)?;
    checks.push(row);
    let refused_chain = |error| refused("gpu.chain", title, chain(&error));
    check_path(&certificates.certificates, now, known).map_err(refused_chain)?;
    checks.push(Check::pass("gpu.chain", title, "five, up to the root"));
    let key = leaf.key().map_err(refused_chain)?;
    // Not looked up in the cache: each report answers a fresh nonce, so its signature was never seen before.
    if !raw_signature_holds(&key, report.transcript, &report.signature) {
        let title = "signature of the report";
        return Err(refused("gpu.signature", title, SIGNATURE.to_owned()));
    }
    checks.push(Check::pass(
        "gpu.signature",
        "signature of the report",
        "holds",
    ));
    let device = Hex(certificates.device().map_err(refused_chain)?);
    let attestation_key = Hex32::sha256(&leaf.key_info().map_err(refused_chain)?);
    let gpu = claims(&report.opaque, device, attestation_key)?;
    Ok(Device {
        report,
        chain: certificates,
        root: class,
        gpu,
    })
}

/// Extracts the report's claims. Refuses a report that lacks a field needed to find its reference manifests.
fn claims(opaque: &Opaque, device: Hex32, attestation_key: Hex32) -> Result<Gpu, Box<Check>> {
    let missing = |what: &str| {
        let cause = format!("the report does not say {what}");
        Box::new(Check::fail(
            "gpu.report",
            "form of the report",
            cause,
            OTHER_EVIDENCE,
        ))
    };
    let text = |field: &Option<String>, what| field.clone().ok_or_else(|| missing(what));
    let driver_version = text(&opaque.driver_version, "its driver's version")?;
    let vbios_version = text(&opaque.vbios_version, "its VBIOS's version")?;
    let project = text(&opaque.project, "its board's project")?;
    let variant = text(&opaque.project_sku, "its board's variant")?;
    let product = text(&opaque.chip_sku, "its chip's product")?;
    let plain = vbios_version.replace('.', "");
    let vbios_rim = format!("NV_GPU_VBIOS_{project}_{variant}_{product}_{plain}").to_uppercase();
    Ok(Gpu {
        device,
        attestation_key,
        driver_rim: format!("NV_GPU_DRIVER_{HOPPER}_{driver_version}"),
        vbios_rim,
        driver_version,
        vbios_version,
    })
}

/// Returns the checks that need only the verified report and the driver's statement.
pub(super) fn judge(
    device: &Device<'_>,
    driver: Option<&DriverState>,
    demand: &GpuDemand,
    policy: &Policy,
) -> Vec<Check> {
    let mut checks = vec![
        firmware_id(device),
        Check::equal(
            "gpu.nonce",
            "nonce of the report",
            &Hex(demand.nonce),
            &Hex(device.report.nonce),
            || (OTHER_NONCE, OTHER_EVIDENCE),
        ),
        identity(device.gpu.device, policy),
    ];
    checks.extend(mode(&device.report.opaque, driver, demand, policy));
    if let Some(driver) = driver {
        let gpu = &device.gpu;
        for (title, own, signed) in [
            (
                "driver's version",
                &driver.driver_version,
                &gpu.driver_version,
            ),
            ("VBIOS version", &driver.vbios_version, &gpu.vbios_version),
        ] {
            let (own, signed) = (own.to_uppercase(), signed.to_uppercase());
            checks.push(Check::equal("gpu.versions", title, &signed, &own, || {
                (OTHER_VERSION, OTHER_EVIDENCE)
            }));
        }
    }
    checks
}

fn firmware_id(device: &Device<'_>) -> Check {
    let title = "firmware that holds the attestation key";
    let certified = device.chain.firmware_id();
    // This chain mixes two devices, so it fails even if the report has no firmware digest to compare.
    if let Err(error @ FirmwareIdError::OtherDevice) = &certified {
        return Check::fail("gpu.firmware_id", title, chain(error), OTHER_EVIDENCE);
    }
    let Some(reported) = device.report.opaque.fwid else {
        return Check::note("gpu.firmware_id", title, NO_FIRMWARE_ID);
    };
    match certified {
        Ok(certified) => Check::equal(
            "gpu.firmware_id",
            title,
            &Hex(certified),
            &Hex(reported),
            || (OTHER_FIRMWARE, OTHER_EVIDENCE),
        ),
        Err(error) => Check::fail("gpu.firmware_id", title, chain(&error), OTHER_EVIDENCE)
            .found(Hex(reported)),
    }
}

fn identity(found: Hex32, policy: &Policy) -> Check {
    let title = "device";
    if policy.gpus.is_empty() {
        return Check::pass("gpu.device", title, found).expected("any");
    }
    let row = if policy.gpus.contains(&found) {
        Check::pass("gpu.device", title, found)
    } else {
        Check::fail("gpu.device", title, OTHER_DEVICE, OTHER_DEVICE_ADVICE).found(found)
    };
    row.expected(match &policy.gpus[..] {
        [only] => only.to_string(),
        several => format!("one of the {} that the policy lists", several.len()),
    })
}

/// Checks confidential computing, developer mode and protected PCIe by the driver's statement and the report.
fn mode(
    opaque: &Opaque,
    driver: Option<&DriverState>,
    demand: &GpuDemand,
    policy: &Policy,
) -> Vec<Check> {
    let title = "confidential computing";
    let protected =
        opaque.protected_pcie == Some(true) || opaque.feature == Some(Feature::ProtectedPcie);
    let mut checks = Vec::new();
    match driver {
        None if demand.driver_state => {
            checks.push(Check::fail("gpu.mode", title, NO_DRIVER, ASK_DRIVER));
        }
        None => checks.push(Check::note("gpu.mode", title, NOT_ASKED)),
        Some(driver) => {
            checks.push(if driver.confidential_computing {
                Check::pass("gpu.mode", title, "on").expected("on")
            } else {
                let row = Check::fail("gpu.mode", title, MODE_OFF, TURN_ON);
                row.expected("on").found("off")
            });
            let title = "developer mode";
            checks.push(
                match (driver.developer_mode, policy.accept_gpu_developer_mode) {
                    (false, _) => Check::pass("gpu.developer_mode", title, "off").expected("off"),
                    (true, true) => {
                        Check::note("gpu.developer_mode", title, DEVELOPER_ACCEPTED).found("on")
                    }
                    (true, false) => Check::fail("gpu.developer_mode", title, DEVELOPER, TURN_ON)
                        .expected("off")
                        .found("on"),
                },
            );
        }
    }
    checks.push(protected_pcie(protected, driver));
    checks
}

/// Refuses protected PCIe: there, GPUs exchange data over NVLink in clear, through switches whose evidence no document
/// carries. An attacker with another GPU of the board or with a switch can read that data.
fn protected_pcie(signed: bool, driver: Option<&DriverState>) -> Check {
    let title = "protected PCIe";
    let word = |on| if on { "on" } else { "off" };
    if let Some(driver) = driver
        && driver.protected_pcie != signed
    {
        return Check::fail("gpu.protected_pcie", title, OTHER_PCIE, OTHER_EVIDENCE)
            .expected(word(signed))
            .found(word(driver.protected_pcie));
    }
    if signed {
        let row = Check::fail("gpu.protected_pcie", title, PCIE, TURN_ON);
        return row.expected("off").found("on");
    }
    Check::pass("gpu.protected_pcie", title, "off").expected("off")
}

fn unsupported(chip: &str) -> Box<Check> {
    let named = match chip {
        "" => "no chip that it names".to_owned(),
        chip if chip.starts_with("GB") => format!("{chip} (Blackwell)"),
        chip => chip.to_owned(),
    };
    let row = Check::fail(
        "gpu.architecture",
        ARCHITECTURE,
        OTHER_CHIP,
        OTHER_CHIP_ADVICE,
    );
    Box::new(row.expected(HOPPER).found(named))
}

const ARCHITECTURE: &str = "architecture of the GPU";
const OTHER_EVIDENCE: &str = "the operator collects the GPU's evidence anew, for this very question, and passes it on unchanged; if that does not help, do not use the machine";
const NO_CHAIN: &str = "a GPU has a chain of five certificates";
const SIGNATURE: &str = "the report was changed after the GPU signed it, or it and the certificates are of different GPUs";
const OTHER_CHIP: &str =
    "unsupported: this verifier understands the evidence of Hopper (H100, H200) alone";
const OTHER_FORM: &str =
    "GH100 by name, and a certificate in Blackwell's form (extension 2.23.133.5.4.1.1)";
const OTHER_CHIP_ADVICE: &str = "use a machine with Hopper GPUs, or a newer verifier";
const NO_FIRMWARE_ID: &str = "the report does not repeat the firmware's digest, as reports of early firmware do not; the certificate still names it";
const OTHER_FIRMWARE: &str =
    "the certificate is of another firmware than the one that made the report";
const OTHER_NONCE: &str = "the report answers another question: an old one, or somebody else's";
const OTHER_DEVICE: &str = "a genuine GPU, and none that your policy lists";
const OTHER_DEVICE_ADVICE: &str = "use a machine of your list; add this GPU only after its operator told you its identity another way than over this connection";
const NO_DRIVER: &str = "what the driver says of the GPU's mode is missing: developer mode could not be told from the real one";
const ASK_DRIVER: &str = "the operator runs this release's image, which asks the driver";
const NOT_ASKED: &str = "not presented: nobody asked the driver whether confidential computing is on and developer mode off; the report does not say it";
const MODE_OFF: &str = "confidential computing is off: the host can read what the GPU holds";
const TURN_ON: &str = "the operator sets the GPU's confidential-computing mode to `on` (not `devtools`), and protected PCIe to `off`, on the host and boots again";
const DEVELOPER: &str = "developer mode: debuggers and profilers can read everything";
const DEVELOPER_ACCEPTED: &str = "developer mode: debuggers and profilers can read everything; accepted because the policy says so";
const OTHER_PCIE: &str = "the driver says otherwise than the report that the GPU signed";
const PCIE: &str = "protected PCIe: what goes from GPU to GPU over NVLink is not encrypted, and nothing here judges the switches between them or whose the other GPUs are";
const OTHER_VERSION: &str = "the driver names another version than the report that the GPU signed";
