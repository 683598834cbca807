//! Where evidence comes from: the machine's TEE through configfs-tsm, or the host's simulator where
//! there is none.
//!
//! Architecture invariant: [`simulated::Simulated`] can be built only from [`NoTee`], which only
//! [`detect`] makes, after it has found that there is no TEE.

pub mod certificate_table;
pub mod layout;
pub mod simulated;
pub mod tsm;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use cocoon_protocol::binding::Tee as Kind;
use cocoon_protocol::bytes::{Hex48, Hex64};
use cocoon_protocol::document::Evidence;

use crate::control::ControlError;
use layout::LayoutError;

/// Something that produces evidence. Calls block, and come one at a time from the attester.
pub trait Tee: Send + Sync {
    /// Which TEE the evidence is of.
    fn kind(&self) -> Kind;
    /// Evidence over 64 bytes of report data.
    fn report(&self, data: &Hex64) -> Result<Evidence, TeeError>;
}

/// Why there is no evidence.
#[derive(Debug, thiserror::Error)]
pub enum TeeError {
    /// An attribute of configfs-tsm or a sysfs file failed.
    #[error("cannot {operation} {path}")]
    File {
        /// `read`, `write`, `create`.
        operation: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel knows a provider that we do not.
    #[error("configfs-tsm has the unknown provider {0:?}")]
    Provider(String),
    /// The processor says TDX or SNP, but there is no provider.
    #[error(
        "this machine is a TEE ({0}) but configfs-tsm has no provider: a kernel module is missing"
    )]
    NoProvider(&'static str),
    /// Somebody else used the report entry in between.
    #[error("report was made {0} generations away from ours: somebody else uses configfs-tsm")]
    Race(u64),
    /// Evidence is not in the format.
    #[error("evidence is malformed")]
    Layout(#[from] LayoutError),
    /// Evidence is of another TEE than asked for.
    #[error("evidence is of {found}, expected {expected}")]
    WrongTee {
        /// TEE of the evidence.
        found: Kind,
        /// TEE expected.
        expected: Kind,
    },
    /// Evidence is not over our report data.
    #[error("evidence is over other report data than asked for")]
    WrongReportData,
    /// TDREPORT failed.
    #[error(
        "cannot read the TD's own report from {}",
        crate::sys::tdx_report::DEVICE
    )]
    OwnReport(#[source] io::Error),
    /// The host's simulator did not answer.
    #[error("no simulated evidence")]
    Control(#[from] ControlError),
}

/// Proof that this machine is no TEE.
#[derive(Debug)]
pub struct NoTee(());

/// What the machine is.
pub enum Platform {
    /// A confidential VM.
    Hardware(tsm::Tsm),
    /// An ordinary VM.
    Plain(NoTee),
}

/// Finds out. Fails where the signs contradict each other.
pub fn detect() -> Result<Platform, TeeError> {
    if let Some(tsm) = tsm::Tsm::open()? {
        return Ok(Platform::Hardware(tsm));
    }
    // A host cannot talk a TEE into being simulated: such evidence ends in development roots. But
    // a missing driver is better told here than by every client.
    let flags = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    if flags
        .split_ascii_whitespace()
        .any(|flag| flag == "tdx_guest")
        || Path::new("/dev/tdx_guest").exists()
    {
        return Err(TeeError::NoProvider("TDX"));
    }
    if Path::new("/dev/sev-guest").exists() {
        return Err(TeeError::NoProvider("SEV-SNP"));
    }
    Ok(Platform::Plain(NoTee(())))
}

/// Checks that evidence is what was asked for: TEE and report data. Its signature is the verifier's business.
pub fn check_asked(evidence: &Evidence, expected: Kind, data: &Hex64) -> Result<Hex48, TeeError> {
    if evidence.tee() != expected {
        return Err(TeeError::WrongTee {
            found: evidence.tee(),
            expected,
        });
    }
    let fields = layout::read(evidence)?;
    if fields.report_data != *data {
        return Err(TeeError::WrongReportData);
    }
    Ok(fields.config)
}
