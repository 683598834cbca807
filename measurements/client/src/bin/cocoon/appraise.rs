//! `cocoon appraise`: appraises evidence in files, offline: signatures, endorsements, the platform
//! under a policy, and the properties with which the guest was created.
//!
//! The guest's measurements are printed but not compared, because reference values come from
//! manifests. The measurements of a GPU are compared with NVIDIA's reference values.

mod appraisal;
mod nvidia;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use cocoon_client::trust::{development_roots, policy_file};
use cocoon_measurements::appraise::{snp_platform, tdx_platform};
use cocoon_measurements::policy::Policy;
use cocoon_measurements::roots::TrustRoot;
use cocoon_measurements::snp::report::{self, SnpChain, certificates_from_pem};
use cocoon_measurements::tdx::quote;
use cocoon_measurements::tdx::tcb::{TcbPolicy, TcbStatus};

use crate::Outcome;
use appraisal::Appraisal;

/// Largest file, in bytes.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// Appraise evidence in files, offline
#[derive(clap::Subcommand)]
pub enum Appraise {
    /// Appraise a TDX quote with its collateral
    Tdx(Tdx),
    /// Appraise an SEV-SNP report with its certificates
    Snp(Snp),
    /// Appraise reports of NVIDIA GPUs (Hopper) with certificates, reference manifests and OCSP responses
    Nvidia(nvidia::Nvidia),
}

