//! Fragment: the guest's executables, built by cargo from a staged copy of the sources.
//!
//! The copy and the target folder always have the same paths, `guest/src` and `guest/target` in the cache. So a fresh clone
//! does not compile the inference engine again, and no path of the clone gets into the executables.

pub mod cargo;
pub mod recipe;
pub mod settings;
pub mod stage;
mod toolchain;
mod workshop;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use cocoon_inputs::report::Reporter;
use object::read::elf::{FileHeader as _, ProgramHeader as _};
use object::{Endianness, elf};
use thiserror::Error;

use crate::files::{self, FileError};
use crate::provenance::Sources;
use crate::sbom::{Crate, Library};
use cargo::CargoError;
use recipe::RecipeError;
use settings::SettingsError;
use stage::StageError;
use toolchain::ToolchainError;

pub use recipe::Cuda;
pub(crate) use workshop::Workshop;
pub use workshop::clear;

/// Folder of the cache with agent, engine and collector.
pub const FOLDER: &str = "guest";
/// Folder of the cache with the engine for GPUs and what it is made with.
pub const CUDA_FOLDER: &str = "guest-cuda";
/// The machine's C++ compiler.
const CXX: &str = "c++";
/// Largest executable that is read, in bytes.
const MAX_EXECUTABLE: u64 = 1 << 30;

/// Executables of the initrd, which the assembly takes as they are.
#[derive(Clone)]
pub struct Binaries {
    /// The agent, which is PID 1.
    pub agent: Vec<u8>,
    /// The inference worker, if it is statically linked. The engine for GPUs is in the runtime volume instead.
    pub engine: Option<Vec<u8>>,
    /// What the executables were made of; `None` if they were given and not compiled.
    pub made_of: Option<MadeOf>,
}

/// Ingredients of compiled executables.
#[derive(Debug, Clone)]
pub struct MadeOf {
    /// Crates that are compiled into the executables.
    pub crates: BTreeSet<Crate>,
    /// Libraries that are linked into the executables.
    pub libraries: BTreeSet<Library>,
    /// Sources that were compiled.
    pub sources: Sources,
}

impl MadeOf {
    /// Adds the ingredients `other` of another executable of the same image.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.crates.extend(other.crates);
        self.libraries.extend(other.libraries);
        self.sources = self.sources.and(&other.sources);
        self
    }
}

