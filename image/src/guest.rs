//! Fragment: the guest's two executables, built by cargo from a staged copy of the sources.
//!
//! The copy and the target folder always lie in the same place, `guest/src` and `guest/target` of the cache, so that a
//! fresh clone does not compile the inference engine again, and no path of the clone gets into the binaries.

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

/// The folder of the cache with agent and engine.
pub const FOLDER: &str = "guest";
/// The folder of the cache with the engine for GPUs, and what that is made with.
pub const CUDA_FOLDER: &str = "guest-cuda";
/// The machine's C++ compiler.
const CXX: &str = "c++";
/// The largest executable that is taken into an initrd, in bytes.
const MAX_EXECUTABLE: u64 = 1 << 30;

/// The executables, which the assembly takes as they are.
#[derive(Clone)]
pub struct Binaries {
    /// PID 1.
    pub agent: Vec<u8>,
    /// The inference worker, where it is static; that of GPUs lies in the runtime volume.
    pub engine: Option<Vec<u8>>,
    /// What they were made of; unknown for executables that were given.
    pub made_of: Option<MadeOf>,
}

/// What executables were made of.
#[derive(Debug, Clone)]
pub struct MadeOf {
    /// What is compiled into them.
    pub crates: BTreeSet<Crate>,
    /// What they are linked to, of which bytes are in them.
    pub libraries: BTreeSet<Library>,
    /// The sources.
    pub sources: Sources,
}

impl MadeOf {
    /// Of these and, for another executable of the same image, of `other`.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.crates.extend(other.crates);
        self.libraries.extend(other.libraries);
        self.sources = self.sources.and(&other.sources);
        self
    }
}

/// Why there are no executables.
#[derive(Debug, Error)]
pub enum GuestError {
    /// The sources cannot be copied.
    #[error("cannot stage the sources")]
    Stage(#[from] StageError),
    /// The environment lacks something.
    #[error("cannot build the guest's executables")]
    Recipe(#[from] RecipeError),
    /// The machine's cargo is told something that changes the result.
    #[error("cannot build the guest's executables as everybody else would")]
    Settings(#[from] SettingsError),
    /// The machine's C toolchain or the pinned Rust's cannot be asked.
    #[error("cannot tell what the guest's executables are linked to")]
    Toolchain(#[from] ToolchainError),
    /// The packages cannot be listed.
    #[error("cannot list the packages of the guest's executables")]
    Packages(#[source] CargoError),
    /// Cargo failed.
    #[error("cannot build {package}")]
    Cargo {
        /// Its package.
        package: &'static str,
        /// Why.
        #[source]
        source: CargoError,
    },
    /// A file cannot be read or written.
    #[error("cannot take the guest's executables")]
    File(#[from] FileError),
    /// Not what the guest can run.
    #[error("{path} cannot run in the guest: {what}")]
    NotStatic {
        /// The file.
        path: PathBuf,
        /// Why not.
        what: &'static str,
    },
}

impl Binaries {
    /// Reads both, which must be static x86-64 executables: the guest has no library and no interpreter.
    ///
    /// # Errors
    /// [`GuestError`] when one cannot be read or is anything else.
    pub fn read(agent: &Path, engine: &Path) -> Result<Self, GuestError> {
        Ok(Self {
            engine: Some(executable(engine)?),
            ..Self::read_agent(agent)?
        })
    }

    /// Reads the agent alone.
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

/// Builds agent and engine of the workspace at `source`, with everything kept in `cache/guest`.
///
/// Waits while another build holds the lock there.
///
/// # Errors
/// [`GuestError`], with the compiler's last words when it was the code's fault.
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

/// Builds the agent, and the collector: the process that holds the GPUs, linked to the libraries of the runtime volume.
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

/// Reads a program of the runtime volume, which judges it.
///
/// # Errors
/// [`GuestError::File`].
pub fn read_program(path: &Path) -> Result<Vec<u8>, GuestError> {
    Ok(files::read(path, MAX_EXECUTABLE)?)
}

/// Builds the agent alone, as [`build`] does.
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

/// The workspace that `start` lies in: the nearest folder upwards with the guest's sources.
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
