//! Arithmetic on the processor: what there is to do for it beside the library, which is little.

use std::sync::Arc;

use mistralrs::Device;
use mistralrs_core::{ModelDType, PagedAttentionConfig, Pipeline, Response};
use tokio::sync::{Mutex, mpsc};

use crate::backend::Gpu;

/// F32: the fastest on a CPU, and the library's own choice, F16, is not.
pub(super) const DTYPE: ModelDType = ModelDType::F32;

/// The processor, before and after a model is loaded.
pub(super) struct Hardware;

/// The library's responses to a generation, for as long as it runs.
pub(super) type Entered = mpsc::Receiver<Response>;

/// A result of NVIDIA's driver among the causes of a failure: there is no driver.
pub fn driver_result(_: &(dyn std::error::Error + 'static)) -> Option<u32> {
    None
}

impl Hardware {
    pub fn open() -> anyhow::Result<Self> {
        Ok(Self)
    }

    pub fn device(&self) -> Device {
        Device::Cpu
    }

    /// The library has paged attention for GPUs alone.
    pub fn paged_attention() -> anyhow::Result<Option<PagedAttentionConfig>> {
        Ok(None)
    }

    /// The model is in memory.
    pub async fn loaded(self, _: Arc<Mutex<dyn Pipeline>>) -> anyhow::Result<Self> {
        Ok(self)
    }

    /// The library has tried itself.
    pub async fn cleaned(self) -> anyhow::Result<Self> {
        Ok(self)
    }

    /// A generation begins.
    pub async fn enter(&self, responses: mpsc::Receiver<Response>) -> Entered {
        responses
    }

    pub fn gpu(&self) -> Option<&Gpu> {
        None
    }

    /// No generation runs any more.
    pub async fn close(&self) {}
}
