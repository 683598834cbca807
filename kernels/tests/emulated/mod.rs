//! An emulated device: its memory is that of the process, and its kernels are compiled from their own source for the
//! processor with `tests/emulator/emulator.h`. Launchers and kernels are tested together, as they run on a GPU.

#![expect(
    unsafe_code,
    reason = "calls C++ that follows the addresses it is given, as a GPU would"
)]

use std::alloc::{self, Layout};
use std::cell::Cell;
use std::ffi::c_void;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cocoon_kernels::device::{Argument, Device, DeviceError, Kernel, Memory};

/// Environment variable with the sanitizer for the kernels. Tests that run themselves again under a sanitizer set it.
pub const SANITIZER: &str = "COCOON_SANITIZER";

/// How the kernels are compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sanitizer {
    /// No sanitizer, for speed.
    None,
    /// Finds accesses outside of memory and undefined behaviour.
    Address,
    /// Finds accesses of two threads that no barrier orders.
    Thread,
}

impl Sanitizer {
    /// The sanitizer of this process.
    pub fn of_process() -> Self {
        match std::env::var(SANITIZER).as_deref() {
            Ok("address") => Self::Address,
            Ok("thread") => Self::Thread,
            _ => Self::None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Address => "address",
            Self::Thread => "thread",
        }
    }

    fn flags(self) -> &'static [&'static str] {
        match self {
            Self::None => &[],
            Self::Address => &["-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
            Self::Thread => &["-fsanitize=thread"],
        }
    }

    /// The library that must be preloaded into the process.
    pub fn library(self) -> PathBuf {
        let name = format!(
            "-print-file-name=lib{}.so",
            match self {
                Self::Thread => "tsan",
                _ => "asan",
            }
        );
        let output = Command::new("g++").arg(name).output().expect("g++ runs");
        PathBuf::from(String::from_utf8(output.stdout).expect("a path").trim())
    }
}

/// Whether kernels can be compiled for the processor. Reports the test as skipped if not.
pub fn available() -> bool {
    let found = Command::new("g++").arg("--version").output().is_ok();
    if !found {
        crate::skip::skipped(
            "g++ is not installed, with which kernels are compiled for the processor: apt install g++",
        );
    }
    found
}

/// A device that runs kernels on the processor.
pub struct Emulated {
    library: libloading::Library,
    seed: Cell<u64>,
    only: Cell<Option<u32>>,
    resident: u32,
}

/// Memory of the process. It is aligned as by a GPU's allocator, unless it is large, and not padded at the end.
pub struct Heap {
    address: *mut u8,
    layout: Layout,
    bytes: usize,
}

impl Emulated {
    /// Loads the kernels of `tests/emulator/{source}.cc`; `seed` determines the order of threads.
    pub fn new(source: &str, seed: u64) -> Self {
        let library = compiled(source, Sanitizer::of_process());
        // SAFETY: the library is compiled here from this crate's sources; its initialisers are those of the C++
        // library.
        let library = unsafe { libloading::Library::new(&library) };
        Self {
            library: library.unwrap_or_else(|error| panic!("{source}: {error}")),
            seed: Cell::new(seed),
            only: Cell::new(None),
            resident: 3,
        }
    }

    /// Sets the number of resident blocks, and makes a launch run only the block `number`.
    pub fn only_block(mut self, number: u32, resident: u32) -> Self {
        self.only = Cell::new(Some(number));
        self.resident = resident;
        self
    }

    /// Starts a kernel without its launcher.
    pub fn start(&self, kernel: &Kernel, blocks: u32, arguments: &[Argument]) {
        // SAFETY: tests pass addresses of memory that they hold.
        unsafe { self.launch(kernel, blocks, arguments) }.expect("runs");
    }

    /// Sets the order of threads for the next launches.
    pub fn reseed(&self, seed: u64) {
        self.seed.set(seed);
    }
}

/// Compiles into a file that is named by everything it is made of, so that an unchanged one is compiled once.
fn compiled(source: &str, sanitizer: Sanitizer) -> PathBuf {
    let kernels = Path::new(env!("CARGO_MANIFEST_DIR"));
    let emulator = kernels.join("tests/emulator");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let sources = digest(&[kernels.join("cuda"), emulator.clone()]);
    let name = format!("{source}-{}-{sources}", sanitizer.name());
    let output = folder.join(format!("{name}.so"));
    if output.exists() {
        return output;
    }
    // Other threads and processes may compile it, too. The last one to finish renames its file.
    let thread = format!("{:?}", std::thread::current().id()).replace(['(', ')'], "");
    let unfinished = folder.join(format!("{name}-{}-{thread}", std::process::id()));
    let mut compiler = Command::new("g++");
    compiler
        .args(["-std=c++17", "-O2", "-g", "-fPIC", "-shared"])
        .args([
            "-fno-strict-aliasing",
            "-Wall",
            "-Wextra",
            "-Wno-unknown-pragmas",
        ])
        .args(sanitizer.flags())
        .arg("-I")
        .arg(&emulator)
        .arg("-o")
        .arg(&unfinished)
        .arg(emulator.join(format!("{source}.cc")))
        .env_remove("LD_PRELOAD");
    let compiled = compiler.output().expect("g++ runs");
    assert!(
        compiled.status.success(),
        "g++ {source}.cc: {}",
        String::from_utf8_lossy(&compiled.stderr)
    );
    fs::rename(&unfinished, &output).expect("in the same folder");
    output
}

