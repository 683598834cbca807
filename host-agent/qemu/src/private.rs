//! A private QEMU: locked packages, unpacked once under a content key and started with their own loader.
//!
//! Nothing is installed and no maintainer script runs. The loader and every library come from the same packages, so the
//! host's C library does not matter.

use std::error::Error;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cocoon_inputs::Fetched;
use cocoon_inputs::report::{self, Reporter};
use cocoon_inputs::unpack::{Limits, unpack_deb_into};
use nix::errno::Errno;
use nix::unistd::syncfs;
use sha2::{Digest, Sha256};

use crate::find::{FindError, Origin, Qemu};

/// Name of the folder of copies in the cache.
const FOLDER: &str = "qemu";
/// Folder of the libraries inside a copy.
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// Opens the copy made of `packages`. Unpacks it below the folder `cache` if it is not there yet, and once more if it is
/// broken, since a disk may have lost some of it. Processes that want the same copy at the same time wait for the first.
///
/// # Errors
/// [`PrivateError`] with the step that failed and the file. An interrupted unpacking leaves nothing that could be mistaken
/// for a copy.
pub async fn open(
    cache: &Path,
    packages: Vec<Fetched>,
    reporter: Arc<dyn Reporter>,
) -> Result<Qemu, PrivateError> {
    opened(cache, packages.into(), reporter).await
}

async fn opened<P: Package + Send + Sync + 'static>(
    cache: &Path,
    packages: Arc<[P]>,
    reporter: Arc<dyn Reporter>,
) -> Result<Qemu, PrivateError> {
    let cache = cache.join(FOLDER);
    let make = |broken: Option<u64>| {
        let (cache, packages, reporter) =
            (cache.clone(), Arc::clone(&packages), Arc::clone(&reporter));
        tokio::task::spawn_blocking(move || unpacked(&cache, &packages, broken, &*reporter))
    };
    let root = make(None).await??;
    let found = number(&root);
    match at(&root).await {
        Err(error) if found.is_some() && is_broken(&error) => at(&make(found).await??).await,
        asked => asked,
    }
}

/// Returns the folder of the copy of packages with these digests, if it was unpacked below the folder `cache` before.
#[must_use]
pub fn held(cache: &Path, digests: impl Iterator<Item = [u8; 32]>) -> Option<PathBuf> {
    let root = cache.join(FOLDER).join(content_key(digests).ok()?);
    root.is_dir().then_some(root)
}

/// Opens the copy that was unpacked into the folder `root` before.
///
/// # Errors
/// [`PrivateError`] if something is missing there or the copy does not run.
pub async fn at(root: &Path) -> Result<Qemu, PrivateError> {
    let mut qemu = describe(root)?;
    qemu.version = Qemu::ask(&qemu.program, &qemu.environment).await?;
    Ok(qemu)
}

