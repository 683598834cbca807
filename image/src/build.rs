//! Builds an image from sources and lock file: fetches inputs, compiles the guest, and assembles.

mod cuda;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cocoon_inputs::report::Reporter;
use cocoon_inputs::{
    Cache, CacheError, Fetcher, Keyring, Lock, LockError, MirrorError, Mirrors, Options, Policy,
};
use cocoon_protocol::bytes::Hex32;
use cocoon_protocol::manifest::Manifest;
use thiserror::Error;

use crate::assemble::{self, AssembleError, Ingredients, Stamp};
use crate::driver::DriverError;
use crate::files::{self, FileError};
use crate::foreign::{Foreign, ForeignError};
use crate::guest::{self, Binaries, GuestError};
use crate::kernel;
use crate::model::{Source, SourceError};
use crate::provenance;
use crate::runtime::{self, RuntimeError};
use crate::sbom::{self, SbomError};
use crate::scratch::Scratch;
use crate::variant::Variant;

/// Path of the lock file, relative to the sources.
pub const LOCK_FILE: &str = "image/inputs.lock";
/// Name of the agent in a folder of executables.
pub const AGENT: &str = "agent";
/// Largest lock file that is read, in bytes.
pub(crate) const MAX_LOCK: u64 = 4 << 20;

/// What to build, and from what.
#[derive(Debug, Clone)]
pub struct Build {
    /// Variant of the image.
    pub variant: Variant,
    /// Folder of the workspace with the sources.
    pub source: PathBuf,
    /// Folder of the cache.
    pub cache: PathBuf,
    /// URLs of Debian mirrors; if empty, those of this machine's apt are used.
    pub mirrors: Vec<String>,
    /// Keys that may sign Debian's Release files.
    pub keyring: Keyring,
    /// What to do when a locked file is gone.
    pub policy: Policy,
    /// Path of a model on this machine, or `None` for the locked default model.
    pub model: Option<PathBuf>,
    /// Identifier of the model in the API, or `None` to derive it from the model's file name.
    pub model_id: Option<String>,
    /// Folder with executables to use instead of compiling them: [`AGENT`], `engine`, and `cocoon-gpu` for GPUs.
    pub binaries: Option<PathBuf>,
    /// Number of threads for hashing.
    pub jobs: usize,
}

/// Release number and validity of a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// Release number, which rises from release to release.
    pub release: u64,
    /// Start of the validity, in seconds since 1970.
    pub not_before: u64,
    /// End of the validity, in seconds since 1970.
    pub not_after: u64,
}

