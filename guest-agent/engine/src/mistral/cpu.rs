//! The processor as the engine's hardware. Most functions do nothing here and have counterparts for a GPU.

use std::sync::Arc;

use cocoon_protocol::engine::{Costs, GpuCounts};
use mistralrs::Device;
use mistralrs_core::{ModelDType, PagedAttentionConfig, Pipeline, Response};
use tokio::sync::{Mutex, mpsc};

use crate::backend::Gpu;

/// F32 is fastest on a CPU. The library's own choice is F16, which is slower.
pub(super) const DTYPE: ModelDType = ModelDType::F32;

/// Bytes of an F32 number.
const NUMBER: usize = 4;
/// Copies of a KV cache that exist at once: caches are copied when an answer joins those that are computed together.
const COPIES: usize = 2;
/// Number of tokens by which the library's KV caches grow.
const STEP: u32 = 512;
/// Generous number of vectors of the model's width that each token of a prompt needs while a layer is computed: the residual,
/// the norm, queries, and three of the widest layer.
const VECTORS: usize = 16;
/// Bytes of the attention mask for each pair of tokens: two masks of bytes, then one of F32 numbers.
const PAIR: u32 = 6;

/// The processor, before and after a model is loaded.
pub(super) struct Hardware;

/// Receiver of the library's responses to a running generation.
pub(super) type Entered = mpsc::Receiver<Response>;

/// Returns the `CUresult` among the causes of a failure: none, because there is no driver.
pub fn driver_result(_: &(dyn std::error::Error + 'static)) -> Option<u32> {
    None
}

/// Returns the number of GPUs and counters of their memory: none.
pub fn counted() -> Option<(u16, GpuCounts)> {
    None
}

impl Hardware {
    pub fn open() -> anyhow::Result<Self> {
        Ok(Self)
    }

    pub fn device(&self) -> Device {
        Device::Cpu
    }

    /// Returns no configuration, because the library has paged attention for GPUs only.
    pub fn paged_attention() -> anyhow::Result<Option<PagedAttentionConfig>> {
        Ok(None)
    }

    /// Called once the model is in memory.
    pub async fn loaded(self, _: Arc<Mutex<dyn Pipeline>>) -> anyhow::Result<Self> {
        Ok(self)
    }

    /// Called once the library has run its own test.
    pub async fn cleaned(self) -> anyhow::Result<Self> {
        Ok(self)
    }

    /// Called when a generation begins.
    pub async fn enter(&self, responses: mpsc::Receiver<Response>) -> Entered {
        responses
    }

    /// Returns the context length and the memory costs of an answer. `cached` is the number of KV cache elements per token and
    /// `width` the model's width.
    pub fn room(
        &self,
        context: usize,
        cached: usize,
        width: usize,
    ) -> anyhow::Result<(u32, Costs)> {
        let bytes = |count: usize| u32::try_from(count.saturating_mul(NUMBER)).unwrap_or(u32::MAX);
        let costs = Costs {
            token: bytes(cached.saturating_mul(COPIES)),
            step: STEP,
            prompt: bytes(width.saturating_mul(VECTORS)),
            pair: PAIR,
            pool: None,
        };
        Ok((u32::try_from(context).unwrap_or(u32::MAX), costs))
    }

    pub fn gpu(&self) -> Option<&Gpu> {
        None
    }

    /// Called when no generation will run any more.
    pub async fn close(&self) {}
}
