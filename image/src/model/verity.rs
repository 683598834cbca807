//! Computes dm-verity hash trees of format 1: SHA-256 over blocks of 4096 bytes with the salt in front, no superblock, and the
//! tree after the data, top level first (`Documentation/admin-guide/device-mapper/verity.rst`).

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::thread;

use cocoon_inputs::report::Reporter;
use cocoon_protocol::bytes::{Hex, Hex32};
use cocoon_protocol::manifest::Artefact;
use sha2::{Digest as _, Sha256};

use crate::files::{FileError, digest};

/// Bytes per data block and per hash block.
pub const BLOCK: usize = 4096;
/// Bytes per digest.
const DIGEST: usize = 32;
/// Number of bytes to read at once: many blocks per thread, but little memory.
const WINDOW: usize = 16 << 20;

/// Result of hashing a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// Root hash, which determines every byte of the data.
    pub root: Hex32,
    /// Number of data blocks before the tree.
    pub data_blocks: u64,
    /// Digest and size of the whole volume, including the tree.
    pub volume: Artefact,
}

/// Appends the hash tree to `file`, which holds whole blocks, using `jobs` threads. `path` is used in messages only.
///
/// # Errors
/// [`FileError`] when the file cannot be read or the tree cannot be written.
pub fn append(
    file: &mut File,
    path: &Path,
    salt: &Hex32,
    jobs: usize,
    reporter: &dyn Reporter,
) -> Result<Tree, FileError> {
    let length = file.metadata().map_err(FileError::read(path))?.len();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let task = reporter.start(&format!("hashing {name}"), Some(length));
    file.seek(SeekFrom::Start(0))
        .map_err(FileError::read(path))?;
    let (mut volume, mut leaves) = (Sha256::new(), Vec::new());
    let mut window = vec![0; WINDOW.min(usize::try_from(length).unwrap_or(WINDOW))];
    let mut left = length;
    while left > 0 {
        let take = usize::try_from(left).map_or(window.len(), |left| left.min(window.len()));
        let part = &mut window[..take];
        file.read_exact(part).map_err(FileError::read(path))?;
        // The digest of the whole volume is sequential, so it is computed while other threads hash the blocks.
        leaves.extend(thread::scope(|scope| {
            let chain = scope.spawn(|| volume.update(&*part));
            let hashes = hash_blocks(part, salt, jobs);
            // The thread cannot panic, because hashing does not fail.
            let _ = chain.join();
            hashes
        }));
        left -= take as u64;
        task.position(length - left);
    }
    let (root, tree) = levels(leaves, salt, jobs);
    file.seek(SeekFrom::End(0))
        .map_err(FileError::write(path))?;
    file.write_all(&tree).map_err(FileError::write(path))?;
    volume.update(&tree);
    let volume = Artefact {
        sha256: digest(volume),
        size: length + tree.len() as u64,
    };
    Ok(Tree {
        root,
        data_blocks: length / BLOCK as u64,
        volume,
    })
}

/// Computes all levels above the data from the digests of the data blocks. Returns the root hash and the bytes of the tree,
/// top level first.
fn levels(leaves: Vec<u8>, salt: &Hex32, jobs: usize) -> (Hex32, Vec<u8>) {
    let mut levels = vec![padded(leaves)];
    while let Some(level) = levels.last().filter(|level| level.len() > BLOCK) {
        let above = padded(hash_blocks(level, salt, jobs));
        levels.push(above);
    }
    let root = levels
        .last()
        .map(|top| hash_block(top, salt))
        .unwrap_or_default();
    (Hex(root), levels.into_iter().rev().flatten().collect())
}

fn padded(mut level: Vec<u8>) -> Vec<u8> {
    level.resize(level.len().next_multiple_of(BLOCK), 0);
    level
}

/// Returns the digests of all blocks of `data`, in their order whatever the number of threads.
fn hash_blocks(data: &[u8], salt: &Hex32, jobs: usize) -> Vec<u8> {
    let blocks = data.len().div_ceil(BLOCK);
    let mut digests = vec![0; blocks * DIGEST];
    let share = blocks.div_ceil(jobs.max(1)).max(1);
    thread::scope(|scope| {
        for (data, digests) in data
            .chunks(share * BLOCK)
            .zip(digests.chunks_mut(share * DIGEST))
        {
            scope.spawn(move || {
                for (block, place) in data.chunks(BLOCK).zip(digests.chunks_exact_mut(DIGEST)) {
                    place.copy_from_slice(&hash_block(block, salt));
                }
            });
        }
    });
    digests
}

fn hash_block(block: &[u8], salt: &Hex32) -> [u8; DIGEST] {
    Sha256::new()
        .chain_update(salt.0)
        .chain_update(block)
        .finalize()
        .into()
}
