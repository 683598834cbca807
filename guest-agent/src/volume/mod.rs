//! Read-only disks of the host's: found by their serial, opened with dm-verity, read into memory that the kernel cannot
//! evict, then detached for good before anybody can ask a question. What the host sees of a disk says nothing about
//! prompts, neither of weights that are read nor of libraries that are used.

mod copy;
mod disk;

use std::io;
use std::path::{Path, PathBuf};

use cocoon_protocol::bytes::Hex32;
use nix::errno::Errno;

/// A petabyte of blocks: more than any disk, little enough that sectors do not overflow.
const MAX_BLOCKS: u64 = 1 << 38;

/// What a disk holds.
#[derive(Debug, PartialEq, Eq)]
pub struct Volume {
    /// For people.
    pub what: &'static str,
    /// Serial of the virtio disk.
    pub serial: &'static str,
    /// Where its files are afterwards.
    pub folder: &'static str,
    /// Those of its files that may be executed, each with its permissions; where there are none, nothing there may.
    pub programs: &'static [(&'static str, u32)],
}

/// How a volume verifies: what the measured command line says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verity {
    /// dm-verity root hash.
    pub root: Hex32,
    /// dm-verity salt.
    pub salt: Hex32,
    /// Data blocks of 4096 bytes; the hash tree begins right behind.
    pub data_blocks: u64,
}

/// Why there is no volume.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// No disk.
    #[error("no disk has the serial {}: attach the {} volume", .0.serial, .0.what)]
    Absent(&'static Volume),
    /// More than one.
    #[error("{found} disks have the serial {}: there must be one", volume.serial)]
    Duplicate {
        /// Of which volume.
        volume: &'static Volume,
        /// How many.
        found: usize,
    },
    /// Smaller than its own data.
    #[error(
        "{} volume has {found} sectors, fewer than the {expected} of its data: it is cut short or another one",
        volume.what
    )]
    Short {
        /// Which volume.
        volume: &'static Volume,
        /// Sectors of the disk.
        found: u64,
        /// Sectors of data.
        expected: u64,
    },
    /// Does not fit.
    #[error(
        "{} of {needed} MiB does not fit into {free} MiB of free memory: give the machine more",
        volume.what
    )]
    Memory {
        /// Which volume.
        volume: &'static Volume,
        /// MiB of files.
        needed: u64,
        /// MiB available.
        free: u64,
    },
    /// Deeper or larger than a volume can be.
    #[error("{} volume has {problem}", volume.what)]
    Shape {
        /// Which volume.
        volume: &'static Volume,
        /// What is amiss.
        problem: &'static str,
    },
    /// Still there after it was detached.
    #[error("{} volume {name} is still attached after its driver let it go", volume.what)]
    Attached {
        /// Which volume.
        volume: &'static Volume,
        /// The disk.
        name: String,
    },
    /// A mount failed.
    #[error("cannot {operation} of the {} volume", volume.what)]
    Mount {
        /// Which volume.
        volume: &'static Volume,
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

impl VolumeError {
    fn file<'a>(operation: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| Self::File {
            operation,
            path: path.into(),
            source,
        }
    }
}

impl Verity {
    /// From the three fields of a word of the command line.
    #[must_use]
    pub fn parse(root: &str, salt: &str, data_blocks: &str) -> Option<Self> {
        let data_blocks = data_blocks.parse().ok()?;
        (1..=MAX_BLOCKS).contains(&data_blocks).then_some(())?;
        Some(Self {
            root: root.parse().ok()?,
            salt: salt.parse().ok()?,
            data_blocks,
        })
    }
}

/// Does all of it; `progress` hears bytes done and bytes in all. The files' paths below the volume's folder, and bytes.
///
/// # Errors
/// [`VolumeError`]. A block that is not the measured one ends the machine.
pub fn load(
    volume: &'static Volume,
    verity: &Verity,
    progress: impl FnMut(u64, u64),
) -> Result<Vec<(PathBuf, u64)>, VolumeError> {
    let disk = disk::find(volume)?;
    let mapping = disk::open(&disk, verity)?;
    let files = copy::into_memory(volume, &mapping, progress)?;
    mapping.close()?;
    disk::detach(&disk)?;
    Ok(files)
}