/// Why no private copy is available.
#[derive(Debug, thiserror::Error)]
pub enum PrivateError {
    /// The list of packages is empty.
    #[error("the list of packages for a private QEMU is empty; check the lock file")]
    NoPackages,
    /// A file or folder in the cache cannot be written.
    #[error("cannot prepare {path:?} in the cache; check its permissions and free space")]
    Cache {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The disk or the quota is full.
    #[error(
        "no space left for a private QEMU in {path:?}: free 300 MB, or set COCOON_CACHE to a folder on a larger disk"
    )]
    NoSpace {
        /// The file or folder.
        path: PathBuf,
    },
    /// A package cannot be unpacked.
    #[error("cannot unpack {package:?} for a private QEMU")]
    Unpack {
        /// The package.
        package: PathBuf,
        /// Why it cannot be unpacked.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The packages lack a required file.
    #[error("the private QEMU's packages contain no {0}; check the lock file")]
    Missing(&'static str),
    /// The copy does not run.
    #[error("the private QEMU does not run")]
    Run(#[from] FindError),
    /// The unpacking thread panicked or was cancelled.
    #[error("unpacking was interrupted")]
    Interrupted(#[from] tokio::task::JoinError),
}

/// A package, as the unpacking needs it.
trait Package {
    fn file(&self) -> &Path;
    fn sha256(&self) -> [u8; 32];
    fn unpack(&self, root: &Path) -> Result<(), Box<dyn Error + Send + Sync>>;
}

impl Package for Fetched {
    fn file(&self) -> &Path {
        &self.path
    }

    fn sha256(&self) -> [u8; 32] {
        *self.entry.sha256.as_bytes()
    }

    fn unpack(&self, root: &Path) -> Result<(), Box<dyn Error + Send + Sync>> {
        // Documentation makes up half of the files and is not needed.
        let keep = |path: &str| !path.starts_with("usr/share/doc/");
        unpack_deb_into(&self.read()?, Limits::default(), keep, root)?;
        Ok(())
    }
}

/// Returns the folder of the complete copy, which the rename at the end makes valid. A copy with the inode number `broken`
/// is replaced.
fn unpacked<P: Package>(
    cache: &Path,
    packages: &[P],
    broken: Option<u64>,
    reporter: &dyn Reporter,
) -> Result<PathBuf, PrivateError> {
    let key = content_key(packages.iter().map(Package::sha256))?;
    let root = cache.join(&key);
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source: io::Error| match is_full(&source) {
            true => PrivateError::NoSpace { path },
            false => PrivateError::Cache { path, source },
        }
    };
    let there = || number(&root).is_some_and(|number| Some(number) != broken);
    if there() {
        return Ok(root);
    }
    fs::create_dir_all(cache).map_err(at(cache))?;
    let lock = cache.join(format!("{key}.lock"));
    let held = File::create(&lock).map_err(at(&lock))?;
    report::exclusive(
        &held,
        reporter,
        "waiting for another process that unpacks it",
    )
    .map_err(at(&lock))?;
    if there() {
        return Ok(root);
    }
    let [partial, old] = ["partial", "old"].map(|end| cache.join(format!("{key}.{end}")));
    for left in [&partial, &old] {
        match fs::remove_dir_all(left) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(left)(error)),
            _ => {}
        }
    }
    fs::create_dir(&partial).map_err(at(&partial))?;
    let task = reporter.start("unpack a private QEMU", None);
    for package in packages {
        task.say(
            &package
                .file()
                .file_name()
                .unwrap_or_default()
                .to_string_lossy(),
        );
        let fail = |source: Box<dyn Error + Send + Sync>| match is_full(&*source) {
            true => PrivateError::NoSpace {
                path: cache.to_owned(),
            },
            false => PrivateError::Unpack {
                package: package.file().to_owned(),
                source,
            },
        };
        package.unpack(&partial).map_err(fail)?;
    }
    task.finish("unpacked");
    describe(&partial)?;
    // The data must be on disk before the rename: after a power failure, the name could otherwise exist without its contents.
    let disk = File::open(&partial).map_err(at(&partial))?;
    syncfs(&disk).map_err(|errno| at(&partial)(errno.into()))?;
    // The old copy is renamed first: removing it takes time, during which other processes would start from an incomplete copy.
    match fs::rename(&root, &old) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(&root)(error)),
        _ => fs::rename(&partial, &root).map_err(at(&root))?,
    }
    // Machines that run from the old copy have its files open. What cannot be removed only takes space.
    let _ = fs::remove_dir_all(&old);
    Ok(root)
}

/// Returns whether the copy itself is at fault, rather than a host that is short of time, memory or processes: a healthy
/// copy must not be replaced, since other processes may be starting from it.
fn is_broken(error: &PrivateError) -> bool {
    match error {
        PrivateError::Missing(_) | PrivateError::Run(FindError::NotQemu { .. }) => true,
        PrivateError::Run(FindError::Run { source, .. }) => match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => true,
            _ => {
                let errno = source.raw_os_error().map(Errno::from_raw);
                matches!(errno, Some(Errno::ENOEXEC | Errno::ELIBBAD))
            }
        },
        _ => false,
    }
}

/// Returns the inode number of the folder `root`, if it exists. Another copy has another number.
fn number(root: &Path) -> Option<u64> {
    let folder = fs::metadata(root).ok().filter(fs::Metadata::is_dir)?;
    Some(folder.ino())
}

/// Returns whether the error was caused by a full disk or quota.
fn is_full(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let kind = error.downcast_ref().map(io::Error::kind);
        if let Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) = kind {
            return true;
        }
        next = error.source();
    }
    false
}

/// Returns a key that depends on the packages but not on their order.
fn content_key(digests: impl Iterator<Item = [u8; 32]>) -> Result<String, PrivateError> {
    let mut digests: Vec<_> = digests.collect();
    digests.sort_unstable();
    if digests.is_empty() {
        return Err(PrivateError::NoPackages);
    }
    let digest = digests
        .iter()
        .fold(
            Sha256::new_with_prefix("private qemu 1\0"),
            Sha256::chain_update,
        )
        .finalize();
    Ok(hex::encode(&digest[..16]))
}

/// Describes how to start the copy in `root`. The version is asked for afterwards.
fn describe(root: &Path) -> Result<Qemu, PrivateError> {
    let need = |path: &'static str| {
        let full = root.join(path);
        if full.exists() {
            Ok(full)
        } else {
            Err(PrivateError::Missing(path))
        }
    };
    let libraries = root.join(LIBRARIES);
    let program: Vec<OsString> = vec![
        need("usr/lib64/ld-linux-x86-64.so.2")?.into(),
        "--library-path".into(),
        libraries.clone().into(),
        need("usr/bin/qemu-system-x86_64")?.into(),
    ];
    Ok(Qemu {
        version: crate::find::MINIMUM,
        program,
        data: vec![need("usr/share/qemu")?, need("usr/share/seabios")?],
        // By default, QEMU looks for modules beside the loader and then in the system's folder, which holds another version's.
        environment: vec![("QEMU_MODULE_DIR".into(), libraries.join("qemu").into())],
        origin: Origin::Private(root.to_owned()),
    })
}

#[cfg(test)]
#[path = "private_tests.rs"]
mod tests;
