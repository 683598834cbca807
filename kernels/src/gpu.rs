//! An NVIDIA GPU of the Hopper generation, through the driver's API, on one stream.

#![expect(
    unsafe_code,
    reason = "the driver's interface is C: each call says why it is sound"
)]

use std::ffi::{CString, c_void};
use std::sync::Arc;

#[cfg(not(feature = "linked"))]
use cudarc::driver::CudaContext;
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{
    self, CUdevice_attribute as Attribute, CUfunction_attribute_enum as FunctionAttribute,
};
use cudarc::driver::{CudaSlice, CudaStream, DevicePtr as _};

use crate::cubins::Cubins;
use crate::device::{Argument, Device, DeviceError, Kernel, Memory};
use crate::ranges::{RangeError, Span, SpanMut};
use crate::{sm90_blake3, sm90_scrub};

/// Preferred shared-memory carveout, in per cent: all that a multiprocessor can provide.
const ALL: i32 = 100;

/// Compute capability for which the machine code is built.
const CAPABILITY: (i32, i32) = (9, 0);

/// A GPU with the kernels loaded. All operations run in order on its stream.
pub struct Gpu {
    stream: Arc<CudaStream>,
    functions: Vec<(&'static str, sys::CUfunction)>,
    modules: Vec<sys::CUmodule>,
    multiprocessors: u32,
}

// SAFETY: handles of functions and modules may be used from any thread on which their context is current, and every
// method makes it current.
unsafe impl Send for Gpu {}
// SAFETY: as above; the driver's calls on one stream may come from several threads at once.
unsafe impl Sync for Gpu {}

/// Why the GPU cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GpuError {
    /// There is no driver on this machine.
    #[error("there is no NVIDIA driver here: libcuda.so.1 cannot be loaded")]
    NoDriver,
    /// There is no device with this number.
    #[error("there is no GPU of number {ordinal} here")]
    NoDevice {
        /// Number of the device.
        ordinal: usize,
    },
    /// The GPU has another compute capability.
    #[error(
        "{name} has compute capability {major}.{minor}, and the kernels are machine code for 9.0 (H100, H200)"
    )]
    Unsupported {
        /// Name of the GPU.
        name: String,
        /// Major part of its compute capability.
        major: i32,
        /// Minor part of its compute capability.
        minor: i32,
    },
    /// A call of the driver failed.
    #[error("the driver cannot {operation}")]
    Driver {
        /// Operation that failed.
        operation: &'static str,
        /// The driver's error.
        #[source]
        source: DriverError,
    },
    /// A range does not lie within one allocation.
    #[error(
        "{length} bytes at {address:#x} do not lie in one allocation of {size} bytes at {base:#x}"
    )]
    Allocation {
        /// Address of the range.
        address: u64,
        /// Length of the range in bytes.
        length: u64,
        /// Address of the allocation.
        base: u64,
        /// Size of the allocation in bytes.
        size: u64,
    },
    /// An address and a length do not make a valid range.
    #[error("this is no range of device memory")]
    Range(#[from] RangeError),
}

/// Memory of a GPU.
#[derive(Debug)]
pub struct GpuMemory {
    slice: CudaSlice<u8>,
    address: u64,
    bytes: u64,
}

impl Gpu {
    /// Opens the GPU of this number, with its own stream in the context shared by the whole process. Not available with
    /// the feature `linked`: such a program does not start without a driver.
    ///
    /// # Errors
    /// [`GpuError::NoDriver`] or [`GpuError::NoDevice`] if there is no GPU, and other [`GpuError`]s if it cannot be
    /// used.
    #[cfg(not(feature = "linked"))]
    pub fn open(ordinal: usize, cubins: &Cubins) -> Result<Self, GpuError> {
        // SAFETY: this loads the driver's library, whose initialisers are trusted.
        if !unsafe { sys::is_culib_present() } {
            return Err(GpuError::NoDriver);
        }
        let context = CudaContext::new(ordinal).map_err(|source| match source.0 {
            sys::CUresult::CUDA_ERROR_NO_DEVICE | sys::CUresult::CUDA_ERROR_INVALID_DEVICE => {
                GpuError::NoDevice { ordinal }
            }
            _ => driver("make a context")(source),
        })?;
        let stream = context.new_stream().map_err(driver("make a stream"))?;
        Self::on(stream, cubins)
    }

