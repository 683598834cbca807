//! Fragment: compiles the GPU kernels with a locked compiler and compares them with pinned digests.
//!
//! The compiler is unpacked from locked packages into a scratch folder and uses nothing of the machine but its C
//! preprocessor. No cubin is committed. `kernels/sm90.sha256` lists the digests that the cubins must have. The image's driver
//! takes no code of that compiler, so `kernels/sm90.cuda-12.sha256` lists those that the image uses.

pub mod compile;
pub mod engine;
pub mod nvcc12;
pub mod pins;
pub mod toolkit;

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use cocoon_inputs::Fetcher;
use cocoon_inputs::report::Reporter;
use thiserror::Error;

use crate::files::{self, FileError};
use crate::scratch::Scratch;
use compile::CompileError;
use pins::{Difference, PinError};
use toolkit::ToolkitError;

/// Folder of the kernels, relative to the workspace.
pub const SOURCES: &str = "kernels";
/// Folder of the compiler, relative to the workshop's scratch folder.
const HOME: &str = "toolkit";

/// A release of CUDA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Release {
    /// For drivers from R580 on, the first maintained release with confidential computing
    #[default]
    #[value(name = "13.0")]
    Cuda13,
    /// For drivers from R550 on; the image has R550
    #[value(name = "12.4")]
    Cuda12,
}

impl Release {
    /// Returns the name of the list of its digests, relative to `kernels`.
    #[must_use]
    pub const fn list(self) -> &'static str {
        match self {
            Self::Cuda13 => "sm90.sha256",
            Self::Cuda12 => "sm90.cuda-12.sha256",
        }
    }
}

/// The compiled kernels.
#[derive(Debug, Clone)]
pub struct Cubins {
    /// Names and contents of the cubins, sorted by name.
    pub files: Vec<(String, Vec<u8>)>,
    /// Cubins and sources whose digests differ from the list in `kernels`.
    pub differences: Vec<Difference>,
}

/// Why the kernels cannot be compiled.
#[derive(Debug, Error)]
pub enum CudaError {
    /// The CUDA compiler cannot be fetched or unpacked.
    #[error("cannot put the CUDA compiler together")]
    Toolkit(#[from] ToolkitError),
    /// A kernel cannot be compiled.
    #[error("cannot compile the kernels")]
    Compile(#[from] CompileError),
    /// The list of digests cannot be read or written.
    #[error("cannot compare the kernels")]
    Pins(#[from] PinError),
    /// The machine has no suitable C++ compiler.
    #[error("cannot compile the kernels")]
    Host(#[from] engine::HostError),
    /// A file cannot be read or written.
    #[error("cannot prepare the kernels")]
    File(#[from] FileError),
}

/// The CUDA compiler in a scratch folder, which is removed when the value is dropped.
pub struct Workshop {
    scratch: Scratch,
    release: Release,
    host: Option<String>,
}

impl Workshop {
    /// Fetches and unpacks the compiler of `release`.
    ///
    /// # Errors
    /// [`CudaError`].
    pub fn open(
        fetcher: &Fetcher,
        release: Release,
        reporter: &dyn Reporter,
    ) -> Result<Self, CudaError> {
        let host = match release {
            Release::Cuda13 => None,
            Release::Cuda12 => Some(engine::compiler()?),
        };
        let scratch = Scratch::in_cache(fetcher.cache().root())?;
        let home = scratch.path().join(HOME);
        match release {
            Release::Cuda13 => toolkit::unpack(
                fetcher,
                &[toolkit::COMPILER],
                toolkit::CUBINS,
                &home,
                reporter,
            )?,
            Release::Cuda12 => {
                nvcc12::unpack(&toolkit::fetch(fetcher, nvcc12::GROUP)?, &home, reporter)?
            }
        }
        Ok(Self {
            scratch,
            release,
            host,
        })
    }

    /// Compiles every kernel of the workspace at `source` into `folder`, and compares the results with the list. With `pin`, it
    /// updates the list first.
    ///
    /// # Errors
    /// [`CudaError`]. Differences are not an error, because the caller decides what they mean.
    pub fn build(
        &self,
        source: &Path,
        folder: &Path,
        pin: bool,
        reporter: &dyn Reporter,
    ) -> Result<Cubins, CudaError> {
        let (kernels, scratch) = (source.join(SOURCES), self.scratch.path());
        let (home, host) = (scratch.join(HOME), self.host.as_deref());
        let files = compile::compile(&home, &kernels, scratch, host, reporter)?;
        files::create_folder(folder)?;
        for (name, bytes) in &files {
            files::write(folder, name, bytes)?;
        }
        let list = self.release.list();
        if pin {
            pins::write(&kernels, list, &files)?;
        }
        let differences = pins::compare(&kernels, list, &files)?;
        Ok(Cubins { files, differences })
    }
}

/// Returns names and paths of the sources in the folder `kernels`, with the names that the list uses, sorted.
fn sources(kernels: &Path) -> Result<Vec<(String, PathBuf)>, FileError> {
    let folder = kernels.join("cuda");
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&folder).map_err(FileError::read(&folder))? {
        let entry = entry.map_err(FileError::read(&folder))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        found.push((format!("cuda/{name}"), entry.path()));
    }
    found.sort();
    Ok(found)
}
