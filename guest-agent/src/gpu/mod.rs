//! GPUs: the agent counts them itself, verifies them before they may work, and holds them to their state at boot.
//!
//! | module | provides |
//! |---|---|
//! | [`wanted`] | the GPU setting of the measured command line, and the number of GPUs on the PCI bus |
//! | [`judge`] | the verification of GPU evidence, without I/O |
//! | [`gate`] | verified evidence at boot, for sessions, on a timer and on events; decides when serving ends |
//! | [`collector`] | evidence from the process that holds real GPUs |
//! | [`simulated`] | evidence from the host's simulator, on a machine that is no TEE |
//!
//! At boot the agent counts the GPUs, collects and verifies their evidence, lets them take work, and only then listens.
//! Evidence comes from a [`GpuSource`], which does not verify it.

pub mod collector;
pub mod gate;
pub mod judge;
pub mod simulated;
pub mod wanted;

use cocoon_protocol::bytes::Hex32;
use cocoon_protocol::gpu::{CollectedGpu, GpuMetrics};
use tokio::sync::watch;

pub use gate::{Gate, GateError};

/// Source of GPU evidence. Calls block. The [`Gate`] collects evidence one at a time.
pub trait GpuSource: Send + Sync {
    /// Returns the evidence of every GPU for `nonce`, in an order that never changes.
    ///
    /// # Errors
    /// At least one GPU gives no evidence.
    fn collect(&self, nonce: &Hex32) -> Result<Vec<CollectedGpu>, SourceError>;

    /// Lets the GPUs take work, or prevents them from it.
    ///
    /// # Errors
    /// The driver did not change the state.
    fn set_ready(&self, ready: bool) -> Result<(), SourceError>;

    /// Returns the usage of the GPUs, in the order of their evidence. Values that are unknown are absent. Blocks.
    ///
    /// # Errors
    /// No value is known.
    fn metrics(&self) -> Result<Vec<GpuMetrics>, SourceError>;

    /// Returns a channel with the latest state of the GPUs' events.
    fn events(&self) -> watch::Receiver<Happened>;
}

/// Events of the GPUs since they were attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Happened {
    /// No event.
    #[default]
    Nothing,
    /// Number of errors that the driver reported. After each, the GPUs must be verified again.
    Something(u64),
    /// The GPUs changed for good: one was lost or reset, or no process holds them any more. The reason contains no untrusted
    /// text.
    Ended(&'static str),
}

/// Why a source fails. The texts are the agent's own and contain no untrusted text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// A failure that a retry may resolve.
    #[error("{0}")]
    Failed(String),
    /// A GPU changed for the rest of this boot: it was lost, or confidential computing is off.
    #[error("{0}")]
    Final(String),
}
