//! Measures plain reading, with which counting is compared: no call of the driver only reads.

#![expect(
    unsafe_code,
    reason = "a kernel of the benchmark's own is loaded and started"
)]

use std::error::Error;
use std::ffi::{CString, c_void};
use std::sync::Arc;

use cocoon_kernels::gpu::Gpu;
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute, CUstream};
use cudarc::driver::{CudaContext, result};

/// Source of the kernel, compiled by the driver.
const PTX: &str = include_str!("read.ptx");
const THREADS: u32 = 256;
/// Blocks of that many threads that a multiprocessor holds at once.
const RESIDENT: u32 = 8;

/// The loaded kernel.
pub struct Reader {
    context: Arc<CudaContext>,
    module: sys::CUmodule,
    function: sys::CUfunction,
    blocks: u32,
}

impl Reader {
    /// Loads the kernel. Fails if the driver cannot compile PTX; its stand-in cannot.
    pub fn open(gpu: &Gpu) -> Result<Self, Box<dyn Error>> {
        let context = Arc::clone(gpu.stream().context());
        context.bind_to_thread()?;
        let attribute = Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        let multiprocessors = u32::try_from(context.attribute(attribute)?)?;
        let text = CString::new(PTX)?;
        // SAFETY: the text ends with 0, where the driver stops reading.
        let module = unsafe { result::module::load_data(text.as_ptr().cast::<c_void>()) }?;
        // SAFETY: the module was just loaded, in the current context.
        let function = unsafe { result::module::get_function(module, c"plain_read".into()) }?;
        Ok(Self {
            context,
            module,
            function,
            blocks: multiprocessors * RESIDENT,
        })
    }

    /// Starts reading memory that is all zero; `bytes` is rounded down to a multiple of 16.
    ///
    /// # Safety
    /// `address` is a multiple of 16, and that many bytes there stay valid until `stream` is done.
    pub unsafe fn start(
        &self,
        stream: CUstream,
        address: u64,
        bytes: u64,
    ) -> Result<(), Box<dyn Error>> {
        // `to` receives the sum if it is 1, which it never is over zeros; so the compiler cannot leave the reads out.
        let (mut from, mut length, mut to) = (address, bytes / 16 * 16, address);
        let mut arguments: [*mut c_void; 3] = [
            (&raw mut from).cast(),
            (&raw mut length).cast(),
            (&raw mut to).cast(),
        ];
        let (grid, block) = ((self.blocks, 1, 1), (THREADS, 1, 1));
        // SAFETY: the kernel takes three numbers of 64 bits, and the caller vouches for the memory.
        unsafe { result::launch_kernel(self.function, grid, block, 0, stream, &mut arguments) }?;
        Ok(())
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if self.context.bind_to_thread().is_ok() && self.context.synchronize().is_ok() {
            // SAFETY: this value loaded the module, and nobody can start its function any more.
            let _ = unsafe { result::module::unload(self.module) };
        }
    }
}