    /// Uses the given stream. Kernels run after the operations already started on it.
    ///
    /// # Errors
    /// [`GpuError`] if the GPU has another compute capability or cannot load the kernels.
    pub fn on(stream: Arc<CudaStream>, cubins: &Cubins) -> Result<Self, GpuError> {
        let context = stream.context();
        let ask = |attribute| {
            context
                .attribute(attribute)
                .map_err(driver("describe the GPU"))
        };
        let major = ask(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = ask(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        if (major, minor) != CAPABILITY {
            let name = context.name().map_err(driver("name the GPU"))?;
            return Err(GpuError::Unsupported { name, major, minor });
        }
        let multiprocessors = ask(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        let mut gpu = Self {
            multiprocessors: u32::try_from(multiprocessors).unwrap_or(1).max(1),
            functions: Vec::new(),
            modules: Vec::new(),
            stream,
        };
        gpu.load(&cubins.scrub, &[&sm90_scrub::FILL, &sm90_scrub::COUNT])?;
        gpu.load(&cubins.blake3, &[&sm90_blake3::LEAVES, &sm90_blake3::JOIN])?;
        Ok(gpu)
    }

    /// The stream on which all operations run.
    #[must_use]
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// Waits until all streams of this GPU are idle.
    ///
    /// # Errors
    /// [`DeviceError`], also for errors of operations started before.
    pub fn finish(&self) -> Result<(), DeviceError> {
        self.stream
            .context()
            .synchronize()
            .map_err(failed("finish what was started"))
    }

    /// Memory allocated elsewhere, for example by a tensor, for reading.
    ///
    /// # Errors
    /// [`GpuError::Allocation`] if the range is not within one allocation; [`GpuError::Driver`] if the driver knows no
    /// allocation at the address.
    ///
    /// # Safety
    /// The memory must not be freed or written while the result is in use.
    pub unsafe fn span(&self, address: u64, length: u64) -> Result<Span<'_>, GpuError> {
        self.allocated(address, length)?;
        // SAFETY: the driver lists the range as memory of this device, and the caller vouches for the rest.
        Ok(unsafe { Span::from_raw(address, length) }?)
    }

    /// Memory allocated elsewhere, for writing.
    ///
    /// # Errors
    /// [`GpuError::Allocation`] if the range is not within one allocation; [`GpuError::Driver`] if the driver knows no
    /// allocation at the address.
    ///
    /// # Safety
    /// The memory must not be freed or used by anyone else while the result is in use.
    pub unsafe fn span_mut(&self, address: u64, length: u64) -> Result<SpanMut<'_>, GpuError> {
        self.allocated(address, length)?;
        // SAFETY: the driver lists the range as memory of this device, and the caller vouches for the rest.
        Ok(unsafe { SpanMut::from_raw(address, length) }?)
    }

    fn allocated(&self, address: u64, length: u64) -> Result<(), GpuError> {
        if length == 0 {
            return Ok(());
        }
        self.bind().map_err(driver("use its context"))?;
        let (mut base, mut size) = (0, 0);
        // SAFETY: both results are written to variables of the right types.
        let found = unsafe { sys::cuMemGetAddressRange_v2(&raw mut base, &raw mut size, address) };
        found
            .result()
            .map_err(driver("find the allocation of an address"))?;
        let size = size as u64;
        match (address - base).checked_add(length) {
            Some(end) if end <= size => Ok(()),
            _ => Err(GpuError::Allocation {
                address,
                length,
                base,
                size,
            }),
        }
    }

    fn load(&mut self, cubin: &[u8], kernels: &[&Kernel]) -> Result<(), GpuError> {
        self.bind().map_err(driver("use its context"))?;
        // Embedded bytes may have any alignment. A copy on the heap is aligned well enough for an ELF file.
        let aligned = cubin.to_vec();
        // SAFETY: `Cubins` has verified that this is a cubin of this crate, and its header contains its length.
        let module = unsafe { result::module::load_data(aligned.as_ptr().cast::<c_void>()) }
            .map_err(driver("load a kernel"))?;
        self.modules.push(module);
        for kernel in kernels {
            let name = CString::new(kernel.name).unwrap_or_default();
            // SAFETY: the module was loaded in the current context.
            let function = unsafe { result::module::get_function(module, name) }
                .map_err(driver("find a kernel"))?;
            if kernel.shares {
                let attribute =
                    FunctionAttribute::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT;
                // SAFETY: the function was just found.
                unsafe { result::function::set_function_attribute(function, attribute, ALL) }
                    .map_err(driver("share memory among the blocks of a kernel"))?;
            }
            self.functions.push((kernel.name, function));
        }
        Ok(())
    }

    fn bind(&self) -> Result<(), DriverError> {
        self.stream.context().bind_to_thread()
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        // The kernels must be done before their code is unloaded. An error of the driver cannot be reported here.
        if self.bind().is_ok() && self.stream.synchronize().is_ok() {
            for module in self.modules.drain(..) {
                // SAFETY: this value loaded the module, and nobody can start its functions any more.
                let _ = unsafe { result::module::unload(module) };
            }
        }
    }
}

impl Device for Gpu {
    type Memory = GpuMemory;