/// Why the executables cannot be built or read.
#[derive(Debug, Error)]
pub enum GuestError {
    /// The sources cannot be copied.
    #[error("cannot stage the sources")]
    Stage(#[from] StageError),
    /// The environment lacks a variable, or a path cannot be used in a flag.
    #[error("cannot build the guest's executables")]
    Recipe(#[from] RecipeError),
    /// The machine's cargo configuration would change the result.
    #[error("cannot build the guest's executables as everybody else would")]
    Settings(#[from] SettingsError),
    /// The machine's C toolchain or the pinned Rust toolchain cannot be queried.
    #[error("cannot tell what the guest's executables are linked to")]
    Toolchain(#[from] ToolchainError),
    /// The packages of the workspace cannot be listed.
    #[error("cannot list the packages of the guest's executables")]
    Packages(#[source] CargoError),
    /// Cargo cannot build a package.
    #[error("cannot build {package}")]
    Cargo {
        /// Name of the package.
        package: &'static str,
        /// Why the build failed.
        #[source]
        source: CargoError,
    },
    /// A file cannot be read or written.
    #[error("cannot take the guest's executables")]
    File(#[from] FileError),
    /// The file is not a static x86-64 executable.
    #[error("{path} cannot run in the guest: {what}")]
    NotStatic {
        /// Path of the file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
}

impl Binaries {
    /// Reads agent and engine, which must be static x86-64 executables: the guest has no libraries and no interpreter.
    ///
    /// # Errors
    /// [`GuestError`] when a file cannot be read or is not such an executable.
    pub fn read(agent: &Path, engine: &Path) -> Result<Self, GuestError> {
        Ok(Self {
            engine: Some(executable(engine)?),
            ..Self::read_agent(agent)?
        })
    }

    /// Reads the agent only, which must be a static x86-64 executable.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_agent(agent: &Path) -> Result<Self, GuestError> {
        Ok(Self {
            agent: executable(agent)?,
            engine: None,
            made_of: None,
        })
    }
}

/// Builds agent and engine of the workspace at `source`, and keeps everything in `cache/guest`.
///
/// Waits while another build holds the lock of that folder.
///
/// # Errors
/// [`GuestError`], with the end of the compiler's output if the code does not compile.
pub fn build(source: &Path, cache: &Path, reporter: &dyn Reporter) -> Result<Binaries, GuestError> {
    let workshop = Workshop::open(source, &cache.join(FOLDER), reporter)?;
    let sources = workshop.judge(source)?;
    let toolchain = workshop.settle(CXX, reporter)?;
    let (agent, mut crates) = workshop.run(recipe::agent, reporter)?;
    let (engine, more) = workshop.run(recipe::engine, reporter)?;
    crates.extend(more);
    let mut libraries = workshop.rust()?;
    libraries.extend(toolchain.libraries());
    Ok(Binaries {
        agent,
        engine: Some(engine),
        made_of: Some(MadeOf {
            crates,
            libraries,
            sources,
        }),
    })
}

/// Builds the agent and the collector. The collector is the process that holds the GPUs; it is linked to the libraries of the
/// runtime volume.
///
/// # Errors
/// As [`build`].
pub fn build_with_collector(
    source: &Path,
    cache: &Path,
    reporter: &dyn Reporter,
) -> Result<(Binaries, Vec<u8>), GuestError> {
    let workshop = Workshop::open(source, &cache.join(FOLDER), reporter)?;
    let sources = workshop.judge(source)?;
    workshop.settle(CXX, reporter)?;
    let (agent, mut crates) = workshop.run(recipe::agent, reporter)?;
    let (path, more) = workshop.make(recipe::collector, reporter)?;
    crates.extend(more);
    let binaries = Binaries {
        agent,
        engine: None,
        made_of: Some(MadeOf {
            crates,
            libraries: workshop.rust()?,
            sources,
        }),
    };
    Ok((binaries, read_program(&path)?))
}

/// Reads a program of the runtime volume. It is not checked here but when the volume's files are selected.
///
/// # Errors
/// [`GuestError::File`].
pub fn read_program(path: &Path) -> Result<Vec<u8>, GuestError> {
    Ok(files::read(path, MAX_EXECUTABLE)?)
}

/// Builds the agent only, like [`build`].
///
/// # Errors
/// As [`build`].
pub fn build_agent(
    source: &Path,
    cache: &Path,
    reporter: &dyn Reporter,
) -> Result<Vec<u8>, GuestError> {
    let workshop = Workshop::open(source, &cache.join(FOLDER), reporter)?;
    let (agent, _) = workshop.run(recipe::agent, reporter)?;
    Ok(agent)
}

fn executable(path: &Path) -> Result<Vec<u8>, GuestError> {
    let bytes = files::read(path, MAX_EXECUTABLE)?;
    check_static(&bytes).map_err(|what| GuestError::NotStatic {
        path: path.to_owned(),
        what,
    })?;
    Ok(bytes)
}

fn check_static(bytes: &[u8]) -> Result<(), &'static str> {
    let header = elf::FileHeader64::<Endianness>::parse(bytes)
        .map_err(|_| "it is not an ELF file of 64 bits")?;
    let endian = header.endian().map_err(|_| "it has no byte order")?;
    if header.e_machine(endian) != elf::EM_X86_64 {
        return Err("it is not for x86-64");
    }
    let segments = header
        .program_headers(endian, bytes)
        .map_err(|_| "its program headers lie outside the file")?;
    if segments.is_empty() {
        return Err("it is not an executable");
    }
    if segments
        .iter()
        .any(|segment| segment.p_type(endian) == elf::PT_INTERP)
    {
        return Err("it is linked dynamically, and the guest has no libraries");
    }
    Ok(())
}

/// Returns the workspace around `start`: the nearest folder upwards that holds the guest's sources.
pub fn find_source(start: &Path) -> Option<PathBuf> {
    let holds = |folder: &&Path| {
        [
            "Cargo.lock",
            "guest-agent/Cargo.toml",
            "guest-agent/engine/Cargo.toml",
        ]
        .iter()
        .all(|file| fs::metadata(folder.join(file)).is_ok())
    };
    start.ancestors().find(holds).map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_static_executables_pass() {
        assert_eq!(
            check_static(b"#!/bin/sh\n"),
            Err("it is not an ELF file of 64 bits")
        );
        let dynamic = fs::read("/bin/sh").unwrap();
        assert_eq!(
            check_static(&dynamic),
            Err("it is linked dynamically, and the guest has no libraries")
        );
        let mut arm = dynamic;
        arm[18] = 183;
        assert_eq!(check_static(&arm), Err("it is not for x86-64"));
        arm[54..58].fill(0);
    }

    #[test]
    fn the_workspace_is_found_from_within() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let found = find_source(&here.join("src")).unwrap();
        assert_eq!(found, here.parent().unwrap());
        assert_eq!(find_source(Path::new("/")), None);
    }
}
