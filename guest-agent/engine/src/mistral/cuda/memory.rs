//! GPU memory: measurement after loading, and scrubbing after requests.

#![expect(
    unsafe_code,
    reason = "memory of candle's is handed to the kernels by its address"
)]

use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use candle_core::cuda_backend::CudaStorageSlice as Slice;
use candle_core::cuda_backend::cudarc::cublas::sys::{cublasSetWorkspace_v2, cublasStatus_t};
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaStream, DevicePtr as _};
use candle_core::{Storage, Tensor};
use cocoon_kernels::gpu::Gpu as Kernels;
use cocoon_kernels::ledger::Part;
use cocoon_kernels::ranges::Span;
use cocoon_kernels::reference;
use cocoon_kernels::{interposed, sm90_blake3};
use cocoon_protocol::bytes::Hex;
use cocoon_protocol::engine::{GpuCounts, MAX_TENSORS, TensorRoot, Weights};
use mistralrs::Device;
use mistralrs_core::Pipeline;
use tokio::sync::Mutex;

use crate::pool::Pool;
use crate::rooms::Scrub;

/// Size of cuBLAS's workspace, as NVIDIA recommends for this GPU generation. A workspace allocated by cuBLAS itself could not
/// be scrubbed.
const WORKSPACE: usize = 32 << 20;

/// GPU memory with a model in it.
pub(super) struct Memory {
    kernels: Arc<Kernels>,
    pipeline: Arc<Mutex<dyn Pipeline>>,
    /// Address and length of memory that each scrub overwrites: KV caches and workspaces of cuBLAS and cuBLASLt. It lives as
    /// long as the pipeline, this value and the process, respectively.
    pool: Vec<(u64, u64)>,
    caches: Pool,
    /// Moment when the model was in memory. Memory allocated later is neither measured nor in `pool`.
    loaded: u64,
    _workspace: CudaSlice<u8>,
}

/// Refuses a model for which the library keeps data between answers outside the KV caches that are scrubbed.
pub(super) async fn check_caches(pipeline: &Mutex<dyn Pipeline>) -> anyhow::Result<()> {
    let pipeline = pipeline.lock().await;
    ensure!(
        !pipeline.cache().is_hybrid(),
        "the model has recurrent layers, and what their state keeps of a prompt would not be erased: serve another model on a GPU"
    );
    let metadata = pipeline.get_metadata();
    let caches = metadata.cache_engine.as_ref();
    let caches = caches.context("the library has no paged attention for this model")?;
    // The library has two cache layouts; this one has keys and values.
    let plain = |(keys, values): &(Tensor, Tensor)| keys.rank() == 5 && values.rank() == 4;
    ensure!(
        caches.get_kv_cache().iter().all(plain),
        "the model has latent attention, for which the library makes weights with the first answer, which would not be \
         measured: serve another model on a GPU"
    );
    Ok(())
}

impl Memory {
    /// Takes over the memory of a model that has just been loaded. `scratch` is memory of libraries that is never freed.
    pub async fn new(
        kernels: Kernels,
        device: &Device,
        scratch: Vec<(u64, u64)>,
        pipeline: Arc<Mutex<dyn Pipeline>>,
    ) -> anyhow::Result<Self> {
        let device = device.as_cuda_device().context("not a GPU")?;
        let stream = device.cuda_stream();
        let workspace = stream.alloc_zeros::<u8>(WORKSPACE)?;
        let mut pool = vec![range(&workspace, &stream)];
        let blas = device.cublas_handle();
        let place = std::ptr::with_exposed_provenance_mut(usize::try_from(pool[0].0)?);
        // SAFETY: the handle is candle's. The memory has the stated size and lives as long as this value, after which nothing
        // is computed any more.
        let taken = unsafe { cublasSetWorkspace_v2(*blas.handle(), place, WORKSPACE) };
        ensure!(
            taken == cublasStatus_t::CUBLAS_STATUS_SUCCESS,
            "cuBLAS does not take a workspace: {taken:?}"
        );
        pool.extend(scratch);
        let metadata = pipeline.lock().await.get_metadata();
        let paged = metadata.cache_engine.as_ref();
        let paged = paged.zip(metadata.cache_config.as_ref());
        let (engine, config) = paged.context("the library has no paged attention")?;
        let mut caches = Pool {
            bytes: 0,
            blocks: config.num_gpu_blocks,
            block: config.block_size,
        };
        for (keys, values) in engine.get_kv_cache().iter() {
            for tensor in [keys, values] {
                let place = of_tensor(tensor, &stream)?;
                caches.bytes += place.1;
                pool.push(place);
            }
        }
        Ok(Self {
            kernels: Arc::new(kernels),
            pipeline,
            pool,
            caches,
            loaded: interposed::moment(),
            _workspace: workspace,
        })
    }

