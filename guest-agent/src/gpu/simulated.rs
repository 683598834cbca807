//! Simulated GPUs: evidence from the host's simulator over the control channel. Available only on a machine that is no TEE,
//! for an image whose measured command line requests it.

use std::time::Duration;

use cocoon_protocol::bytes::Hex32;
use cocoon_protocol::gpu::{CollectedGpu, GpuMetrics};
use tokio::sync::watch;

use super::{GpuSource, Happened, SourceError};
use crate::control::Control;
use crate::tee::NoTee;

/// How long the host may take to answer.
const DEADLINE: Duration = Duration::from_secs(60);

/// Metrics of an idle H100 with 80 GB as NVIDIA's tools report them, because nothing is computed on simulated GPUs.
const AT_REST: GpuMetrics = GpuMetrics {
    memory_bytes: Some(81_559 << 20),
    memory_used_bytes: Some(0),
    temperature_celsius: Some(30),
};

/// Simulated GPUs. Their evidence verifies only under development roots.
pub struct Simulated {
    control: Control,
    count: u16,
    events: watch::Sender<Happened>,
}

impl Simulated {
    /// Simulates `count` GPUs, given the proof that this machine is no TEE.
    pub fn new(_proof: &NoTee, control: Control, count: u16) -> Self {
        control.allow_simulated_evidence();
        Self {
            control,
            count,
            events: watch::Sender::default(),
        }
    }
}

impl GpuSource for Simulated {
    fn collect(&self, nonce: &Hex32) -> Result<Vec<CollectedGpu>, SourceError> {
        self.control
            .simulated_gpus(nonce, DEADLINE)
            .map_err(|error| SourceError::Failed(error.to_string()))
    }

    /// Does nothing, because simulated GPUs compute nothing.
    fn set_ready(&self, _ready: bool) -> Result<(), SourceError> {
        Ok(())
    }

    fn metrics(&self) -> Result<Vec<GpuMetrics>, SourceError> {
        Ok(vec![AT_REST; self.count.into()])
    }

    /// Returns a channel that never changes.
    fn events(&self) -> watch::Receiver<Happened> {
        self.events.subscribe()
    }
}
