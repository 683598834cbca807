//! Fragment: builds the inference worker for NVIDIA's GPUs, a dynamically linked program of the runtime volume.
//!
//! What it is made with is kept in the cache, in folders named after their contents: the compiler, the libraries to link
//! against, and the kernels' machine code. The libraries are those of the runtime volume, so a function that the image's
//! driver lacks is noticed at build time. An engine is refused if it imports memory functions from these libraries that the
//! engine's memory table does not track.

mod host;
mod imports;

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use cocoon_inputs::report::Reporter;
use cocoon_inputs::unpack::Node;
use cocoon_inputs::{Fetched, Fetcher};
use cocoon_protocol::bytes::Hex32;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use super::compile::CompileError;
use super::toolkit::{ToolkitError, fetch};
use super::{CudaError, Release, nvcc12, pins};
use crate::addresses;
use crate::files::{self, FileError};
use crate::guest::{self, GuestError, MadeOf, Workshop, recipe};
use crate::package;
use crate::scratch::Scratch;

pub use host::{HostError, compiler};
pub use imports::ImportError;

/// Group of the lock file with the libraries of the runtime volume.
const LIBRARIES: &str = "cuda-runtime";
/// Libraries that the engine is linked to, by the beginning of their names.
const LINKED: &[&str] = &[
    "libcuda.so",
    "libcudart.so",
    "libcublas.so",
    "libcublasLt.so",
    "libcurand.so",
    "libnvrtc.so",
];

/// Why the engine cannot be built.
#[derive(Debug, Error)]
pub enum EngineError {
    /// The compiler or the libraries cannot be fetched or unpacked.
    #[error("cannot put together what the engine is made with")]
    Toolkit(#[from] ToolkitError),
    /// The kernels cannot be compiled.
    #[error("cannot make the engine's kernels")]
    Kernels(#[from] CudaError),
    /// The kernels differ from the list of digests.
    #[error(
        "the kernels are not what kernels/{list} lists ({first}): `cocoon-image kernels build --release 12.4` says more",
        list = Release::Cuda12.list()
    )]
    Pins {
        /// First difference.
        first: String,
    },
    /// The machine has no suitable C++ compiler.
    #[error("cannot compile for the GPU")]
    Host(#[from] HostError),
    /// Cargo cannot build the engine.
    #[error("cannot build the engine for GPUs")]
    Guest(#[from] GuestError),
    /// The engine imports functions that it must not import, or lacks those that it must import.
    #[error("the engine cannot be served")]
    Imports(#[from] ImportError),
    /// A file cannot be read or written.
    #[error("cannot keep what the engine is made with")]
    File(#[from] FileError),
}

/// The engine, and what it is made of.
pub struct Engine {
    /// Bytes of the executable.
    pub bytes: Vec<u8>,
    /// Crates, libraries and sources that it was compiled from.
    pub made_of: MadeOf,
    /// Packages of the compiler and the libraries; some may be substitutes for the locked ones.
    pub packages: Vec<Fetched>,
}

/// Checks that this machine can build the engine. A build of an image calls this before it spends minutes on other parts.
///
/// # Errors
/// [`EngineError`], which says what to install or to allow.
pub fn check() -> Result<(), EngineError> {
    host::compiler()?;
    addresses::check().map_err(|error| CudaError::from(CompileError::Addresses(error)))?;
    Ok(())
}

/// Builds the engine of the workspace at `source`, and keeps everything in `cache/guest-cuda`. The first build takes half an
/// hour.
///
/// # Errors
/// [`EngineError`], with the end of the compiler's output if the code does not compile.
pub fn build(
    source: &Path,
    cache: &Path,
    fetcher: &Fetcher,
    reporter: &dyn Reporter,
) -> Result<Engine, EngineError> {
    let compiler = host::compiler()?;
    let tools = fetch(fetcher, nvcc12::GROUP)?;
    let mut linked = fetch(fetcher, LIBRARIES)?;
    linked.retain(|package| is_linked(&package.entry.name));
    let folder = cache.join(guest::CUDA_FOLDER);
    // Locks the folder against other builds. Kernels and engine are compiled from the same staged copy of the sources.
    let workshop = Workshop::open(source, &folder, reporter)?;
    let sources = workshop.judge(source)?;
    workshop.settle(&compiler, reporter)?;
    let home = kept(&folder, nvcc12::GROUP, &tools, |home| {
        nvcc12::unpack(&tools, home, reporter)
    })?;
    let libraries = kept(&folder, LIBRARIES, &linked, |home| {
        link_libraries(&linked, home, reporter)
    })?;
    let cubins = kernels(&workshop.staged(), &folder, &home, &compiler, reporter)?;
    let made_with = guest::Cuda {
        home,
        libraries,
        cubins,
        compiler,
    };
    let recipe = |environment: &_, guest: &_| recipe::cuda_engine(environment, guest, &made_with);
    let (path, crates) = workshop.make(recipe, reporter)?;
    let bytes = guest::read_program(&path)?;
    imports::check(&bytes)?;
    let made_of = MadeOf {
        crates,
        libraries: workshop.rust()?,
        sources,
    };
    let packages = tools.into_iter().chain(linked).collect();
    Ok(Engine {
        bytes,
        made_of,
        packages,
    })
}

/// Returns a folder that is named after `packages`, and calls `fill` to make it if it does not exist.
fn kept(
    folder: &Path,
    group: &'static str,
    packages: &[Fetched],
    fill: impl FnOnce(&Path) -> Result<(), ToolkitError>,
) -> Result<PathBuf, EngineError> {
    let place = folder.join(format!("{group}-{}", &key(packages).to_string()[..16]));
    if !place.is_dir() {
        files::create_folder(folder)?;
        let scratch = Scratch::making(folder)?;
        let made = scratch.path().join("made");
        fill(&made)?;
        std::fs::rename(&made, &place).map_err(FileError::write(&place))?;
    }
    Ok(place)
}

/// Returns a digest of the packages that were fetched, some of which may be substitutes for the locked ones. The prefix ends
/// in `v2` because older folders were named after the lock whatever they held; they must not be used.
fn key(packages: &[Fetched]) -> Hex32 {
    let mut hash = Sha256::new_with_prefix(b"cocoon-cuda-v2\0");
    for package in packages {
        hash.update(package.entry.sha256.to_string());
    }
    files::digest(hash)
}

/// Unpacks the libraries of `packages` into `home`, under the names that programs and linkers look for.
fn link_libraries(
    packages: &[Fetched],
    home: &Path,
    reporter: &dyn Reporter,
) -> Result<(), ToolkitError> {
    files::create_folder(home)?;
    for package in packages {
        let task = reporter.start(&format!("unpacking {}", package.entry.name), None);
        take_libraries(package, home)?;
        task.finish("done");
    }
    Ok(())
}

/// Returns whether a package of this name holds libraries to link to.
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
                // Linkers look for `libx.so`, whatever soname `libx.so.1.2` declares.
                let stem = file.split_once(".so").map_or(file, |(stem, _)| stem);
                let link = home.join(format!("{stem}.so"));
                if !link.exists() {
                    symlink(file, &link).map_err(FileError::write(&link))?;
                }
            }
            // Links are for running programs, and nothing is run with these libraries.
            Node::Symlink { .. } => {}
        }
    }
    Ok(())
}

