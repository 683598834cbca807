//! Fragment: the guest's two executables, built by cargo from a staged copy of the sources.
//!
//! The copy and the target folder always lie in the same place, `guest/src` and `guest/target` of the cache, so that a
//! fresh clone does not compile the inference engine again, and no path of the clone gets into the binaries.

pub mod cargo;
pub mod recipe;
pub mod settings;
pub mod stage;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use cocoon_inputs::report::{self, Reporter};
use object::read::elf::{FileHeader as _, ProgramHeader as _};
use object::{Endianness, elf};
use thiserror::Error;

use crate::files::{self, FileError};
use crate::sbom::Crate;
use cargo::CargoError;
use recipe::{Recipe, RecipeError};
use settings::SettingsError;
use stage::StageError;

pub use recipe::Cuda;

/// The folder of the cache with agent and engine.
pub const FOLDER: &str = "guest";
/// The folder of the cache with the engine for GPUs, and what that is made with.
pub const CUDA_FOLDER: &str = "guest-cuda";
/// The largest executable that is taken into an initrd, in bytes.
const MAX_EXECUTABLE: u64 = 1 << 30;

/// The executables, which the assembly takes as they are.
#[derive(Clone)]
pub struct Binaries {
    /// PID 1.
    pub agent: Vec<u8>,
    /// The inference worker, where it is static; that of GPUs lies in the runtime volume.
    pub engine: Option<Vec<u8>>,
    /// What is compiled into them; unknown, and so empty, for executables that were given.
    pub crates: BTreeSet<Crate>,
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
            crates: BTreeSet::new(),
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
    let (agent, mut crates) = workshop.run(recipe::agent, reporter)?;
    let (engine, more) = workshop.run(recipe::engine, reporter)?;
    crates.extend(more);
    Ok(Binaries {
        agent,
        engine: Some(engine),
        crates,
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
    let (agent, mut crates) = workshop.run(recipe::agent, reporter)?;
    let (path, more) = workshop.make(recipe::collector, reporter)?;
    crates.extend(more);
    let binaries = Binaries {
        agent,
        engine: None,
        crates,
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

/// Builds the engine for NVIDIA's GPUs alone, a dynamic executable, with everything kept in [`CUDA_FOLDER`] of `cache`: it
/// takes long, and nobody who builds the others waits for it.
///
/// # Errors
/// As [`build`].
pub fn build_cuda_engine(
    source: &Path,
    cache: &Path,
    cuda: &Cuda,
    reporter: &dyn Reporter,
) -> Result<(Vec<u8>, BTreeSet<Crate>), GuestError> {
    let workshop = Workshop::open(source, &cache.join(CUDA_FOLDER), reporter)?;
    let recipe = |environment: &_, guest: &_| recipe::cuda_engine(environment, guest, cuda);
    let (path, crates) = workshop.make(recipe, reporter)?;
    Ok((read_program(&path)?, crates))
}

/// The staged sources and the target folder, held against other builds until dropped.
struct Workshop {
    guest: PathBuf,
    environment: recipe::Environment,
    _lock: File,
}

impl Workshop {
    fn open(source: &Path, guest: &Path, reporter: &dyn Reporter) -> Result<Self, GuestError> {
        files::create_folder(guest)?;
        // As cargo sees it: it looks for settings above the real folder, and its paths are mapped away.
        let guest = fs::canonicalize(guest).map_err(FileError::read(guest))?;
        let lock = lock(&guest.join("lock"), reporter)?;
        let staged = guest.join("src");
        stage::stage(source, &staged)?;
        let environment = recipe::Environment::of_process()?;
        settings::check(&staged, environment.cargo_home())?;
        let registries = cargo::registries(&environment, &staged, reporter);
        let registries = registries.map_err(GuestError::Packages)?;
        Ok(Self {
            guest,
            environment: environment.with_registries(&registries)?,
            _lock: lock,
        })
    }

    /// The executable's bytes, read under the lock, for the next build may replace the file; and what is in it.
    fn run(
        &self,
        recipe: fn(&recipe::Environment, &Path) -> Result<Recipe, RecipeError>,
        reporter: &dyn Reporter,
    ) -> Result<(Vec<u8>, BTreeSet<Crate>), GuestError> {
        let (path, crates) = self.make(recipe, reporter)?;
        Ok((executable(&path)?, crates))
    }

    /// The executable's path, which holds under the lock alone.
    fn make(
        &self,
        recipe: impl FnOnce(&recipe::Environment, &Path) -> Result<Recipe, RecipeError>,
        reporter: &dyn Reporter,
    ) -> Result<(PathBuf, BTreeSet<Crate>), GuestError> {
        let recipe = recipe(&self.environment, &self.guest)?;
        let built = cargo::build(&recipe, &self.guest.join("src"), reporter);
        built.map_err(|source| GuestError::Cargo {
            package: recipe.package,
            source,
        })
    }
}

/// Held until dropped. The file stays: removing it would let two builds hold "the" lock.
fn lock(path: &Path, reporter: &dyn Reporter) -> Result<File, FileError> {
    let file = File::options()
        .create(true)
        .write(true)
        .truncate(false)
        .open(path)
        .map_err(FileError::write(path))?;
    report::exclusive(&file, reporter, "waiting for another build of the guest")
        .map_err(FileError::write(path))?;
    Ok(file)
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
