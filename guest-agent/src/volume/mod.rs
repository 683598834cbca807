//! The host's read-only disks. Each is found by its serial, opened with dm-verity, copied into memory that the kernel cannot
//! evict, and detached for good before any prompt arrives. The host's view of disk accesses therefore reveals nothing about
//! prompts, such as which weights are read or which libraries are used.

mod copy;
mod disk;

use std::io;
use std::path::{Path, PathBuf};

use cocoon_protocol::bytes::Hex32;
use nix::errno::Errno;

/// Largest number of blocks, equal to one pebibyte: more than any disk has, and few enough that sector numbers do not
/// overflow.
const MAX_BLOCKS: u64 = 1 << 38;

/// Description of a disk.
#[derive(Debug, PartialEq, Eq)]
pub struct Volume {
    /// Name of the volume in messages and of its dm-verity mapping.
    pub what: &'static str,
    /// Serial of the virtio disk.
    pub serial: &'static str,
    /// Folder of the files after loading.
    pub folder: &'static str,
    /// Files that may be executed, each with its permissions. If empty, the folder is mounted noexec.
    pub programs: &'static [(&'static str, u32)],
}

/// dm-verity parameters of a volume, from the measured command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verity {
    /// dm-verity root hash.
    pub root: Hex32,
    /// dm-verity salt.
    pub salt: Hex32,
    /// Number of data blocks of 4096 bytes. The hash tree follows directly after them.
    pub data_blocks: u64,
}

/// Why a volume could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// No disk has the volume's serial.
    #[error("no disk has the serial {}: attach the {} volume", .0.serial, .0.what)]
    Absent(&'static Volume),
    /// Several disks have the volume's serial.
    #[error("{found} disks have the serial {}: there must be one", volume.serial)]
    Duplicate {
        /// The volume.
        volume: &'static Volume,
        /// Number of disks.
        found: usize,
    },
    /// The disk is too small for the data and its hash tree.
    #[error(
        "{} volume has {found} sectors, fewer than the {expected} of its data: it is cut short or another one",
        volume.what
    )]
    Short {
        /// The volume.
        volume: &'static Volume,
        /// Sectors of the disk.
        found: u64,
        /// Sectors of the data.
        expected: u64,
    },
    /// The files do not fit into the available memory.
    #[error(
        "{} of {needed} MiB does not fit into {free} MiB of free memory: give the machine more",
        volume.what
    )]
    Memory {
        /// The volume.
        volume: &'static Volume,
        /// Size of the files in MiB.
        needed: u64,
        /// Available memory in MiB.
        free: u64,
    },
    /// The volume's folders or files exceed the limits, or have a type that is not supported.
    #[error("{} volume has {problem}", volume.what)]
    Shape {
        /// The volume.
        volume: &'static Volume,
        /// Description of the problem.
        problem: &'static str,
    },
    /// The disk is still present after its driver was unbound.
    #[error("{} volume {name} is still attached after its driver let it go", volume.what)]
    Attached {
        /// The volume.
        volume: &'static Volume,
        /// Name of the disk.
        name: String,
    },
    /// A mount or unmount failed.
    #[error("cannot {operation} of the {} volume", volume.what)]
    Mount {
        /// The volume.
        volume: &'static Volume,
        /// Failed operation.
        operation: &'static str,
        /// Cause.
        #[source]
        source: Errno,
    },
    /// A file operation failed.
    #[error("cannot {operation} {path}")]
    File {
        /// Failed operation.
        operation: &'static str,
        /// Path of the file.
        path: PathBuf,
        /// Cause.
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
    /// Parses the three fields of a command line token.
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

/// Finds, verifies, copies and detaches a volume. Returns each file's path below the volume's folder and its size in bytes.
/// `progress` receives the bytes copied and the total.
///
/// # Errors
/// [`VolumeError`]. A block that does not verify does not return an error but makes the kernel panic.
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
