//! From sources and lock file to an image: fetch, compile, assemble.

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

/// Where the lock file lies below the sources.
pub const LOCK_FILE: &str = "image/inputs.lock";
/// The agent's name in a folder of executables.
pub const AGENT: &str = "agent";
/// The largest lock file, in bytes.
pub(crate) const MAX_LOCK: u64 = 4 << 20;

/// What to build, and where from.
#[derive(Debug, Clone)]
pub struct Build {
    /// Its kind.
    pub variant: Variant,
    /// The workspace.
    pub source: PathBuf,
    /// The cache's folder.
    pub cache: PathBuf,
    /// Addresses of Debian mirrors; empty takes those of this machine's apt.
    pub mirrors: Vec<String>,
    /// Keys that may sign Debian's Release files.
    pub keyring: Keyring,
    /// What to do when a locked file is gone.
    pub policy: Policy,
    /// A model of this machine, or `None` for the default.
    pub model: Option<PathBuf>,
    /// Its identifier, where the file's name is not to be it.
    pub model_id: Option<String>,
    /// A folder with executables to take instead of building: [`AGENT`], `engine`, and for GPUs `cocoon-gpu`.
    pub binaries: Option<PathBuf>,
    /// Threads for hashing.
    pub jobs: usize,
}

/// The manifest's release and life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// Rising number.
    pub release: u64,
    /// Seconds since 1970.
    pub not_before: u64,
    /// Seconds since 1970.
    pub not_after: u64,
}

/// Why there is no image.
#[derive(Debug, Error)]
pub enum BuildError {
    /// The cache.
    #[error("cannot use the cache")]
    Cache(#[from] CacheError),
    /// The lock file.
    #[error("cannot use {path}")]
    Lock {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: LockError,
    },
    /// A mirror's address.
    #[error("cannot use the given mirror")]
    Mirror(#[from] MirrorError),
    /// A foreign ingredient.
    #[error("cannot have all inputs")]
    Foreign(#[from] ForeignError),
    /// The given model.
    #[error("cannot use the given model")]
    Model(#[from] SourceError),
    /// The guest's executables.
    #[error("cannot have the guest's executables")]
    Guest(#[from] GuestError),
    /// NVIDIA's modules.
    #[error("cannot have NVIDIA's driver")]
    Driver(#[from] DriverError),
    /// The engine for GPUs.
    #[error("cannot have the engine for GPUs")]
    Engine(#[from] crate::cuda::engine::EngineError),
    /// The programs that use the GPUs.
    #[error("cannot put the runtime volume together")]
    Runtime(#[from] RuntimeError),
    /// The assembly.
    #[error("cannot assemble the image")]
    Assemble(#[from] AssembleError),
    /// The list of ingredients.
    #[error("cannot list what the image is made of")]
    Sbom(#[from] SbomError),
    /// A file.
    #[error("cannot prepare the build")]
    File(#[from] FileError),
    /// What this program decides itself may differ from what the sources' own would.
    #[error(
        "this cocoon-image was compiled from other sources than those in {workspace}: build cocoon-image anew there, or name its own with --source"
    )]
    OtherProgram {
        /// The sources at hand.
        workspace: PathBuf,
    },
}

/// Where the time of a build went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spent {
    /// On what goes into the image compiled: agent and engine; for GPUs the driver and the whole runtime volume, too.
    pub compiling: Duration,
    /// On everything else: inputs, initrd, model volume, measurements.
    pub assembling: Duration,
}

/// Builds the image into `folder`.
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

/// The same, and where the time went.
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
    // The cheap checks first: a wrong model or a missing compiler must not cost a download or a compilation.
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

/// The lock file of the workspace at `source`, and its SHA-256.
///
/// # Errors
/// [`BuildError`] when it cannot be read.
pub fn lock(source: &Path) -> Result<(Lock, Hex32), BuildError> {
    let path = source.join(LOCK_FILE);
    let bytes = files::read(&path, MAX_LOCK)?;
    let lock = Lock::parse(&String::from_utf8_lossy(&bytes));
    Ok((
        lock.map_err(|source| BuildError::Lock { path, source })?,
        Hex32::sha256(&bytes),
    ))
}

/// The mirrors that `urls` name, or this machine's.
///
/// # Errors
/// [`MirrorError`] for an address that is none.
pub fn mirrors(urls: &[String]) -> Result<Result<Mirrors, MirrorError>, MirrorError> {
    // Without any mirror a build still works as long as the cache has everything.
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
