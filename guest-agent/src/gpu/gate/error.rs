//! Errors of the gate: why GPUs may not work, or may no longer work.

use std::sync::Arc;

use super::super::SourceError;
use super::super::judge::Refused;
use super::super::wanted::WantedError;

/// Why GPUs may not work, or may no longer work. The messages contain no untrusted text. The causes may, and are reported
/// only before the guest serves.
#[derive(Clone, Debug, thiserror::Error)]
pub enum GateError {
    /// The GPUs cannot be counted.
    #[error("cannot count the GPUs")]
    Count(#[source] Arc<WantedError>),
    /// The machine has no GPU.
    #[error("this image works on a GPU, and the machine has none: pass one through to the VM")]
    NoGpu,
    /// The source returns no evidence.
    #[error("there is no evidence of the GPUs")]
    Source(#[source] SourceError),
    /// The driver does not let the GPUs take work.
    #[error("the GPUs do not take work")]
    Ready(#[source] SourceError),
    /// The GPUs' evidence does not verify.
    #[error("the evidence of the GPUs was refused by {}", .0.ids().join(", "))]
    Refused(#[source] Refused),
    /// The GPUs' evidence verifies except that an OCSP response from NVIDIA is absent or expired.
    #[error(
        "an answer of NVIDIA's about the GPUs is absent or over its time, and the host has to fetch it (`cocoon-host \
         collateral`): {}", .0.ids().join(", ")
    )]
    Lapsed(#[source] Refused),
    /// The number of GPUs changed since boot.
    #[error(
        "the guest counts {now} GPUs, and counted {before} at boot: boot again with those that it shall have"
    )]
    Number {
        /// Number of GPUs at boot.
        before: usize,
        /// Number of GPUs now.
        now: usize,
    },
    /// The engine does not use exactly the verified GPUs.
    #[error(
        "the engine works on {engine} GPUs, and the guest counts {counted}: boot again; if that does not help, this image's \
         engine does not fit this machine"
    )]
    Engine {
        /// Number of GPUs that the engine reports.
        engine: usize,
        /// Number of verified GPUs that it must use.
        counted: usize,
    },
    /// The GPUs changed for good, for this reason.
    #[error("the GPUs are not what they were: {0}")]
    Ended(&'static str),
    /// No random bytes for a nonce are available.
    #[error("cannot draw a nonce for the GPUs")]
    Random,
}
