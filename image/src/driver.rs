//! Fragment: NVIDIA's kernel modules and firmware, for an image with GPUs.
//!
//! The modules are NVIDIA's open ones as Debian packages them (contrib), compiled against the headers of the very kernel
//! that the image boots, with Debian's compiler, in a [workroom](crate::workroom) of locked packages: the machine that
//! builds lends its kernel and nothing else. **Not all of it is source:** Debian's package carries the part that every
//! system shares, `nv-kernel.o_binary`, compiled by Debian's builders from NVIDIA's published source. Whoever trusts the
//! image trusts that object.
//!
//! The modules are signed by nobody whose key the kernel holds. What may load is what the measured initrd holds, and the
//! agent locks the door behind it.

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

/// The folder of the cache with what was compiled.
pub(crate) const FOLDER: &str = "driver";
/// Group of NVIDIA's modules, as source and object.
pub const SOURCE: &str = "driver";
/// Group of the kernel's headers and everything that compiles against them.
pub const TOOLS: &str = "driver-build";

/// The modules, in the order in which they load.
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
/// Largest module, in bytes; stripped, the first one has 24 MB.
const MAX_MODULE: u64 = 64 << 20;
/// Their digests, beside them: what makes a folder of the cache complete.
const LIST: &str = "SHA256SUMS";

/// The compiled modules.
#[derive(Debug, Clone)]
pub struct Driver {
    /// Its version, such as `550.163.01`.
    pub version: String,
    /// In load order.
    pub modules: Vec<Module>,
}

/// Why there is no driver.
#[derive(Debug, Error)]
pub enum DriverError {
    /// Not to be fetched.
    #[error("cannot fetch the {group} input")]
    Fetch {
        /// Group of the lock file.
        group: &'static str,
        /// Why.
        #[source]
        source: Box<FetchError>,
    },
    /// Nothing to be had from a package.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// The sources are laid out in another way.
    #[error("cannot use the driver's sources")]
    Source(#[from] SourceError),
    /// Headers of another kernel.
    #[error(
        "group {TOOLS} has no headers of the kernel {kernel}: run `cocoon-image lock --update`, for both to be of one \
         version"
    )]
    Headers {
        /// The image's.
        kernel: String,
    },
    /// The compiler.
    #[error("cannot compile NVIDIA's kernel modules")]
    Workroom(#[from] WorkroomError),
    /// A module that is none.
    #[error("{name}.ko is not a kernel module")]
    Modinfo {
        /// Which.
        name: &'static str,
        /// Why.
        #[source]
        source: ModinfoError,
    },
    /// A module of another kernel.
    #[error("{name}.ko is made for {found:?}, not for the kernel {kernel}")]
    OtherKernel {
        /// Which.
        name: &'static str,
        /// What it says.
        found: String,
        /// The image's.
        kernel: String,
    },
    /// A file.
    #[error("cannot keep NVIDIA's kernel modules")]
    File(#[from] FileError),
}

/// What is compiled, and for whom.
pub struct Ingredients {
    source: Fetched,
    tools: Vec<Fetched>,
    kernel: String,
}

impl Ingredients {
    /// Fetches the packages for the kernel of this release, such as `6.12.117+deb13-cloud-amd64`.
    ///
    /// # Errors
    /// [`DriverError`].
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

    /// The package of the modules.
    #[must_use]
    pub fn source(&self) -> &Fetched {
        &self.source
    }

    /// The packages of the compiler and the headers.
    #[must_use]
    pub fn tools(&self) -> &[Fetched] {
        &self.tools
    }

    /// The driver's version, such as `550.163.01`.
    #[must_use]
    pub fn version(&self) -> &str {
        let version = self.source.entry.version.as_str();
        version
            .split_once('-')
            .map_or(version, |(upstream, _)| upstream)
    }

    /// Compiles the modules, or takes them from `cache` where these very packages were compiled before.
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

    /// The modules' bytes in the order of [`MODULES`], whatever was compiled before.
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

    /// Names everything that decides the modules' bytes.
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

/// The modules in `folder`, if they are whole.
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

/// In the format of `sha256sum`.
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
