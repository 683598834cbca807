//! Fragment: the model volume. It holds a GGUF file or a flat folder of safetensors as EROFS, followed by a dm-verity tree.

pub mod erofs;
mod gguf;
pub mod recode;
pub mod source;
pub mod verity;
mod whole;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use cocoon_inputs::report::Reporter;
use cocoon_protocol::bytes::Hex32;
use cocoon_protocol::manifest::{Artefact, Model};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::files::{CHUNK, FileError, Pending, digest};
use erofs::Layout;
pub use source::{Source, SourceError, SourceFile};

/// Domain separation: no other digest of the same bytes equals the salt.
const SALT_TAG: &[u8] = b"cocoon-model-salt-v1\0";

/// Why the volume cannot be made.
#[derive(Debug, Error)]
pub enum VolumeError {
    /// The model exceeds the file system's 16 TiB or its number of files.
    #[error(
        "the model at {path} does not fit into one volume: at most 16 TiB in {} files",
        erofs::MAX_FILES
    )]
    TooLarge {
        /// Path of the model.
        path: PathBuf,
    },
    /// A file cannot be read, or the volume cannot be written.
    #[error("cannot make the model volume")]
    File(#[from] FileError),
}

/// A finished volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Description of the model for the manifest.
    pub model: Model,
    /// Digest and size of the whole volume.
    pub artefact: Artefact,
}

/// Writes the volume of `source` to `folder/name`, hashing with `jobs` threads. Memory use does not depend on the model's size.
///
/// # Errors
/// [`VolumeError`] when a file cannot be read or changes meanwhile, or the volume cannot be written.
pub fn write(
    source: &Source,
    folder: &Path,
    name: &str,
    jobs: usize,
    reporter: &dyn Reporter,
) -> Result<Volume, VolumeError> {
    let Written { tree, salt, files } = write_files(&source.files, folder, name, jobs, reporter)
        .map_err(|error| match error {
            VolumeError::TooLarge { .. } => VolumeError::TooLarge {
                path: source.path.clone(),
            },
            other => other,
        })?;
    let model = Model {
        id: source.id.clone(),
        verity_root: tree.root,
        verity_salt: salt,
        verity_data_blocks: tree.data_blocks,
        files,
    };
    Ok(Volume {
        model,
        artefact: tree.volume,
    })
}

/// A finished volume of arbitrary files.
pub(crate) struct Written {
    /// Root hash, number of data blocks, and digest of the whole volume.
    pub(crate) tree: verity::Tree,
    /// dm-verity salt.
    pub(crate) salt: Hex32,
    /// Digests and sizes of the files in the volume, by name.
    pub(crate) files: BTreeMap<String, Artefact>,
}

/// Writes a volume of arbitrary `files`, which must be sorted by name.
pub(crate) fn write_files(
    files: &[SourceFile],
    folder: &Path,
    name: &str,
    jobs: usize,
    reporter: &dyn Reporter,
) -> Result<Written, VolumeError> {
    let sources = files;
    let sizes: Vec<(&str, u64)> = sources
        .iter()
        .map(|file| (file.name.as_str(), file.size))
        .collect();
    let layout = Layout::new(&sizes).ok_or_else(|| VolumeError::TooLarge {
        path: folder.join(name),
    })?;
    let mut volume = Pending::create(folder, name)?;
    volume.put(&vec![0; layout.head_len()])?;
    let task = reporter.start(&format!("writing {name}"), Some(layout.size()));
    let mut files = BTreeMap::new();
    let mut done = 0;
    for file in sources {
        let copied = copy(file, &mut volume, |count| {
            done += count;
            task.position(done);
        })?;
        files.insert(file.name.clone(), copied);
    }
    drop(task);
    // Salt and file system identifier follow from the content, so that the same files always give the same volume.
    let salt = salt(&files);
    let path = volume.path().to_owned();
    let disk = volume.file()?;
    let head = layout.head(first_half(&salt));
    disk.seek(SeekFrom::Start(0))
        .and_then(|_| disk.write_all(&head))
        .map_err(FileError::write(&path))?;
    let tree = verity::append(disk, &path, &salt, jobs, reporter)?;
    volume.publish()?;
    Ok(Written { tree, salt, files })
}

/// Returns the salt of a volume with these files: a digest of their names, sizes and digests, in the order of their names.
#[must_use]
pub fn salt(files: &BTreeMap<String, Artefact>) -> Hex32 {
    let mut hash = Sha256::new_with_prefix(SALT_TAG);
    for (name, file) in files {
        hash.update((name.len() as u64).to_be_bytes());
        hash.update(name);
        hash.update(file.size.to_be_bytes());
        hash.update(file.sha256);
    }
    digest(hash)
}

fn first_half(salt: &Hex32) -> [u8; 16] {
    std::array::from_fn(|index| salt.0[index])
}

/// Writes `file` into `folder` with the content that it has in a volume.
///
/// # Errors
/// [`FileError`] when the file cannot be read or written.
pub fn unpack(file: &SourceFile, folder: &Path) -> Result<Artefact, FileError> {
    let mut unpacked = Pending::create(folder, &file.name)?;
    let artefact = contents(file, |bytes| unpacked.put(bytes))?;
    unpacked.publish()?;
    Ok(artefact)
}

/// Copies a file with the content that it has in the volume, and pads it to whole blocks.
fn copy(
    from: &SourceFile,
    to: &mut Pending,
    mut copied: impl FnMut(u64),
) -> Result<Artefact, FileError> {
    let artefact = contents(from, |bytes| {
        copied(bytes.len() as u64);
        to.put(bytes)
    })?;
    to.put(&vec![0; erofs::padding(artefact.size)])?;
    Ok(artefact)
}

/// Passes to `put` the content that a file has in the volume.
fn contents(
    from: &SourceFile,
    mut put: impl FnMut(&[u8]) -> Result<(), FileError>,
) -> Result<Artefact, FileError> {
    let (mut hash, mut size) = (Sha256::new(), 0);
    let take = |bytes: &[u8]| {
        size += bytes.len() as u64;
        hash.update(bytes);
        put(bytes)
    };
    let mut file = File::open(&from.path).map_err(FileError::read(&from.path))?;
    match &from.recoding {
        Some(recoding) => {
            let read = |source| FileError::read(&from.path)(source);
            recoding.write(&mut file, read, take)?;
        }
        None => exactly(&mut file, from, take)?,
    }
    Ok(Artefact {
        sha256: digest(hash),
        size,
    })
}

/// Passes all bytes of a file to `put`, and fails if their number is not the expected one.
fn exactly(
    file: &mut File,
    from: &SourceFile,
    mut put: impl FnMut(&[u8]) -> Result<(), FileError>,
) -> Result<(), FileError> {
    let mut buffer = vec![0; CHUNK];
    let mut found = 0;
    loop {
        let count = file
            .read(&mut buffer)
            .map_err(FileError::read(&from.path))?;
        found += count as u64;
        if found > from.size || (count == 0 && found < from.size) {
            return Err(FileError::Changed {
                path: from.path.clone(),
                expected: from.size,
                found,
            });
        }
        if count == 0 {
            return Ok(());
        }
        put(&buffer[..count])?;
    }
}