/// Compiles the kernels and returns the folder with their machine code, after comparing it with the list of digests.
fn kernels(
    source: &Path,
    folder: &Path,
    home: &Path,
    compiler: &str,
    reporter: &dyn Reporter,
) -> Result<PathBuf, EngineError> {
    let sources = source.join(super::SOURCES);
    let scratch = Scratch::making(folder)?;
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
        // Unchanged files keep their modification times, so that cargo does not compile again.
        if std::fs::read(place.join(name)).ok().as_ref() != Some(bytes) {
            files::write(&place, name, bytes)?;
        }
    }
    Ok(place)
}

#[cfg(test)]
mod tests {
    use cocoon_inputs::{Digest, Entry, Kind};

    use super::*;

    fn fetched(content: &[u8], substituted: Option<Entry>) -> Fetched {
        Fetched {
            path: PathBuf::new(),
            entry: Entry {
                name: "nvidia-cuda-toolkit".to_owned(),
                version: "12.4".to_owned(),
                architecture: "amd64".to_owned(),
                kind: Kind::Debian,
                suite: Some("sid".to_owned()),
                path: "pool/x.deb".to_owned(),
                sha256: Digest::of(content),
                size: 1,
                groups: vec![nvcc12::GROUP.to_owned()],
            },
            substituted,
        }
    }

    /// What was made of a substituted package must never be used in place of what the lock names.
    #[test]
    fn folders_are_named_for_what_is_in_them() {
        let folder = tempfile::tempdir().unwrap();
        let locked = fetched(b"locked", None);
        let newest = fetched(b"newest", Some(locked.entry.clone()));
        let kept = |package: &Fetched, word: &'static str| {
            let fill = |home: &Path| {
                files::create_folder(home)?;
                files::write(home, "nvcc", word.as_bytes())?;
                Ok(())
            };
            let packages = std::slice::from_ref(package);
            let place = kept(folder.path(), nvcc12::GROUP, packages, fill).unwrap();
            std::fs::read_to_string(place.join("nvcc")).unwrap()
        };
        assert_eq!(kept(&newest, "of the newest"), "of the newest");
        assert_eq!(kept(&locked, "of the locked"), "of the locked");
        assert_eq!(kept(&newest, "made again"), "of the newest");
    }
}
