//! Fragment: NVIDIA's kernel modules, for an image with real GPUs.
//!
//! They are NVIDIA's open modules from Debian's package (contrib). Debian's compiler compiles them against the headers of the
//! very kernel that the image boots, in a [workroom](crate::workroom) of locked packages, so nothing of the build machine but
//! its running kernel is used. **Not all of it is source:** the package holds `nv-kernel.o_binary`, the part that all operating
//! systems share, which Debian's builders compiled from NVIDIA's published source. Trusting the image means trusting that
//! object.
//!
//! No key that the kernel holds has signed the modules. Only modules in the measured initrd can be loaded, and the agent
//! disables module loading after the last one.

mod compile;
pub mod source;

use std::path::{Path, PathBuf};

use cocoon_inputs::report::Reporter;
use cocoon_inputs::{FetchError, Fetched, Fetcher};
use cocoon_protocol::bytes::Hex32;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::files::{self, FileError};
use crate::kernel::Module;
use crate::kernel::modinfo::{self, ModinfoError};
use crate::package::{self, PackageError};
use crate::workroom::{Workroom, WorkroomError};
use source::SourceError;

/// Folder of the cache with the compiled modules.
pub(crate) const FOLDER: &str = "driver";
/// Group of the lock file with NVIDIA's modules, as source and object.
pub const SOURCE: &str = "driver";
/// Group of the lock file with the kernel's headers and the tools to compile the modules.
pub const TOOLS: &str = "driver-build";

/// Names of the modules in load order, each with its reason.
pub const MODULES: &[(&str, &str)] = &[
    (
        "nvidia",
        "the driver: GPUs, their firmware, and the encrypted path to them",
    ),
    (
        "nvidia-uvm",
        "memory that CUDA manages; no CUDA program starts without it",
    ),
];
/// Largest module that is accepted, in bytes; `nvidia.ko` has about 19 MB when stripped.
const MAX_MODULE: u64 = 64 << 20;
/// Name of the file with the modules' digests. It is written last, so a folder without it is incomplete.
const LIST: &str = "SHA256SUMS";

/// The compiled modules.
#[derive(Debug, Clone)]
pub struct Driver {
    /// Version of the driver, such as `550.163.01`.
    pub version: String,
    /// Modules in load order.
    pub modules: Vec<Module>,
}

