//! Arithmetic on an NVIDIA GPU, and what becomes of a prompt there.
//!
//! candle's allocations, copies and frees pass `cocoon_kernels::interposed`, which keeps what is given back. Whenever no
//! generation runs, the pool of KV caches, cuBLAS's scratch memory and everything that was given back is overwritten and
//! counted; a generation that begins meanwhile waits for it, tens of milliseconds with a pool of tens of GB. mistral.rs
//! does not tell which blocks of the pool were whose, so that while others run a prompt stays in those that nobody uses.
//!
//! Weights are measured where they lie once they are loaded.

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

/// The library's responses to a generation, for as long as it runs.
pub(super) type Entered = rooms::Entered<Response>;

/// BF16: what the tensor cores compute with, and as wide a range as F32. Weights of a GGUF file stay as they are.
pub(super) const DTYPE: ModelDType = ModelDType::BF16;

/// Part of the GPU's memory for weights and KV caches; the rest is for activations, what is kept of them, and cuBLAS.
const SHARE: f32 = 0.85;

/// GPUs of an engine: [`Hardware::open`] takes no more, and no fewer.
const GPUS: u16 = 1;

/// The GPU before a model is loaded.
pub(super) struct Opened {
    device: Device,
    kernels: Kernels,
    /// Scratch memory of cuBLASLt, by address and bytes.
    scratch: Vec<(u64, u64)>,
}

/// The GPU with a model that was measured.
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
    /// The one GPU that there is. Errors where there are several, for the library would take them all and the agent
    /// demands that every GPU of the machine is accounted for, and where its memory is not watched.
    pub fn open() -> anyhow::Result<Opened> {
        let count = CudaContext::device_count().context(StartStep::Driver)?;
        ensure!(
            count == 1,
            anyhow!("{count} GPUs are here").context(StartStep::OneGpu)
        );
        let cubins = Cubins::embedded().context(StartStep::Kernels)?;
        // The primary context and its default stream: the ones that candle uses, too.
        let context = CudaContext::new(0).context(StartStep::Driver)?;
        let kernels = Kernels::on(context.default_stream(), &cubins).context(StartStep::Kernels)?;
        interposed::self_test(&kernels).context(StartStep::Watched)?;
        let device = Device::new_cuda(0).context(StartStep::Libraries)?;
        // The library would do it by itself, once: so its scratch memory is known.
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

    /// A generation begins, once no scrub runs.
    pub async fn enter(&self, responses: mpsc::Receiver<Response>) -> Entered {
        self.rooms.enter(responses).await
    }

    /// How long an answer with its prompt can be, and what it takes of the pool.
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

    /// As of [`rooms::Rooms`].
    pub async fn close(&self) {
        self.rooms.close().await;
    }
}

impl Opened {
    pub fn device(&self) -> Device {
        self.device.clone()
    }

    /// The model is in memory, and nothing was computed with it yet: measures it.
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
    /// The library has tried itself: scrubs what that has left, and the caches, whose memory may hold anything; from
    /// then on whenever nothing runs.
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

/// The `CUresult` of NVIDIA's driver, where `error` is one that it has given.
pub fn driver_result(error: &(dyn std::error::Error + 'static)) -> Option<u32> {
    error
        .downcast_ref::<DriverError>()
        .map(|error| error.0 as u32)
}

/// What was done to the memory of how many GPUs until now, if anything was: an engine that cannot start tells it, too.
pub fn counted() -> Option<(u16, GpuCounts)> {
    let counts = counts();
    (counts != GpuCounts::default()).then_some((GPUS, counts))
}

/// The table's counts in the protocol's words.
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
