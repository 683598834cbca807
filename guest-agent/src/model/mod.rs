//! The model volume: which volume the measured command line names, and the proof that it was read.

pub mod reference;

use std::path::PathBuf;

pub use reference::ModelReference;

use crate::volume::{self, Volume, VolumeError};

/// Folder of the model's files after loading.
pub const MODEL_DIR: &str = "/model";

static VOLUME: Volume = Volume {
    what: "model",
    serial: "cocoon-model",
    folder: MODEL_DIR,
    programs: &[],
};

/// Why the model could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The command line does not name a model.
    #[error("kernel command line: {0}")]
    Reference(#[from] reference::ReferenceError),
    /// The volume failed to load.
    #[error(transparent)]
    Volume(#[from] VolumeError),
}

/// Proof that every byte below [`MODEL_DIR`] was verified by dm-verity and that the disk is detached. Only [`load`] creates
/// it.
#[derive(Debug)]
pub struct VerifiedWeights {
    reference: ModelReference,
    files: Vec<(PathBuf, u64)>,
}

impl VerifiedWeights {
    /// Returns the reference from the command line.
    pub fn reference(&self) -> &ModelReference {
        &self.reference
    }

    /// Returns each file's path below [`MODEL_DIR`] and its size in bytes.
    pub fn files(&self) -> &[(PathBuf, u64)] {
        &self.files
    }
}

/// Reads the model volume. `progress` receives the bytes read and the total.
pub fn load(
    reference: ModelReference,
    progress: impl FnMut(u64, u64),
) -> Result<VerifiedWeights, ModelError> {
    let files = volume::load(&VOLUME, &reference.verity, progress)?;
    Ok(VerifiedWeights { reference, files })
}
