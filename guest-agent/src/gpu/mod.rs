//! GPUs: counted by the agent itself, verified before they may work, and held to what they were at boot.
//!
//! | module | does |
//! |---|---|
//! | [`wanted`] | reads from the measured command line whether this image has GPUs, and counts them on the PCI bus |
//! | [`judge`] | the decision: is this evidence what this guest's GPUs must show now; pure |
//! | [`gate`] | evidence for boot and sessions through that decision, again on a timer and on events; what ends serving |
//! | [`collector`] | evidence from the process that holds real GPUs |
//! | [`simulated`] | evidence of the host's simulator, on a machine that is no TEE |
//!
//! Order of a boot: count, collect, verify, only then let the GPUs take work, only then listen. Where evidence comes from is
//! a [`GpuSource`]; nothing behind it judges.

pub mod collector;
pub mod gate;
pub mod judge;
pub mod simulated;
pub mod wanted;

use cocoon_protocol::bytes::Hex32;
use cocoon_protocol::gpu::{CollectedGpu, GpuMetrics};
use tokio::sync::watch;

pub use gate::{Gate, GateError};

/// Where evidence of GPUs comes from. Calls block, and come one at a time from the [`Gate`].
pub trait GpuSource: Send + Sync {
    /// What every GPU shows for `nonce`, in an order that stays the same.
    ///
    /// # Errors
    /// There is no evidence of one of them.
    fn collect(&self, nonce: &Hex32) -> Result<Vec<CollectedGpu>, SourceError>;

    /// Lets the GPUs take work, or keeps them from it.
    ///
    /// # Errors
    /// The driver did not do it.
    fn set_ready(&self, ready: bool) -> Result<(), SourceError>;

    /// How the GPUs are used, in the order of their evidence. Blocks. What is not known is absent.
    ///
    /// # Errors
    /// Nothing is known at all.
    fn metrics(&self) -> Result<Vec<GpuMetrics>, SourceError>;

    /// What happened to the GPUs since.
    fn events(&self) -> watch::Receiver<Happened>;
}

/// What a source has heard of its GPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Happened {
    /// Nothing.
    #[default]
    Nothing,
    /// Something, so many times, after which they have to prove themselves again: an error that the driver reports.
    Something(u64),
    /// Something after which they are not what they were: lost, reset, or nobody holds them. In our own words.
    Ended(&'static str),
}

/// Why a source gives nothing. In our own words: never foreign text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// Not this time: asked again, it may.
    #[error("{0}")]
    Failed(String),
    /// A GPU is not what it was, and will not be again before this machine ends: lost, or without confidential computing.
    #[error("{0}")]
    Final(String),
}