/// Why an image cannot be built.
#[derive(Debug, Error)]
pub enum BuildError {
    /// The cache cannot be used.
    #[error("cannot use the cache")]
    Cache(#[from] CacheError),
    /// The lock file is not valid.
    #[error("cannot use {path}")]
    Lock {
        /// Path of the lock file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: LockError,
    },
    /// The URL of a mirror is not valid.
    #[error("cannot use the given mirror")]
    Mirror(#[from] MirrorError),
    /// A foreign input is not available.
    #[error("cannot have all inputs")]
    Foreign(#[from] ForeignError),
    /// The given model cannot be used.
    #[error("cannot use the given model")]
    Model(#[from] SourceError),
    /// The guest's executables cannot be compiled or read.
    #[error("cannot have the guest's executables")]
    Guest(#[from] GuestError),
    /// NVIDIA's kernel modules cannot be compiled.
    #[error("cannot have NVIDIA's driver")]
    Driver(#[from] DriverError),
    /// The engine for GPUs cannot be compiled.
    #[error("cannot have the engine for GPUs")]
    Engine(#[from] crate::cuda::engine::EngineError),
    /// The files of the runtime volume cannot be selected.
    #[error("cannot put the runtime volume together")]
    Runtime(#[from] RuntimeError),
    /// The image cannot be assembled.
    #[error("cannot assemble the image")]
    Assemble(#[from] AssembleError),
    /// The SBOM cannot be made.
    #[error("cannot list what the image is made of")]
    Sbom(#[from] SbomError),
    /// A file or folder cannot be read or written.
    #[error("cannot prepare the build")]
    File(#[from] FileError),
    /// This program was compiled from other sources than those to verify with, so its differences would look like differences
    /// of the image.
    #[error(
        "this cocoon-image was compiled from other sources than those in {workspace}: build cocoon-image anew there, or name its own with --source"
    )]
    OtherProgram {
        /// Folder of the workspace with the sources.
        workspace: PathBuf,
    },
}

/// How long the parts of a build took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spent {
    /// Time to compile agent and engine or, for GPUs, to make the driver and all files of the runtime volume.
    pub compiling: Duration,
    /// Time for everything else: inputs, initrd, model volume, measurements.
    pub assembling: Duration,
}

/// Builds the image `what` into `folder`.
///
/// # Errors
/// [`BuildError`].
pub fn build(
    what: &Build,
    life: &Life,
    folder: &Path,
    reporter: &Arc<dyn Reporter>,
) -> Result<Manifest, BuildError> {
    build_timed(what, life, folder, reporter).map(|(manifest, _)| manifest)
}

/// Builds like [`build`], and also returns how long the parts took.
///
/// # Errors
/// As [`build`].
pub fn build_timed(
    what: &Build,
    life: &Life,
    folder: &Path,
    reporter: &Arc<dyn Reporter>,
) -> Result<(Manifest, Spent), BuildError> {
    let started = Instant::now();
    // Cheap checks come first: a wrong model or a missing compiler must not cost a download or a compilation.
    let given = what
        .model
        .as_deref()
        .map(|path| Source::open(path, what.model_id.as_deref()))
        .transpose()?;
    let with_gpus = what.variant == Variant::Cuda;
    if with_gpus && what.binaries.is_none() {
        crate::cuda::engine::check()?;
    }
    files::create_folder(folder)?;
    let (lock, inputs_lock) = lock(&what.source)?;
    let fetcher = fetcher(what, lock, reporter)?;
    let cache = fetcher.cache().root().to_owned();
    let scratch = Scratch::in_cache(&cache)?;
    let mut foreign = Foreign::new(&fetcher, &**reporter);
    let more = if with_gpus { kernel::FOR_DRIVER } else { &[] };
    let (kernel, firmware) = (foreign.kernel(more)?, foreign.firmware()?);
    let model = match given {
        Some(model) => model,
        None => foreign.model(scratch.path())?,
    };
    let compiling = Instant::now();
    let (gpu, binaries) = if with_gpus {
        let (gpu, binaries) = cuda::make(what, &fetcher, &mut foreign, &kernel, &**reporter)?;
        (Some(gpu), binaries)
    } else {
        let binaries = match &what.binaries {
            Some(folder) => Binaries::read(&folder.join(AGENT), &folder.join(runtime::ENGINE))?,
            None => guest::build(&what.source, &cache, &**reporter)?,
        };
        (None, binaries)
    };
    let compiling = compiling.elapsed();
    let (name, sbom) = match &binaries.made_of {
        Some(made_of) => (
            made_of.sources.name_with(inputs_lock),
            sbom::document(
                &foreign.taken,
                &foreign.tools,
                &made_of.crates,
                &made_of.libraries,
                &sbom::checksums(&made_of.sources.cargo_lock)?,
                inputs_lock,
            ),
        ),
        None => (
            provenance::Name::of(&what.source, &what.source),
            sbom::document(
                &foreign.taken,
                &foreign.tools,
                &BTreeSet::new(),
                &BTreeSet::new(),
                &BTreeMap::new(),
                inputs_lock,
            ),
        ),
    };
    if let Some(refusal) = &name.refusal {
        reporter.note(&format!("git does not name the sources: {refusal}"));
    }
    if !name.own {
        reporter.note("this cocoon-image was compiled from other sources than those at hand: build it anew there for an image without that mark");
    }
    let mut unlocked = foreign.unlocked;
    unlocked.extend(provenance::marks(&name, what.binaries.as_deref()));
    let stamp = Stamp {
        release: life.release,
        variant: what.variant.name().to_owned(),
        source_revision: name.revision,
        not_before: life.not_before,
        not_after: life.not_after,
        inputs_lock,
        unlocked,
    };
    let ingredients = Ingredients {
        kernel,
        firmware,
        binaries,
        model,
        sbom,
        gpu,
    };
    let manifest = assemble::assemble(&ingredients, &stamp, folder, what.jobs, &**reporter)?;
    let assembling = started.elapsed().saturating_sub(compiling);
    let spent = Spent {
        compiling,
        assembling,
    };
    Ok((manifest, spent))
}

/// Returns the lock file of the workspace at `source`, and its SHA-256.
///
/// # Errors
/// [`BuildError`] when it cannot be read or is not valid.
pub fn lock(source: &Path) -> Result<(Lock, Hex32), BuildError> {
    let path = source.join(LOCK_FILE);
    let bytes = files::read(&path, MAX_LOCK)?;
    let lock = Lock::parse(&String::from_utf8_lossy(&bytes));
    Ok((
        lock.map_err(|source| BuildError::Lock { path, source })?,
        Hex32::sha256(&bytes),
    ))
}

/// Returns the mirrors at `urls` or, if there are none, those of this machine's apt. The inner result is for the latter.
///
/// # Errors
/// [`MirrorError`] when a URL is not valid.
pub fn mirrors(urls: &[String]) -> Result<Result<Mirrors, MirrorError>, MirrorError> {
    // A machine without a mirror is no error yet: the build still works if the cache holds every input.
    if urls.is_empty() {
        Ok(Mirrors::discover())
    } else {
        Mirrors::from_urls(urls).map(Ok)
    }
}

fn fetcher(what: &Build, lock: Lock, reporter: &Arc<dyn Reporter>) -> Result<Fetcher, BuildError> {
    let options = Options {
        policy: what.policy,
        keyring: what.keyring.clone(),
        ..Options::default()
    };
    let cache = Cache::open(&what.cache)?;
    Ok(Fetcher::new(
        lock,
        cache,
        mirrors(&what.mirrors)?,
        options,
        Arc::clone(reporter),
    ))
}
