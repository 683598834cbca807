//! Arithmetic on an NVIDIA GPU, and what becomes of a prompt there.
//!
//! candle's allocations, copies and frees pass `cocoon_kernels::interposed`, which keeps what is given back. Whenever no
//! generation runs, the pool of KV caches, cuBLAS's scratch memory and everything that was given back is overwritten and
//! counted; a generation that begins meanwhile waits for it, tens of milliseconds with a pool of tens of GB. mistral.rs
//! does not tell which blocks of the pool were whose, so that while others run a prompt stays in those that nobody uses.
//!
//! Weights are measured where they lie once they are loaded.

mod memory;
mod rooms;

use std::sync::Arc;

use anyhow::{Context as _, ensure};
use candle_core::cuda_backend::cudarc::driver::CudaContext;
use cocoon_kernels::cubins::Cubins;
use cocoon_kernels::gpu::Gpu as Kernels;
use cocoon_kernels::interposed;
use cocoon_protocol::engine::{GpuCounts, Weights};
use mistralrs::Device;
use mistralrs_core::{
    MemoryGpuConfig, ModelDType, PagedAttentionConfig, PagedCacheType, Pipeline, Response,
};
use mistralrs_quant::cublaslt::maybe_init_cublas_lt_wrapper;
use tokio::sync::{Mutex, mpsc, watch};

use crate::backend::Gpu;
use memory::Memory;
pub(super) use rooms::Entered;
use rooms::Rooms;

/// BF16: what the tensor cores compute with, and as wide a range as F32. Weights of a GGUF file stay as they are.
pub(super) const DTYPE: ModelDType = ModelDType::BF16;

/// Part of the GPU's memory for weights and KV caches; the rest is for activations, what is kept of them, and cuBLAS.
const SHARE: f32 = 0.85;

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
    rooms: Rooms,
}

impl Hardware {
    /// The one GPU that there is. Errors where there are several, for the library would take them all and the agent
    /// demands that every GPU of the machine is accounted for, and where its memory is not watched.
    pub fn open() -> anyhow::Result<Opened> {
        let count = CudaContext::device_count().context("cannot ask the driver for GPUs")?;
        ensure!(
            count == 1,
            "{count} GPUs are here, and this engine works on one: give the machine one"
        );
        let cubins = Cubins::embedded()?;
        // The primary context and its default stream: the ones that candle uses, too.
        let context = CudaContext::new(0).context("cannot open the GPU")?;
        let kernels = Kernels::on(context.default_stream(), &cubins)
            .context("the GPU does not take the kernels")?;
        interposed::self_test(&kernels).context("nothing may be served on this GPU")?;
        let device = Device::new_cuda(0).context("cannot open the GPU for the library")?;
        // The library would do it by itself, once: so its scratch memory is known.
        let init = || maybe_init_cublas_lt_wrapper(device.clone());
        let ((), scratch) = interposed::scratch_of(init);
        ensure!(
            !scratch.is_empty(),
            "cuBLASLt has no scratch memory, or hides it: this engine does not fit its libraries"
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

    pub fn gpu(&self) -> Option<&Gpu> {
        Some(&self.gpu)
    }

    /// No generation is started any more: waits for the last ones and scrubs what they have left.
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
        let memory = Memory::new(self.kernels, &self.device, self.scratch, pipeline).await?;
        let memory = Arc::new(memory);
        let measured = Arc::clone(&memory);
        let weights = tokio::task::spawn_blocking(move || measured.weights()).await??;
        Ok(Loaded { memory, weights })
    }
}

impl Loaded {
    /// The library has tried itself: scrubs what that has left, and the caches, whose memory may hold anything; from
    /// then on whenever nothing runs.
    pub async fn cleaned(self) -> anyhow::Result<Hardware> {
        self.memory.scrub().await?;
        let (told, counts) = watch::channel(GpuCounts::from_table());
        let gpu = Gpu {
            devices: 1,
            weights: self.weights,
            counts,
        };
        let rooms = Rooms::new(self.memory, told);
        Ok(Hardware { gpu, rooms })
    }
}

/// The table's counts in the protocol's words.
trait FromTable {
    fn from_table() -> Self;
}

impl FromTable for GpuCounts {
    fn from_table() -> Self {
        let counts = interposed::counts();
        let crossings =
            |one: cocoon_kernels::ledger::Crossings| cocoon_protocol::engine::Crossings {
                bytes: one.bytes,
                calls: one.calls,
            };
        Self {
            to_device: crossings(counts.to_device),
            to_host: crossings(counts.to_host),
            scrubbed_bytes: counts.scrubbed_bytes,
            residue_bytes: counts.residue_bytes,
        }
    }
}
