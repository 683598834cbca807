//! Fragment: the machine code of the GPU kernels, compiled by a locked compiler, and compared with what it must be.
//!
//! The compiler is put together from Python packages of the lock file, runs in a folder that vanishes, and sees nothing
//! of the machine but its C preprocessor. No cubin is committed: `kernels/sm90.sha256` says which bytes count.

pub mod compile;
pub mod pins;
pub mod toolkit;

use std::path::{Path, PathBuf};

use cocoon_inputs::Fetcher;
use cocoon_inputs::report::Reporter;
use thiserror::Error;

use crate::build;
use crate::files::{self, FileError};
use compile::CompileError;
use pins::{Difference, PinError};
use toolkit::ToolkitError;

/// The sources of the kernels, below those of the workspace.
pub const SOURCES: &str = "kernels";
/// The compiler's folder in a workshop.
const HOME: &str = "toolkit";

/// What was made.
#[derive(Debug, Clone)]
pub struct Cubins {
    /// The files by name, sorted.
    pub files: Vec<(String, Vec<u8>)>,
    /// Where they, or their sources, are not what `kernels/sm90.sha256` lists.
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
    /// A file.
    #[error("cannot prepare the kernels")]
    File(#[from] FileError),
}

/// The compiler, laid out in a folder that vanishes with it.
pub struct Workshop {
    scratch: tempfile::TempDir,
}

impl Workshop {
    /// Fetches and unpacks the compiler.
    ///
    /// # Errors
    /// [`CudaError`].
    pub fn open(fetcher: &Fetcher, reporter: &dyn Reporter) -> Result<Self, CudaError> {
        let scratch = build::scratch(fetcher.cache().root())?;
        let home = scratch.path().join(HOME);
        toolkit::unpack(
            fetcher,
            &[toolkit::COMPILER],
            toolkit::CUBINS,
            &home,
            reporter,
        )?;
        Ok(Self { scratch })
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
        let files = compile::compile(&scratch.join(HOME), &kernels, scratch, reporter)?;
        files::create_folder(folder)?;
        for (name, bytes) in &files {
            files::write(folder, name, bytes)?;
        }
        if pin {
            pins::write(&kernels, &files)?;
        }
        let differences = pins::compare(&kernels, &files)?;
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
