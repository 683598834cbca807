//! `cocoon appraise nvidia`: appraises reports of GPUs with certificates, reference manifests and
//! OCSP responses in files.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use cocoon_client::trust::development_roots;
use cocoon_measurements::nvidia::{self, Gpu, GpuCollateral, GpuDemand, GpuEvidence};
use cocoon_protocol::bytes::Hex32;

use super::{Common, appraisal::Appraisal, policy, read};

#[derive(clap::Args)]
pub struct Nvidia {
    /// Report, binary or in hexadecimal digits; one for each GPU
    #[arg(long = "report", value_name = "FILE", num_args = 1.., required = true)]
    reports: Vec<PathBuf>,
    /// Five certificates of the GPU, PEM, that of the attestation key first; one file for each GPU, in the order of the reports
    #[arg(long = "chain", value_name = "FILE", num_args = 1.., required = true)]
    chains: Vec<PathBuf>,
    /// NVIDIA's reference manifests (RIMs) of the driver and of the VBIOS
    ///
    /// Without them, the report is rejected, and the verdict names those that are missing.
    #[arg(long = "rim", value_name = "FILE", num_args = 1..)]
    rims: Vec<PathBuf>,
    /// OCSP responses, DER, for every certificate except roots and attestation keys
    ///
    /// Without them, the report is rejected unless the policy accepts that.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    ocsp: Vec<PathBuf>,
    /// Nonce that the report must contain, 32 bytes in hexadecimal digits
    #[arg(long, value_name = "HEX")]
    nonce: Hex32,
    #[command(flatten)]
    pub(super) common: Common,
}

/// Appraises the evidence. The driver's own statement about the GPU's mode is missing offline, and
/// one check says so.
pub fn appraise(args: &Nvidia) -> anyhow::Result<Appraisal> {
    if args.reports.len() != args.chains.len() {
        bail!(
            "{} reports and {} certificate chains: each report needs one --chain",
            args.reports.len(),
            args.chains.len()
        );
    }
    let mut policy = policy(&args.common)?;
    if let Some(path) = &args.common.trust_root {
        let unusable = || format!("{} is not usable as --trust-root", path.display());
        policy.development_roots = development_roots(&read(path)?).with_context(unusable)?;
    }
    let reports: Vec<Vec<u8>> = args
        .reports
        .iter()
        .map(|path| report(path))
        .collect::<Result<_, _>>()?;
    let (chains, rims, ocsp) = (all(&args.chains)?, all(&args.rims)?, all(&args.ocsp)?);
    let evidence: Vec<GpuEvidence<'_>> = reports
        .iter()
        .zip(&chains)
        .map(|(report, chain)| GpuEvidence {
            report,
            chain,
            driver: None,
        })
        .collect();
    let (rims, ocsp) = (slices(&rims), slices(&ocsp));
    let collateral = GpuCollateral {
        rims: &rims,
        ocsp: &ocsp,
    };
    let demand = GpuDemand {
        nonce: args.nonce.0,
        count: Some(reports.len()),
        driver_state: false,
    };
    let judged = nvidia::appraise(&evidence, &collateral, &demand, &policy, args.common.time);
    let each = |field: fn(&Gpu) -> String| {
        let values: Vec<String> = judged.gpus.iter().map(field).collect();
        values.join(", ")
    };
    let rows = vec![
        ("device", each(|gpu| gpu.device.to_string())),
        (
            "attestation_key",
            each(|gpu| gpu.attestation_key.to_string()),
        ),
        ("driver_version", each(|gpu| gpu.driver_version.clone())),
        ("vbios_version", each(|gpu| gpu.vbios_version.clone())),
        ("driver_rim", each(|gpu| gpu.driver_rim.clone())),
        ("vbios_rim", each(|gpu| gpu.vbios_rim.clone())),
    ];
    Ok(Appraisal::compared(judged.root, rows, judged.checks))
}

/// Reads a report, binary or in hexadecimal digits. A binary report begins with SPDM's version,
/// 0x11, which is not a digit.
fn report(path: &Path) -> anyhow::Result<Vec<u8>> {
    let file = read(path)?;
    let digits = file.trim_ascii();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Ok(file);
    }
    hex::decode(digits).with_context(|| {
        format!(
            "{} is not whole bytes in hexadecimal digits",
            path.display()
        )
    })
}

fn all(paths: &[PathBuf]) -> anyhow::Result<Vec<Vec<u8>>> {
    paths.iter().map(|path| read(path)).collect()
}

fn slices(files: &[Vec<u8>]) -> Vec<&[u8]> {
    files.iter().map(Vec::as_slice).collect()
}
