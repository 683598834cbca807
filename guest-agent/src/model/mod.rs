//! The model volume: found by its serial, opened with dm-verity, read into memory that the kernel
//! cannot evict, then detached for good before anybody can ask a question. What the host sees of
//! the disk says nothing about prompts.

mod copy;
pub mod reference;
mod volume;

use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

pub use reference::ModelReference;
use volume::SERIAL;

/// Where the files are afterwards.
pub const MODEL_DIR: &str = "/model";

/// Why there is no model.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The command line does not name one.
    #[error("kernel command line: {0}")]
    Reference(#[from] reference::ReferenceError),
    /// No disk.
    #[error("no disk has the serial {SERIAL}: attach the model volume")]
    Absent,
    /// More than one.
    #[error("{0} disks have the serial {SERIAL}: there must be one")]
    Duplicate(usize),
    /// Smaller than its own data.
    #[error(
        "model volume has {found} sectors, fewer than the {expected} of its data: it is cut short or another one"
    )]
    Short {
        /// Sectors of the disk.
        found: u64,
        /// Sectors of data.
        expected: u64,
    },
    /// Does not fit.
    #[error(
        "model of {needed} MiB does not fit into {free} MiB of free memory: give the machine more"
    )]
    Memory {
        /// MiB of files.
        needed: u64,
        /// MiB available.
        free: u64,
    },
    /// Deeper or larger than a model can be.
    #[error("model volume has {0}")]
    Shape(&'static str),
    /// Still there after it was detached.
    #[error("model volume {0} is still attached after its driver let it go")]
    Attached(String),
    /// A mount failed.
    #[error("cannot {operation}")]
    Mount {
        /// What.
        operation: &'static str,
        /// Why.
        #[source]
        source: Errno,
    },
    /// A file operation failed.
    #[error("cannot {operation} {path}")]
    File {
        /// What.
        operation: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl ModelError {
    fn file<'a>(operation: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| Self::File {
            operation,
            path: path.into(),
            source,
        }
    }
}

/// Proof that every byte under [`MODEL_DIR`] went through dm-verity and that the disk is detached.
/// Only [`load`] makes it.
#[derive(Debug)]
pub struct VerifiedWeights {
    reference: ModelReference,
    files: Vec<(PathBuf, u64)>,
}

impl VerifiedWeights {
    /// What the command line named.
    pub fn reference(&self) -> &ModelReference {
        &self.reference
    }

    /// Paths under [`MODEL_DIR`], and bytes.
    pub fn files(&self) -> &[(PathBuf, u64)] {
        &self.files
    }
}

/// Does all of it. `progress` hears bytes done and bytes in all.
pub fn load(
    reference: ModelReference,
    progress: impl FnMut(u64, u64),
) -> Result<VerifiedWeights, ModelError> {
    let disk = volume::find()?;
    let mapping = volume::open(&disk, &reference)?;
    let files = copy::into_memory(&mapping, Path::new(MODEL_DIR), progress)?;
    mapping.close()?;
    volume::detach(&disk)?;
    Ok(VerifiedWeights { reference, files })
}
