//! Fragment: the machine code of the GPU kernels, compiled by a locked compiler, and compared with what it must be.
//!
//! The compiler is put together from packages of the lock file, runs in a folder that vanishes, and sees nothing
//! of the machine but its C preprocessor. No cubin is committed: `kernels/sm90.sha256` says which bytes count, and
//! `kernels/sm90.cuda-12.sha256` which ones do in the image, whose driver takes no newer code.

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

/// The sources of the kernels, below those of the workspace.
pub const SOURCES: &str = "kernels";
/// The compiler's folder in a workshop.
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
    /// The list of its cubins, below `kernels`.
    #[must_use]
    pub const fn list(self) -> &'static str {
        match self {
            Self::Cuda13 => "sm90.sha256",
            Self::Cuda12 => "sm90.cuda-12.sha256",
        }
    }
}

/// What was made.
#[derive(Debug, Clone)]
pub struct Cubins {
    /// The files by name, sorted.
    pub files: Vec<(String, Vec<u8>)>,
    /// Where they, or their sources, are not what the list below `kernels` has.
    pub differences: Vec<Difference>,
}

/// Why there are no cubins.
#[derive(Debug, Error)]
pub enum CudaError {
    /// The compiler.
    #[error("cannot put the CUDA compiler together")]
    Toolkit(#[from] ToolkitError),
    /// A kernel.
    #[error("cannot compile the kernels")]
    Compile(#[from] CompileError),
    /// The list of digests.
    #[error("cannot compare the kernels")]
    Pins(#[from] PinError),
    /// The machine's C++ compiler.
    #[error("cannot compile the kernels")]
    Host(#[from] engine::HostError),
    /// A file.
    #[error("cannot prepare the kernels")]
    File(#[from] FileError),
}

/// The compiler, laid out in a folder that vanishes with it.
pub struct Workshop {
    scratch: Scratch,
    release: Release,
    host: Option<String>,
}

impl Workshop {
    /// Fetches and unpacks the compiler.
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

    /// Compiles every kernel of the workspace at `source` into `folder`; with `pin`, what came of it is what counts from
    /// now on.
    ///
    /// # Errors
    /// [`CudaError`]. Differences are no error: the caller judges them.
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

/// The sources below `kernels`, by name as the list has them, sorted.
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
