//! Arithmetic on the processor: what there is to do for it beside the library, which is little.

use std::sync::Arc;

use cocoon_protocol::engine::{Costs, GpuCounts};
use mistralrs::Device;
use mistralrs_core::{ModelDType, PagedAttentionConfig, Pipeline, Response};
use tokio::sync::{Mutex, mpsc};

use crate::backend::Gpu;

/// F32: the fastest on a CPU, and the library's own choice, F16, is not.
pub(super) const DTYPE: ModelDType = ModelDType::F32;

/// Bytes of a number.
const NUMBER: usize = 4;
/// KV caches at once: where one more answer joins those that are computed together, their caches are copied.
const COPIES: usize = 2;
/// Tokens by which the library's caches grow.
const STEP: u32 = 512;
/// Vectors of the model's width that each token of a prompt has at once while a layer is computed, amply: the residual, the
/// norm, queries, and three of the widest layer.
const VECTORS: usize = 16;
/// Bytes of the mask of attention for each pair of tokens: it is made of bytes, twice, and then of numbers.
const PAIR: u32 = 6;

/// The processor, before and after a model is loaded.
pub(super) struct Hardware;

/// The library's responses to a generation, for as long as it runs.
pub(super) type Entered = mpsc::Receiver<Response>;

/// A result of NVIDIA's driver among the causes of a failure: there is no driver.
pub fn driver_result(_: &(dyn std::error::Error + 'static)) -> Option<u32> {
    None
}

/// What was done to GPUs' memory, and of how many: there is none.
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

    /// The model's context, and what an answer takes of memory, by the elements of its KV cache for each token and the model's
    /// width.
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

    /// No generation runs any more.
    pub async fn close(&self) {}
}