    /// Returns the pool of KV caches.
    pub fn caches(&self) -> Pool {
        self.caches
    }

    /// Measures all memory in use except the pool, in place: the weights that the host has uploaded, and the data made of them
    /// on the GPU.
    pub fn weights(&self) -> anyhow::Result<Weights> {
        let contents = interposed::contents(&self.pool).context("the table lacks the pool")?;
        let tensors = self.roots(&contents.uploads)?;
        ensure!(
            !tensors.is_empty(),
            "nothing was uploaded: no model looks so"
        );
        let derived = self.roots(&contents.derived)?;
        let root = Hex(reference::blake3::hash(&Weights::encode(
            &tensors, &derived,
        )));
        let pool_bytes = self.pool.iter().map(|(_, bytes)| bytes).sum();
        Ok(Weights {
            root,
            pool_bytes,
            tensors,
            derived,
        })
    }

    /// Returns the sorted measurements of `parts`.
    fn roots(&self, parts: &[Part]) -> anyhow::Result<Vec<TensorRoot>> {
        ensure!(
            parts.len() <= MAX_TENSORS,
            "{} pieces of memory are in use after loading: no model looks so",
            parts.len()
        );
        let spans: Result<Vec<_>, _> = parts
            .iter()
            // `Gpu::span` is not used, because for an address in a memory pool the driver may report only a piece of the
            // allocation.
            // SAFETY: the table lists each part as bytes of one allocation in use. Nothing is computed before loading is done,
            // so nobody frees or writes them.
            .map(|part| unsafe { Span::from_raw(part.address, part.bytes) })
            .collect();
        let roots = sm90_blake3::roots(&*self.kernels, &spans?)?;
        let mut tensors: Vec<TensorRoot> = roots
            .iter()
            .zip(parts)
            .map(|(root, part)| TensorRoot {
                root: Hex(root.0),
                bytes: part.bytes,
            })
            .collect();
        tensors.sort_unstable();
        Ok(tensors)
    }
}

impl Scrub for Memory {
    /// Overwrites and checks the pool and all freed memory, between two steps of the library.
    async fn scrub(self: &Arc<Self>) -> anyhow::Result<()> {
        let steps = self.pipeline.lock().await;
        let memory = Arc::clone(self);
        let scrubbed = tokio::task::spawn_blocking(move || {
            // SAFETY: these are whole allocations, and nothing is computed while the pipeline is locked.
            unsafe { interposed::scrub(&memory.kernels, &memory.pool) }
        });
        let scrubbed = scrubbed.await?.context("cannot scrub the GPU's memory")?;
        let held = interposed::live_bytes(self.loaded);
        drop(steps);
        ensure!(
            held == 0,
            "{held} bytes are in use that were not when the weights were measured, and nobody can say what is in them"
        );
        ensure!(
            scrubbed.residue == 0,
            "{} of {} bytes are not zero after a scrub",
            scrubbed.residue,
            scrubbed.bytes
        );
        let strays = interposed::counts().strays;
        ensure!(
            strays == 0,
            "{strays} allocations passed the table by, or could not be overwritten and freed"
        );
        Ok(())
    }

    fn counts(&self) -> GpuCounts {
        super::counts()
    }
}

fn range<T>(slice: &CudaSlice<T>, stream: &CudaStream) -> (u64, u64) {
    (slice.device_ptr(stream).0, slice.num_bytes() as u64)
}

fn of_tensor(tensor: &Tensor, stream: &CudaStream) -> anyhow::Result<(u64, u64)> {
    let (storage, _) = tensor.storage_and_layout();
    let Storage::Cuda(storage) = &*storage else {
        bail!("a KV cache is not on the GPU");
    };
    Ok(match &storage.slice {
        Slice::BF16(slice) => range(slice, stream),
        Slice::F16(slice) => range(slice, stream),
        Slice::F32(slice) => range(slice, stream),
        Slice::F8E4M3(slice) => range(slice, stream),
        Slice::U8(slice) => range(slice, stream),
        _ => bail!("a KV cache is of a type that this program does not know"),
    })
}
