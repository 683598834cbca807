//! Simulated GPUs, over the control channel, as the CPU's simulated evidence: on a machine that is no TEE, for an image
//! whose measured command line asks for them.

use std::time::Duration;

use cocoon_protocol::bytes::Hex32;
use cocoon_protocol::gpu::{CollectedGpu, GpuMetrics};
use tokio::sync::watch;

use super::{GpuSource, Happened, SourceError};
use crate::control::Control;
use crate::tee::NoTee;

/// How long the host may take.
const DEADLINE: Duration = Duration::from_secs(60);

/// What an H100 tells that does nothing, as NVIDIA's tools show one with 80 GB: nothing computes on these.
const AT_REST: GpuMetrics = GpuMetrics {
    memory_bytes: Some(81_559 << 20),
    memory_used_bytes: Some(0),
    temperature_celsius: Some(30),
};

/// Imitated GPUs. Their evidence verifies only under development roots.
pub struct Simulated {
    control: Control,
    count: u16,
    events: watch::Sender<Happened>,
}

impl Simulated {
    /// Imitates so many, on a machine that is proved to be no TEE.
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

    /// Nothing computes on them.
    fn set_ready(&self, _ready: bool) -> Result<(), SourceError> {
        Ok(())
    }

    fn metrics(&self) -> Result<Vec<GpuMetrics>, SourceError> {
        Ok(vec![AT_REST; self.count.into()])
    }

    /// Nothing happens to them.
    fn events(&self) -> watch::Receiver<Happened> {
        self.events.subscribe()
    }
}
