//! Sources of evidence: the machine's TEE through configfs-tsm, or the host's simulator if there is no TEE.
//!
//! Invariant: [`simulated::Simulated`] can be built only from [`NoTee`], which only [`detect()`] creates, after it found no
//! sign of a TEE.

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

/// Source of evidence. Calls block, and the attester makes them one at a time.
pub trait Tee: Send + Sync {
    /// Returns the TEE whose evidence this source produces.
    fn kind(&self) -> Kind;
    /// Returns evidence over 64 bytes of report data.
    fn report(&self, data: &Hex64) -> Result<Evidence, TeeError>;
}

/// Why there is no valid evidence.
#[derive(Debug, thiserror::Error)]
pub enum TeeError {
    /// An operation on configfs-tsm, sysfs or another file failed.
    #[error("cannot {operation} {path}")]
    File {
        /// Failed operation: `read`, `write`, `create` or `look for`.
        operation: &'static str,
        /// Path of the file.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// configfs-tsm has a provider that this agent does not support.
    #[error("configfs-tsm has the unknown provider {0:?}")]
    Provider(String),
    /// The machine shows signs of TDX or SNP but has no provider. Simulating a TEE here would hide the real one.
    #[error(
        "this machine is a TEE ({tee}, by {sign}) but configfs-tsm has no provider: its guest driver is missing or did not bind"
    )]
    NoProvider {
        /// Name of the TEE.
        tee: &'static str,
        /// Sign of the TEE.
        sign: &'static str,
    },
    /// The machine runs under SEV or SEV-ES, which cannot attest.
    #[error(
        "this machine runs under SEV or SEV-ES (by {0}), which cannot attest: launch it with SEV-SNP"
    )]
    OldSev(&'static str),
    /// Signs of different TEEs were found.
    #[error("{one} and {other} speak for different TEEs: the host lies about one of them")]
    Contradiction {
        /// First sign.
        one: &'static str,
        /// Second sign, or the provider.
        other: &'static str,
    },
    /// Another process used the report entry at the same time.
    #[error("report was made {0} generations away from ours: somebody else uses configfs-tsm")]
    Race(u64),
    /// The evidence is malformed.
    #[error("evidence is malformed")]
    Layout(#[from] LayoutError),
    /// The evidence is from another TEE than expected.
    #[error("evidence is of {found}, expected {expected}")]
    WrongTee {
        /// TEE of the evidence.
        found: Kind,
        /// Expected TEE.
        expected: Kind,
    },
    /// The evidence contains other report data than requested.
    #[error("evidence is over other report data than asked for")]
    WrongReportData,
    /// The TD's own report could not be read.
    #[error(
        "cannot read the TD's own report from {}",
        crate::sys::tdx_report::DEVICE
    )]
    OwnReport(#[source] io::Error),
    /// The host's simulator returned no evidence.
    #[error("no simulated evidence")]
    Control(#[from] ControlError),
}

/// Checks the TEE and the report data of evidence and returns the configuration digest that the launch measured. Verifiers
/// check the signature.
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
