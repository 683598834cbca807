//! A program for the cell of an engine with GPUs. It opens NVIDIA's library as the engine does, and reports on file
//! descriptor 3 the result of each call, until one fails. `kernels/on-gpu` compiles it, with the loader of the runtime
//! volume.

use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::io::Write as _;
use std::os::fd::FromRawFd as _;
use std::ptr::null_mut;

unsafe extern "C" {
    fn dlopen(name: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
}

const BYTES: usize = 1 << 20;
/// Bytes that one block of the kernel processes. Tiles begin at multiples of 128 bytes, as the driver's allocations do.
const TILE: u64 = 64 * 1024;

struct Driver {
    library: *mut c_void,
    agent: std::fs::File,
}

impl Driver {
    fn find(&self, name: &str) -> *mut c_void {
        let name = CString::new(name).unwrap();
        let found = unsafe { dlsym(self.library, name.as_ptr()) };
        assert!(!found.is_null(), "libcuda has no {name:?}");
        found
    }

    fn tell(&mut self, name: &str, result: c_int) {
        writeln!(self.agent, "{name} {result}").unwrap();
        if result != 0 {
            std::process::exit(1);
        }
    }
}

/// Calls a function of the library by its name, with arguments of the given types.
macro_rules! call {
    ($driver:ident, $name:literal, $($value:expr => $kind:ty),*) => {{
        let function = $driver.find($name);
        let function: unsafe extern "C" fn($($kind),*) -> c_int = unsafe { std::mem::transmute(function) };
        let result = unsafe { function($($value),*) };
        $driver.tell($name, result);
    }};
}

fn main() {
    let mut agent = unsafe { std::fs::File::from_raw_fd(3) };
    let library = unsafe { dlopen(c"libcuda.so.1".as_ptr(), 2) };
    if library.is_null() {
        writeln!(agent, "libcuda.so.1 does not load").unwrap();
        std::process::exit(1);
    }
    let mut driver = Driver { library, agent };
    let kernels = std::fs::read("/model/sm90_scrub.cubin").unwrap();
    let pattern: Vec<u8> = (0..BYTES).map(|i| (i % 251) as u8).collect();
    let mut back = vec![0_u8; BYTES];
    let (mut device, mut context) = (0, null_mut());
    let (mut memory, mut table, mut module, mut function) = (0_u64, 0_u64, null_mut(), null_mut());
    call!(driver, "cuInit", 0 => c_uint);
    call!(driver, "cuDeviceGet", &mut device => *mut c_int, 0 => c_int);
    call!(driver, "cuDevicePrimaryCtxRetain", &mut context => *mut *mut c_void, device => c_int);
    call!(driver, "cuCtxSetCurrent", context => *mut c_void);
    call!(driver, "cuMemAlloc_v2", &mut memory => *mut u64, BYTES => usize);
    call!(driver, "cuMemcpyHtoD_v2", memory => u64, pattern.as_ptr().cast() => *const c_void, BYTES => usize);
    call!(driver, "cuModuleLoadData", &mut module => *mut *mut c_void, kernels.as_ptr().cast() => *const c_void);
    call!(driver, "cuModuleGetFunction", &mut function => *mut *mut c_void, module => *mut c_void,
          c"sm90_scrub_fill".as_ptr() => *const c_char);
    // Fills the first half with zeros. This is one range, for which the table gives address, length and first tile.
    let half = BYTES / 2;
    let range = [memory, half as u64, 0];
    let bytes = size_of_val(&range);
    call!(driver, "cuMemAlloc_v2", &mut table => *mut u64, bytes => usize);
    call!(driver, "cuMemcpyHtoD_v2", table => u64, range.as_ptr().cast() => *const c_void, bytes => usize);
    let (mut ranges, mut count, mut tiles, mut byte) = (table, 1_u32, half as u64 / TILE, 0_u32);
    let mut arguments: [*mut c_void; 4] = [
        (&raw mut ranges).cast(),
        (&raw mut count).cast(),
        (&raw mut tiles).cast(),
        (&raw mut byte).cast(),
    ];
    call!(driver, "cuLaunchKernel", function => *mut c_void, 1 => c_uint, 1 => c_uint, 1 => c_uint,
          256 => c_uint, 1 => c_uint, 1 => c_uint, 0 => c_uint, null_mut() => *mut c_void,
          arguments.as_mut_ptr() => *mut *mut c_void, null_mut() => *mut *mut c_void);
    call!(driver, "cuCtxSynchronize",);
    call!(driver, "cuMemcpyDtoH_v2", back.as_mut_ptr().cast() => *mut c_void, memory => u64, BYTES => usize);
    call!(driver, "cuMemFree_v2", table => u64);
    call!(driver, "cuMemFree_v2", memory => u64);
    writeln!(
        driver.agent,
        "zeros {}",
        back[..half].iter().all(|byte| *byte == 0)
    )
    .unwrap();
    writeln!(driver.agent, "same {}", back[half..] == pattern[half..]).unwrap();
}
