//! An NVIDIA GPU as the engine's hardware, with scrubbing of what prompts leave in its memory.
//!
//! candle's allocations, copies and frees pass through `cocoon_kernels::interposed`, which keeps freed memory. When no
//! generation runs, the pool of KV caches, cuBLAS's workspace and all freed memory are overwritten and checked. A generation
//! that begins meanwhile waits: tens of milliseconds for a pool of tens of GB. mistral.rs does not tell which blocks of the
//! pool belong to which generation. While others run, a prompt therefore stays in blocks that are no longer used.
//!
//! Weights are measured in GPU memory once they are loaded.

mod memory;

use std::sync::Arc;

use anyhow::{Context as _, anyhow, ensure};
use candle_core::cuda_backend::cudarc::driver::{CudaContext, DriverError};
use cocoon_kernels::cubins::Cubins;
use cocoon_kernels::gpu::Gpu as Kernels;
use cocoon_kernels::interposed;
use cocoon_protocol::engine::{Costs, GpuCounts, StartStep, Weights};
use mistralrs::Device;
use mistralrs_core::{
    MemoryGpuConfig, ModelDType, PagedAttentionConfig, PagedCacheType, Pipeline, Response,
};
use mistralrs_quant::cublaslt::maybe_init_cublas_lt_wrapper;
use tokio::sync::{Mutex, mpsc, watch};

use crate::backend::Gpu;
use crate::pool::Pool;
use crate::rooms::{self, LINGER, Scrub as _};
use memory::Memory;

/// Receiver of the library's responses to a running generation.
pub(super) type Entered = rooms::Entered<Response>;

/// BF16, which tensor cores compute with, has the range of F32. Weights of a GGUF file keep their own format.
pub(super) const DTYPE: ModelDType = ModelDType::BF16;

/// Share of GPU memory for weights and KV caches. The rest is for activations, freed memory that is kept, and cuBLAS.
const SHARE: f32 = 0.85;

/// Number of GPUs of an engine: [`Hardware::open`] requires exactly one.
const GPUS: u16 = 1;

/// The GPU before a model is loaded.
pub(super) struct Opened {
    device: Device,
    kernels: Kernels,
    /// Address and length of cuBLASLt's workspace.
    scratch: Vec<(u64, u64)>,
}

/// The GPU with a model that was loaded and measured.
pub(super) struct Loaded {
    memory: Arc<Memory>,
    weights: Weights,
}

/// The GPU of an engine that serves.
pub(super) struct Hardware {
    gpu: Gpu,
    pool: Pool,
    rooms: rooms::Rooms<Memory, Response>,
}

impl Hardware {
    /// Opens the only GPU. Fails if there are several, because the library would use all of them while the agent demands that
    /// every GPU is accounted for. Also fails if the GPU's memory is not tracked.
    pub fn open() -> anyhow::Result<Opened> {
        let count = CudaContext::device_count().context(StartStep::Driver)?;
        ensure!(
            count == 1,
            anyhow!("{count} GPUs are here").context(StartStep::OneGpu)
        );
        let cubins = Cubins::embedded().context(StartStep::Kernels)?;
        // The primary context and its default stream, which candle uses too.
        let context = CudaContext::new(0).context(StartStep::Driver)?;
        let kernels = Kernels::on(context.default_stream(), &cubins).context(StartStep::Kernels)?;
        interposed::self_test(&kernels).context(StartStep::Watched)?;
        let device = Device::new_cuda(0).context(StartStep::Libraries)?;
        // The library would initialise this once by itself. Doing it here shows which memory is its workspace.
        let init = || maybe_init_cublas_lt_wrapper(device.clone());
        let ((), scratch) = interposed::scratch_of(init);
        ensure!(
            !scratch.is_empty(),
            anyhow!("cuBLASLt has no scratch memory, or hides it").context(StartStep::Libraries)
        );
        Ok(Opened {
            device,
            kernels,
            scratch,
        })
    }

    pub fn paged_attention() -> anyhow::Result<Option<PagedAttentionConfig>> {
        let memory = MemoryGpuConfig::Utilization(SHARE);
        let config = PagedAttentionConfig::new(None, memory, PagedCacheType::Auto)?;
        Ok(Some(config))
    }

    /// Registers a generation, once no scrub is running.
    pub async fn enter(&self, responses: mpsc::Receiver<Response>) -> Entered {
        self.rooms.enter(responses).await
    }

    /// Returns the most tokens of prompt and answer together, and the memory costs of an answer in the pool.
    pub fn room(
        &self,
        context: usize,
        _cached: usize,
        _width: usize,
    ) -> anyhow::Result<(u32, Costs)> {
        let room = self.pool.room(context);
        room.context("the GPU has no memory for an answer beside the model")
    }

    pub fn gpu(&self) -> Option<&Gpu> {
        Some(&self.gpu)
    }

    /// Waits for the last generations and scrubs, as [`rooms::Rooms::close`] does.
    pub async fn close(&self) {
        self.rooms.close().await;
    }
}

impl Opened {
    pub fn device(&self) -> Device {
        self.device.clone()
    }

    /// Measures the model. Called once it is in memory and before anything is computed with it.
    pub async fn loaded(self, pipeline: Arc<Mutex<dyn Pipeline>>) -> anyhow::Result<Loaded> {
        memory::check_caches(&pipeline)
            .await
            .context(StartStep::Model)?;
        let memory = Memory::new(self.kernels, &self.device, self.scratch, pipeline).await;
        let memory = Arc::new(memory.context(StartStep::Libraries)?);
        let measured = Arc::clone(&memory);
        let weights = tokio::task::spawn_blocking(move || measured.weights()).await?;
        let weights = weights.context(StartStep::Measured)?;
        Ok(Loaded { memory, weights })
    }
}

impl Loaded {
    /// Scrubs what the library's own test has left, and the caches, whose memory may hold anything. From then on memory is
    /// scrubbed whenever no generation runs.
    pub async fn cleaned(self) -> anyhow::Result<Hardware> {
        self.memory.scrub().await.context(StartStep::Scrubbed)?;
        let (told, counts) = watch::channel(self.memory.counts());
        let gpu = Gpu {
            devices: GPUS,
            weights: self.weights,
            counts,
        };
        let pool = self.memory.caches();
        let rooms = rooms::Rooms::new(self.memory, told, LINGER);
        Ok(Hardware { gpu, pool, rooms })
    }
}

/// Returns the `CUresult` of `error` if it is an error of NVIDIA's driver.
pub fn driver_result(error: &(dyn std::error::Error + 'static)) -> Option<u32> {
    error
        .downcast_ref::<DriverError>()
        .map(|error| error.0 as u32)
}

/// Returns the number of GPUs and the counters of their memory, if anything was counted. An engine that cannot start reports
/// them too.
pub fn counted() -> Option<(u16, GpuCounts)> {
    let counts = counts();
    (counts != GpuCounts::default()).then_some((GPUS, counts))
}

/// Returns the counters in the protocol's types.
fn counts() -> GpuCounts {
    let counts = interposed::counts();
    let crossings = |one: cocoon_kernels::ledger::Crossings| cocoon_protocol::engine::Crossings {
        bytes: one.bytes,
        calls: one.calls,
    };
    GpuCounts {
        to_device: crossings(counts.to_device),
        to_host: crossings(counts.to_host),
        scrubbed_bytes: counts.scrubbed_bytes,
        residue_bytes: counts.residue_bytes,
    }
}