#[derive(clap::Args)]
struct Common {
    /// Time to appraise at, in seconds since 1970
    #[arg(long, value_name = "SECONDS")]
    time: u64,
    /// Policy file for the platform: TCB level, machine, revocation, ages [default: the safe defaults]
    ///
    /// The signers in it do not matter.
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Development root to accept; evidence under it is SIMULATED
    ///
    /// For TDX and SNP it replaces the vendor's root.
    #[arg(long, value_name = "PEM")]
    trust_root: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
pub struct Tdx {
    /// Quote, binary
    #[arg(long, value_name = "FILE")]
    quote: PathBuf,
    /// Intel's collateral, JSON
    #[arg(long, value_name = "FILE")]
    collateral: PathBuf,
    /// TCB status to accept, by Intel's name (repeatable) [default: the policy's]
    #[arg(long = "accept-status", value_name = "STATUS")]
    statuses: Vec<TcbStatus>,
    /// Intel advisory to accept although it applies (repeatable)
    #[arg(long = "accept-advisory", value_name = "INTEL-SA-…")]
    advisories: Vec<String>,
    #[command(flatten)]
    common: Common,
}

#[derive(clap::Args)]
pub struct Snp {
    /// Report, binary
    #[arg(long, value_name = "FILE")]
    report: PathBuf,
    /// VCEK or VLEK, then ASK, as PEM or DER; one PEM file may hold both
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    certs: Vec<PathBuf>,
    /// Revocation list of AMD's root, DER; without it, the report is rejected
    #[arg(long, value_name = "FILE")]
    crl: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
}

pub fn run(appraise: &Appraise) -> anyhow::Result<Outcome> {
    let (common, appraisal) = match appraise {
        Appraise::Tdx(args) => (&args.common, tdx(args)?),
        Appraise::Snp(args) => (&args.common, snp(args)?),
        Appraise::Nvidia(args) => (&args.common, nvidia::appraise(args)?),
    };
    appraisal.show(common.policy.is_some(), common.json)?;
    Ok(if appraisal.is_rejected() {
        Outcome::Rejected
    } else {
        Outcome::Done
    })
}

/// Returns the policy of the policy file, or the default policy, which is the safe one.
fn policy(common: &Common) -> anyhow::Result<Policy> {
    let named = common.policy.as_deref().map(policy_file).transpose()?;
    Ok(named.unwrap_or_default())
}

fn tdx(args: &Tdx) -> anyhow::Result<Appraisal> {
    let (bytes, collateral) = (read(&args.quote)?, read(&args.collateral)?);
    let mut policy = policy(&args.common)?;
    if !args.statuses.is_empty() {
        policy.accepted_tcb_statuses.clone_from(&args.statuses);
    }
    policy.accepted_advisories.extend(args.advisories.clone());
    let claims = match quote::verify(
        &bytes,
        &collateral,
        &root(&args.common)?,
        // The TCB level is appraised below, by the policy together with the flags.
        &TcbPolicy::judged_by_caller(),
        args.common.time,
    ) {
        Ok(claims) => claims,
        Err(error) => return Ok(Appraisal::unverified(&error)),
    };
    let [rtmr0, rtmr1, rtmr2, rtmr3] = claims.rtmr.map(hex::encode);
    let rows = vec![
        ("mrtd", hex::encode(claims.mrtd)),
        ("rtmr0", rtmr0),
        ("rtmr1", rtmr1),
        ("rtmr2", rtmr2),
        ("rtmr3", rtmr3),
        ("mrconfigid", hex::encode(claims.mrconfigid)),
        ("mrowner", hex::encode(claims.mrowner)),
        ("mrownerconfig", hex::encode(claims.mrownerconfig)),
        ("report_data", hex::encode(claims.report_data)),
        ("td_attributes", hex::encode(claims.td_attributes)),
        ("xfam", hex::encode(claims.xfam)),
        ("mrseam", hex::encode(claims.mrseam)),
        ("tcb_status", claims.tcb_status.to_string()),
        ("advisories", claims.advisories.join(", ")),
        ("fmspc", hex::encode(claims.fmspc)),
        ("ppid", hex::encode(&claims.ppid)),
    ];
    let checks = tdx_platform(&claims, &policy, args.common.time);
    Ok(Appraisal::verified(claims.root, rows, checks))
}

fn snp(args: &Snp) -> anyhow::Result<Appraisal> {
    let bytes = read(&args.report)?;
    let mut certificates = Vec::new();
    for path in &args.certs {
        let file = read(path)?;
        match certificates_from_pem(&file) {
            Ok(found) if !found.is_empty() => certificates.extend(found),
            // Not PEM, so it is DER; if it is neither, the check of the chain reports it.
            _ => certificates.push(file),
        }
    }
    let [vek, intermediate, ..] = certificates.as_slice() else {
        bail!(
            "--certs names {} certificate: the VCEK or VLEK and the ASK are needed",
            certificates.len()
        );
    };
    let crl = args.crl.as_deref().map(read).transpose()?;
    let chain_below = SnpChain {
        vek,
        intermediate,
        crl: crl.as_deref(),
    };
    let claims = match report::verify(&bytes, &chain_below, &root(&args.common)?, args.common.time)
    {
        Ok(claims) => claims,
        Err(error) => return Ok(Appraisal::unverified(&error)),
    };
    let rows = vec![
        ("measurement", hex::encode(claims.measurement)),
        ("report_data", hex::encode(claims.report_data)),
        ("host_data", hex::encode(claims.host_data)),
        ("policy", format!("{:#x}", claims.policy)),
        ("platform_info", format!("{:#x}", claims.platform_info)),
        ("chip_id", hex::encode(claims.chip_id)),
        ("reported_tcb", format!("{:?}", claims.reported_tcb)),
        ("revocation", format!("{:?}", claims.revocation)),
    ];
    let checks = snp_platform(&claims, &policy(&args.common)?, args.common.time);
    Ok(Appraisal::verified(claims.root, rows, checks))
}

fn root(common: &Common) -> anyhow::Result<TrustRoot> {
    let Some(path) = &common.trust_root else {
        return Ok(TrustRoot::Vendor);
    };
    let unusable = || format!("{} is not usable as --trust-root", path.display());
    let roots = development_roots(&read(path)?).with_context(unusable)?;
    let [root] = roots.as_slice() else {
        bail!(
            "{} holds {} certificates, one root is needed",
            path.display(),
            roots.len()
        );
    };
    TrustRoot::development(root).with_context(unusable)
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let context = || format!("cannot read {}", path.display());
    let length = std::fs::metadata(path).with_context(context)?.len();
    if length > MAX_FILE {
        bail!(
            "{} has {length} bytes, more than any evidence",
            path.display()
        );
    }
    std::fs::read(path).with_context(context)
}