/// Why the modules cannot be compiled.
#[derive(Debug, Error)]
pub enum DriverError {
    /// A group cannot be fetched.
    #[error("cannot fetch the {group} input")]
    Fetch {
        /// Group of the lock file.
        group: &'static str,
        /// Why the download failed.
        #[source]
        source: Box<FetchError>,
    },
    /// A package cannot be read or unpacked.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// The sources are not laid out as expected.
    #[error("cannot use the driver's sources")]
    Source(#[from] SourceError),
    /// The locked headers are not those of the image's kernel.
    #[error(
        "group {TOOLS} has no headers of the kernel {kernel}: run `cocoon-image lock --update`, for both to be of one \
         version"
    )]
    Headers {
        /// Release of the image's kernel.
        kernel: String,
    },
    /// The compiler cannot be run, or fails.
    #[error("cannot compile NVIDIA's kernel modules")]
    Workroom(#[from] WorkroomError),
    /// The result is not a kernel module.
    #[error("{name}.ko is not a kernel module")]
    Modinfo {
        /// Name of the module.
        name: &'static str,
        /// What is wrong with it.
        #[source]
        source: ModinfoError,
    },
    /// The module was made for another kernel.
    #[error("{name}.ko is made for {found:?}, not for the kernel {kernel}")]
    OtherKernel {
        /// Name of the module.
        name: &'static str,
        /// Version magic of the module.
        found: String,
        /// Release of the image's kernel.
        kernel: String,
    },
    /// A file cannot be read or written.
    #[error("cannot keep NVIDIA's kernel modules")]
    File(#[from] FileError),
}

/// Packages to compile, packages to compile with, and the kernel to compile for.
pub struct Ingredients {
    source: Fetched,
    tools: Vec<Fetched>,
    kernel: String,
}

impl Ingredients {
    /// Fetches the packages for the kernel with this release, such as `6.12.117+deb13-cloud-amd64`.
    ///
    /// # Errors
    /// [`DriverError`] when they cannot be fetched, or the headers are of another kernel.
    pub fn fetch(fetcher: &Fetcher, kernel: &str) -> Result<Self, DriverError> {
        let fetch = |group| {
            let fetched = fetcher.fetch_group(group);
            fetched.map_err(|source| DriverError::Fetch {
                group,
                source: Box::new(source),
            })
        };
        let (mut sources, tools) = (fetch(SOURCE)?, fetch(TOOLS)?);
        let headers = format!("linux-headers-{kernel}");
        if !tools.iter().any(|package| package.entry.name == headers) {
            let kernel = kernel.to_owned();
            return Err(DriverError::Headers { kernel });
        }
        let found = sources.len();
        match (sources.pop(), sources.is_empty()) {
            (Some(source), true) => Ok(Self {
                source,
                tools,
                kernel: kernel.to_owned(),
            }),
            _ => Err(SourceError::NotOne { found }.into()),
        }
    }

    /// Package with the modules' sources.
    #[must_use]
    pub fn source(&self) -> &Fetched {
        &self.source
    }

    /// Packages with the compiler and the kernel's headers.
    #[must_use]
    pub fn tools(&self) -> &[Fetched] {
        &self.tools
    }

    /// Returns the driver's version, such as `550.163.01`.
    #[must_use]
    pub fn version(&self) -> &str {
        let version = self.source.entry.version.as_str();
        version
            .split_once('-')
            .map_or(version, |(upstream, _)| upstream)
    }

    /// Compiles the modules, or takes them from `cache` if the same packages were compiled before.
    ///
    /// # Errors
    /// [`DriverError`].
    pub fn compile(&self, cache: &Path, reporter: &dyn Reporter) -> Result<Driver, DriverError> {
        let folder = cache.join(FOLDER);
        let busy = "waiting for another build of NVIDIA's modules";
        let _lock = files::exclusive(&folder, busy, reporter)?;
        let folder = folder.join(self.key().to_string());
        let made = match kept(&folder) {
            Some(made) => made,
            None => {
                let made = self.compile_anew(cache, reporter)?;
                keep(&folder, &made)?;
                made
            }
        };
        let modules = MODULES.iter().zip(made).map(|((name, _), bytes)| {
            self.check(name, &bytes)?;
            let name = (*name).to_owned();
            Ok(Module { name, bytes })
        });
        Ok(Driver {
            version: self.version().to_owned(),
            modules: modules.collect::<Result<_, DriverError>>()?,
        })
    }

    /// Compiles the modules without looking in the cache, and returns their bytes in the order of [`MODULES`].
    ///
    /// # Errors
    /// [`DriverError`].
    pub fn compile_anew(
        &self,
        cache: &Path,
        reporter: &dyn Reporter,
    ) -> Result<Vec<Vec<u8>>, DriverError> {
        let bytes = package::read(&self.source)?;
        let tree = source::tree(&bytes).map_err(|source| match source {
            SourceError::Unpack(source) => {
                DriverError::Package(PackageError::unpack(&self.source)(source))
            }
            other => other.into(),
        })?;
        let room = Workroom::furnish(&self.tools, cache, reporter)?;
        compile::compile(&room, &tree, &self.kernel, reporter)
    }

    /// Returns a digest of everything that decides the modules' bytes: kernel, packages, patches, commands and environment.
    fn key(&self) -> Hex32 {
        let mut hash = Sha256::new_with_prefix(b"cocoon-driver-v1\0");
        let mut add = |text: &str| {
            hash.update((text.len() as u64).to_be_bytes());
            hash.update(text);
        };
        add(&self.kernel);
        for package in std::iter::once(&self.source).chain(&self.tools) {
            add(&package.entry.sha256.to_string());
        }
        for patch in source::PATCHES {
            for text in [patch.file, patch.from, patch.to] {
                add(text);
            }
        }
        for part in compile::recipe(&self.kernel) {
            add(&part);
        }
        files::digest(hash)
    }

    fn check(&self, name: &'static str, bytes: &[u8]) -> Result<(), DriverError> {
        let info = modinfo::parse(bytes);
        let info = info.map_err(|source| DriverError::Modinfo { name, source })?;
        if info.vermagic.split(' ').next() == Some(&self.kernel) {
            return Ok(());
        }
        Err(DriverError::OtherKernel {
            name,
            found: info.vermagic,
            kernel: self.kernel.clone(),
        })
    }
}

/// Returns the modules in `folder` if their digests are as listed.
fn kept(folder: &Path) -> Option<Vec<Vec<u8>>> {
    let list = files::read(&folder.join(LIST), MAX_MODULE).ok()?;
    let made = MODULES
        .iter()
        .map(|(name, _)| files::read(&file(folder, name), MAX_MODULE).ok())
        .collect::<Option<Vec<_>>>()?;
    (list == listed(&made).into_bytes()).then_some(made)
}

fn keep(folder: &Path, made: &[Vec<u8>]) -> Result<(), FileError> {
    files::create_folder(folder)?;
    for ((name, _), bytes) in MODULES.iter().zip(made) {
        files::write(folder, &format!("{name}.ko"), bytes)?;
    }
    files::write(folder, LIST, listed(made).as_bytes())?;
    Ok(())
}

/// Returns the list of the modules' digests, in the format of `sha256sum`.
fn listed(made: &[Vec<u8>]) -> String {
    let lines = MODULES.iter().zip(made);
    lines
        .map(|((name, _), bytes)| format!("{}  {name}.ko\n", Hex32::sha256(bytes)))
        .collect()
}

fn file(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.ko"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_modules_are_taken_from_the_cache() {
        let folder = tempfile::tempdir().unwrap();
        let made = vec![b"one".to_vec(), b"two".to_vec()];
        assert_eq!(kept(folder.path()), None);
        keep(folder.path(), &made).unwrap();
        assert_eq!(kept(folder.path()), Some(made));
        std::fs::write(file(folder.path(), "nvidia-uvm"), "other").unwrap();
        assert_eq!(kept(folder.path()), None);
    }
}
