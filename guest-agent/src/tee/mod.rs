//! Where evidence comes from: the machine's TEE through configfs-tsm, or the host's simulator where
//! there is none.
//!
//! Architecture invariant: [`simulated::Simulated`] can be built only from [`NoTee`], which only
//! [`detect()`] makes, after it has found no sign of a TEE.

pub mod certificate_table;
pub mod detect;
pub mod layout;
pub mod simulated;
pub mod tsm;

use std::io;
use std::path::PathBuf;

use cocoon_protocol::binding::Tee as Kind;
use cocoon_protocol::bytes::{Hex48, Hex64};
use cocoon_protocol::document::Evidence;

use crate::control::ControlError;
pub use detect::{NoTee, Platform, detect};
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
        /// `read`, `write`, `create`, `look for`.
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
    /// The machine says TDX or SNP, but there is no provider. Simulating here would hide what it is.
    #[error(
        "this machine is a TEE ({tee}, by {sign}) but configfs-tsm has no provider: its guest driver is missing or did not bind"
    )]
    NoProvider {
        /// Which TEE.
        tee: &'static str,
        /// What says so.
        sign: &'static str,
    },
    /// SEV before SNP.
    #[error(
        "this machine runs under SEV or SEV-ES (by {0}), which cannot attest: launch it with SEV-SNP"
    )]
    OldSev(&'static str),
    /// Two vendors at once.
    #[error("{one} and {other} speak for different TEEs: the host lies about one of them")]
    Contradiction {
        /// One sign.
        one: &'static str,
        /// Another.
        other: &'static str,
    },
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