/// Digest of all files in `folders`, and of this file, which holds the compiler's options.
fn digest(folders: &[PathBuf]) -> String {
    let listed = folders
        .iter()
        .map(|folder| fs::read_dir(folder).expect("a folder"));
    let mut files: Vec<PathBuf> = listed
        .flatten()
        .map(|file| file.expect("listed").path())
        .collect();
    files.sort();
    let mut hasher = blake3::Hasher::new();
    hasher.update(include_bytes!("mod.rs"));
    for file in files {
        let bytes = fs::read(&file).expect("a file");
        hasher
            .update(&(bytes.len() as u64).to_le_bytes())
            .update(&bytes);
    }
    hasher.finalize().to_hex()[..16].to_owned()
}

type Entry = unsafe extern "C" fn(u32, u32, u32, u32, u64, *mut *mut c_void);

impl Device for Emulated {
    type Memory = Heap;

    fn allocate(&self, bytes: u64) -> Result<Heap, DeviceError> {
        Ok(Heap::new(usize::try_from(bytes).expect("fits")))
    }

    fn upload(&self, bytes: &[u8]) -> Result<Heap, DeviceError> {
        let heap = Heap::new(bytes.len());
        // SAFETY: as many bytes as were allocated, which nobody else has.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), heap.address, bytes.len()) };
        Ok(heap)
    }

    fn download(&self, memory: &Heap) -> Result<Vec<u8>, DeviceError> {
        // SAFETY: as many bytes as were allocated, all of them initialised.
        Ok(unsafe { std::slice::from_raw_parts(memory.address, memory.bytes) }.to_vec())
    }

    fn resident(&self, _kernel: &Kernel) -> u32 {
        self.resident
    }

    unsafe fn launch(
        &self,
        kernel: &Kernel,
        blocks: u32,
        arguments: &[Argument],
    ) -> Result<(), DeviceError> {
        let mut addresses: Vec<*mut c_void> = arguments
            .iter()
            .map(|argument| match argument {
                Argument::Long(long) => std::ptr::from_ref(long).cast_mut().cast(),
                Argument::Word(word) => std::ptr::from_ref(word).cast_mut().cast(),
            })
            .collect();
        let name = format!("run_{}", kernel.name);
        // SAFETY: the emulator's macro ENTRY defines it with this signature.
        let entry = unsafe { self.library.get::<Entry>(name.as_bytes()) };
        let entry = entry.unwrap_or_else(|error| panic!("{name}: {error}"));
        let (first, some) = self.only.get().map_or((0, blocks), |number| (number, 1));
        let (threads, seed) = (kernel.threads, self.seed.get());
        // SAFETY: the caller vouches for the arguments.
        unsafe { entry(blocks, first, some, threads, seed, addresses.as_mut_ptr()) };
        self.seed.set(seed.wrapping_add(1));
        Ok(())
    }
}

impl Heap {
    fn new(bytes: usize) -> Self {
        // Large memory must be committed only as it is touched. With a larger alignment, `alloc_zeroed` would write all
        // of it.
        let align = if bytes > 1 << 24 { 16 } else { 256 };
        let layout = Layout::from_size_align(bytes.max(1), align).expect("small");
        // SAFETY: the layout has at least one byte.
        let address = unsafe { alloc::alloc_zeroed(layout) };
        assert!(!address.is_null(), "no memory of {bytes} bytes");
        Self {
            address,
            layout,
            bytes,
        }
    }
}

impl Heap {
    /// Copies `bytes` to `offset`.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        let offset = usize::try_from(offset).expect("fits");
        assert!(offset + bytes.len() <= self.bytes);
        // SAFETY: within the allocation, which only this value holds.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.address.add(offset), bytes.len())
        };
    }
}

impl Memory for Heap {
    fn address(&self) -> u64 {
        self.address as u64
    }

    fn bytes(&self) -> u64 {
        self.bytes as u64
    }
}

impl Drop for Heap {
    fn drop(&mut self) {
        // SAFETY: the memory was allocated with this layout.
        unsafe { alloc::dealloc(self.address, self.layout) };
    }
}