    fn allocate(&self, bytes: u64) -> Result<GpuMemory, DeviceError> {
        // The driver refuses allocations of 0 bytes.
        let length = usize::try_from(bytes.max(1)).map_err(failed("allocate that much memory"))?;
        let slice = self.stream.alloc_zeros(length);
        Ok(self.memory(slice.map_err(failed("allocate memory"))?, bytes))
    }

    fn upload(&self, bytes: &[u8]) -> Result<GpuMemory, DeviceError> {
        if bytes.is_empty() {
            return self.allocate(0);
        }
        let slice = self.stream.clone_htod(bytes);
        Ok(self.memory(slice.map_err(failed("take a copy"))?, bytes.len() as u64))
    }

    fn download(&self, memory: &GpuMemory) -> Result<Vec<u8>, DeviceError> {
        let mut bytes = self
            .stream
            .clone_dtoh(&memory.slice)
            .map_err(failed("give a copy"))?;
        self.stream
            .synchronize()
            .map_err(failed("finish what was started"))?;
        bytes.truncate(usize::try_from(memory.bytes).unwrap_or(usize::MAX));
        Ok(bytes)
    }

    fn resident(&self, kernel: &Kernel) -> u32 {
        self.multiprocessors.saturating_mul(kernel.resident)
    }

    unsafe fn launch(
        &self,
        kernel: &Kernel,
        blocks: u32,
        arguments: &[Argument],
    ) -> Result<(), DeviceError> {
        let known = self.functions.iter().find(|(name, _)| *name == kernel.name);
        let (_, function) = known.ok_or_else(|| DeviceError {
            operation: "start a kernel that it does not have",
            source: kernel.name.into(),
        })?;
        self.bind().map_err(failed("use its context"))?;
        let mut addresses: Vec<*mut c_void> = arguments
            .iter()
            .map(|argument| match argument {
                Argument::Long(long) => std::ptr::from_ref(long).cast_mut().cast(),
                Argument::Word(word) => std::ptr::from_ref(word).cast_mut().cast(),
            })
            .collect();
        let (grid, block) = ((blocks, 1, 1), (kernel.threads, 1, 1));
        let stream = self.stream.cu_stream();
        // SAFETY: the driver copies the arguments before it returns, and the caller vouches for them.
        unsafe { result::launch_kernel(*function, grid, block, 0, stream, &mut addresses) }
            .map_err(failed("start a kernel"))
    }
}

impl Gpu {
    fn memory(&self, slice: CudaSlice<u8>, bytes: u64) -> GpuMemory {
        // All operations run on this stream, so uses of the memory need no synchronisation.
        let (address, same_stream) = slice.device_ptr(&self.stream);
        drop(same_stream);
        GpuMemory {
            slice,
            address,
            bytes,
        }
    }
}

impl Memory for GpuMemory {
    fn address(&self) -> u64 {
        self.address
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }
}

fn driver(operation: &'static str) -> impl Fn(DriverError) -> GpuError {
    move |source| GpuError::Driver { operation, source }
}

fn failed<E: std::error::Error + Send + Sync + 'static>(
    operation: &'static str,
) -> impl Fn(E) -> DeviceError {
    move |source| DeviceError {
        operation,
        source: Box::new(source),
    }
}

#[cfg(all(test, not(feature = "linked")))]
mod tests;
