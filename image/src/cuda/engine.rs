//! Fragment: the inference worker for NVIDIA's GPUs, a dynamic program of the runtime volume.
//!
//! Everything that it is made with is kept in the cache, in folders named for their contents: a compiler, the libraries of
//! the runtime volume to link against, so that a function which the image's own driver lacks is found out here, and the
//! kernels' machine code. A program that takes functions for memory from those libraries which nobody watches is refused.

mod host;
mod imports;

use std::collections::BTreeSet;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use cocoon_inputs::report::Reporter;
use cocoon_inputs::unpack::Node;
use cocoon_inputs::{Fetched, Fetcher};
use cocoon_protocol::bytes::Hex32;
use thiserror::Error;

use super::toolkit::{ToolkitError, fetch};
use super::{CudaError, Release, nvcc12, pins};
use crate::files::{self, FileError};
use crate::guest::{self, GuestError};
use crate::package;
use crate::sbom::Crate;

pub use host::{HostError, compiler};
pub use imports::ImportError;

/// Group of the lock file with the libraries of the runtime volume.
const LIBRARIES: &str = "cuda-runtime";
/// Those that the engine is linked to, by the beginning of their names.
const LINKED: &[&str] = &[
    "libcuda.so",
    "libcudart.so",
    "libcublas.so",
    "libcublasLt.so",
    "libcurand.so",
    "libnvrtc.so",
];

/// Why there is no engine.
#[derive(Debug, Error)]
pub enum EngineError {
    /// Compiler or libraries.
    #[error("cannot put together what the engine is made with")]
    Toolkit(#[from] ToolkitError),
    /// The kernels.
    #[error("cannot make the engine's kernels")]
    Kernels(#[from] CudaError),
    /// They are not what the list says.
    #[error(
        "the kernels are not what kernels/{list} lists ({first}): `cocoon-image kernels build --release 12.4` says more",
        list = Release::Cuda12.list()
    )]
    Pins {
        /// The first difference.
        first: String,
    },
    /// The machine's C++ compiler.
    #[error("cannot compile for the GPU")]
    Host(#[from] HostError),
    /// Cargo.
    #[error("cannot build the engine for GPUs")]
    Guest(#[from] GuestError),
    /// What it is linked to.
    #[error("the engine cannot be served")]
    Imports(#[from] ImportError),
    /// A file.
    #[error("cannot keep what the engine is made with")]
    File(#[from] FileError),
}

/// Builds the engine of the workspace at `source`, with everything kept in `cache/guest-cuda`: the executable and what
/// is compiled into it. The first time takes half an hour.
///
/// # Errors
/// [`EngineError`], with the compiler's last words when it was the code's fault.
pub fn build(
    source: &Path,
    cache: &Path,
    fetcher: &Fetcher,
    reporter: &dyn Reporter,
) -> Result<(Vec<u8>, BTreeSet<Crate>), EngineError> {
    // First, for it takes no time.
    let compiler = host::compiler()?;
    let folder = cache.join(guest::CUDA_FOLDER);
    let all = |_: &str| true;
    let home = kept(&folder, fetcher, nvcc12::GROUP, all, |home| {
        nvcc12::unpack(fetcher, home, reporter)
    })?;
    let libraries = kept(&folder, fetcher, LIBRARIES, is_linked, |home| {
        link_libraries(fetcher, home, reporter)
    })?;
    let cubins = kernels(source, &folder, &home, &compiler, reporter)?;
    let made_with = guest::Cuda {
        home,
        libraries,
        cubins,
        compiler,
    };
    let (engine, crates) = guest::build_cuda_engine(source, cache, &made_with, reporter)?;
    imports::check(&engine)?;
    Ok((engine, crates))
}

/// A folder named for the contents of a group, as far as its packages are `wanted`, made by `fill` unless it is there.
fn kept(
    folder: &Path,
    fetcher: &Fetcher,
    group: &'static str,
    wanted: impl Fn(&str) -> bool,
    fill: impl FnOnce(&Path) -> Result<(), ToolkitError>,
) -> Result<PathBuf, EngineError> {
    let mut digests = Vec::new();
    let entries = fetcher.lock().group(group);
    for entry in entries.filter(|entry| wanted(&entry.name)) {
        digests.extend(entry.sha256.to_string().into_bytes());
    }
    let name = Hex32::sha256(&digests).to_string();
    let place = folder.join(format!("{group}-{}", &name[..16]));
    if !place.is_dir() {
        files::create_folder(folder)?;
        let scratch = tempfile::Builder::new()
            .prefix(".making-")
            .tempdir_in(folder);
        let scratch = scratch.map_err(FileError::write(folder))?;
        let made = scratch.path().join("made");
        fill(&made)?;
        match std::fs::rename(&made, &place) {
            // Another build was quicker.
            Err(_) if place.is_dir() => {}
            renamed => renamed.map_err(FileError::write(&place))?,
        }
    }
    Ok(place)
}

/// The libraries in `home`, under the names that programs and linkers look for.
fn link_libraries(
    fetcher: &Fetcher,
    home: &Path,
    reporter: &dyn Reporter,
) -> Result<(), ToolkitError> {
    files::create_folder(home)?;
    let packages = fetch(fetcher, LIBRARIES)?.into_iter();
    for package in packages.filter(|package| is_linked(&package.entry.name)) {
        let task = reporter.start(&format!("unpacking {}", package.entry.name), None);
        take_libraries(&package, home)?;
        task.finish("done");
    }
    Ok(())
}

/// Whether a package has such a library.
fn is_linked(package: &str) -> bool {
    package.starts_with("libcu") || package.starts_with("libnvrtc")
}

fn take_libraries(package: &Fetched, home: &Path) -> Result<(), ToolkitError> {
    let wanted = |path: &str| {
        let file = path.rsplit('/').next().unwrap_or(path);
        LINKED.iter().any(|linked| file.starts_with(linked))
    };
    let tree = package::unpacked(package, wanted)?;
    for (path, node) in &tree {
        let file = path.rsplit('/').next().unwrap_or(path);
        match node {
            Node::File { data, .. } => {
                files::write(home, file, data)?;
                // `libx.so.1.2` is `libx.so` to linkers, whatever name it gives itself.
                let stem = file.split_once(".so").map_or(file, |(stem, _)| stem);
                let link = home.join(format!("{stem}.so"));
                if !link.exists() {
                    symlink(file, &link).map_err(FileError::write(&link))?;
                }
            }
            // Names of the files above, for the machine that would run them.
            Node::Symlink { .. } => {}
        }
    }
    Ok(())
}

/// The kernels' machine code in a folder, which is what the list says it must be.
fn kernels(
    source: &Path,
    folder: &Path,
    home: &Path,
    compiler: &str,
    reporter: &dyn Reporter,
) -> Result<PathBuf, EngineError> {
    let sources = source.join(super::SOURCES);
    let scratch = tempfile::tempdir_in(folder).map_err(FileError::write(folder))?;
    let made = super::compile::compile(home, &sources, scratch.path(), Some(compiler), reporter);
    let made = made.map_err(CudaError::from)?;
    let differences = pins::compare(&sources, Release::Cuda12.list(), &made);
    if let Some(first) = differences.map_err(CudaError::from)?.first() {
        let first = first.to_string();
        return Err(EngineError::Pins { first });
    }
    let place = folder.join("cubins");
    files::create_folder(&place)?;
    for (name, bytes) in &made {
        // Unchanged ones keep their times, for cargo's sake.
        if std::fs::read(place.join(name)).ok().as_ref() != Some(bytes) {
            files::write(&place, name, bytes)?;
        }
    }
    Ok(place)
}
