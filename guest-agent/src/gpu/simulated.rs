//! Simulated GPUs, over the control channel, as the CPU's simulated evidence: on a machine that is no TEE, for an image
//! whose measured command line asks for them.

use std::time::Duration;

use cocoon_protocol::bytes::Hex32;
use cocoon_protocol::gpu::CollectedGpu;
use tokio::sync::watch;

use super::{GpuSource, Happened, SourceError};
use crate::control::Control;
use crate::tee::NoTee;

/// How long the host may take.
const DEADLINE: Duration = Duration::from_secs(60);

/// Imitated GPUs. Their evidence verifies only under development roots.
pub struct Simulated {
    control: Control,
    events: watch::Sender<Happened>,
}

impl Simulated {
    /// Imitates, on a machine that is proved to be no TEE.
    pub fn new(_proof: &NoTee, control: Control) -> Self {
        control.allow_simulated_evidence();
        Self {
            control,
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

    /// Nothing happens to them.
    fn events(&self) -> watch::Receiver<Happened> {
        self.events.subscribe()
    }
}
