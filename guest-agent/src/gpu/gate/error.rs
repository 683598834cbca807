//! Why GPUs may not work, or not any more.

use std::sync::Arc;

use super::super::SourceError;
use super::super::judge::Refused;
use super::super::wanted::WantedError;

/// Why GPUs may not work, or not any more. The texts hold nothing foreign; causes, told before a guest serves, may.
#[derive(Clone, Debug, thiserror::Error)]
pub enum GateError {
    /// They cannot be counted.
    #[error("cannot count the GPUs")]
    Count(#[source] Arc<WantedError>),
    /// There is none.
    #[error("this image works on a GPU, and the machine has none: pass one through to the VM")]
    NoGpu,
    /// The source gives no evidence.
    #[error("there is no evidence of the GPUs")]
    Source(#[source] SourceError),
    /// The driver does not let them work.
    #[error("the GPUs do not take work")]
    Ready(#[source] SourceError),
    /// Their evidence is not what it must be.
    #[error("the evidence of the GPUs was refused by {}", .0.ids().join(", "))]
    Refused(#[source] Refused),
    /// Their evidence is what it must be, and NVIDIA's word on it is absent or over its time.
    #[error(
        "an answer of NVIDIA's about the GPUs is absent or over its time, and the host has to fetch it (`cocoon-host \
         collateral`): {}", .0.ids().join(", ")
    )]
    Lapsed(#[source] Refused),
    /// One came or went.
    #[error(
        "the guest counts {now} GPUs, and counted {before} at boot: boot again with those that it shall have"
    )]
    Number {
        /// At boot.
        before: usize,
        /// Now.
        now: usize,
    },
    /// The engine works on others than those that are proven.
    #[error(
        "the engine works on {engine} GPUs, and the guest counts {counted}: boot again; if that does not help, this image's \
         engine does not fit this machine"
    )]
    Engine {
        /// As the engine says.
        engine: usize,
        /// On the PCI bus.
        counted: usize,
    },
    /// They are not what they were.
    #[error("the GPUs are not what they were: {0}")]
    Ended(&'static str),
    /// No random bytes for a question.
    #[error("cannot draw a nonce for the GPUs")]
    Random,
}
