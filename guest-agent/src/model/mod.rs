//! The model volume: which one the measured command line names, and the proof that it was read.

pub mod reference;

use std::path::PathBuf;

pub use reference::ModelReference;

use crate::volume::{self, Volume, VolumeError};

/// Where the files are afterwards.
pub const MODEL_DIR: &str = "/model";

static VOLUME: Volume = Volume {
    what: "model",
    serial: "cocoon-model",
    folder: MODEL_DIR,
    programs: &[],
};

/// Why there is no model.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The command line does not name one.
    #[error("kernel command line: {0}")]
    Reference(#[from] reference::ReferenceError),
    /// The volume.
    #[error(transparent)]
    Volume(#[from] VolumeError),
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

/// Reads it. `progress` hears bytes done and bytes in all.
pub fn load(
    reference: ModelReference,
    progress: impl FnMut(u64, u64),
) -> Result<VerifiedWeights, ModelError> {
    let files = volume::load(&VOLUME, &reference.verity, progress)?;
    Ok(VerifiedWeights { reference, files })
}
