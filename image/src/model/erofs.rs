//! Writes the simplest form of EROFS: one flat folder of uncompressed files, each in consecutive blocks
//! (`fs/erofs/erofs_fs.h`). Times and owners are constant, so the same files give the same bytes.
//!
//! ```text
//! block 0 …  superblock at 1024, inodes of 64 bytes from 1152: the root, then the files by name
//! then       the root folder's blocks
//! then       the files, each from a new block
//! ```

use super::verity::BLOCK;

const MAGIC: u32 = 0xe0f5_e1e2;
const SUPERBLOCK: usize = 1024;
const SUPERBLOCK_LEN: usize = 128;
/// Unit of inode numbers, in bytes. Each inode here takes 64 bytes; the first one follows the superblock.
const SLOT: usize = 32;
const ROOT_NUMBER: usize = (SUPERBLOCK + SUPERBLOCK_LEN) / SLOT;
const INODE_LEN: usize = 64;
const ENTRY_LEN: usize = 12;
/// Longest file name, in bytes.
pub const MAX_NAME: usize = 255;
/// Largest number of files. Their inodes fit into memory, and their numbers into the format, by a wide margin.
pub const MAX_FILES: usize = 10_000;

const FEATURE_CHECKSUM: u32 = 1;
const EXTENDED_INODE: u16 = 1;
const FOLDER_MODE: u16 = 0o040_555;
const FILE_MODE: u16 = 0o100_444;
const TYPE_FILE: u8 = 1;
const TYPE_FOLDER: u8 = 2;

/// Position of everything in the file system, known before any file is read.
pub struct Layout {
    entries: Vec<Entry>,
    metadata_blocks: usize,
    folder: Vec<u8>,
    folder_size: usize,
    blocks: u32,
}

struct Entry {
    size: u64,
    first_block: u32,
}

impl Layout {
    /// Lays out `files`: name and size of each, sorted by name, with unique names of at most [`MAX_NAME`] bytes. Returns `None`
    /// if they exceed the format's 16 TiB or [`MAX_FILES`].
    #[must_use]
    pub fn new(files: &[(&str, u64)]) -> Option<Self> {
        if files.len() > MAX_FILES {
            return None;
        }
        let metadata_blocks = (ROOT_NUMBER * SLOT + INODE_LEN * (files.len() + 1)).div_ceil(BLOCK);
        let (folder, folder_size) = folder(files);
        let mut next = u64::try_from(metadata_blocks + folder.len() / BLOCK).ok()?;
        let mut entries = Vec::with_capacity(files.len());
        for (_, size) in files {
            entries.push(Entry {
                size: *size,
                first_block: u32::try_from(next).ok()?,
            });
            next = next.checked_add(size.div_ceil(BLOCK as u64))?;
        }
        Some(Self {
            entries,
            metadata_blocks,
            folder,
            folder_size,
            blocks: u32::try_from(next).ok()?,
        })
    }

    /// Returns everything before the files' contents. `uuid` is the identifier of the file system.
    #[must_use]
    pub fn head(&self, uuid: [u8; 16]) -> Vec<u8> {
        let mut head = vec![0; self.metadata_blocks * BLOCK];
        put(&mut head, SUPERBLOCK, &MAGIC.to_le_bytes());
        put(&mut head, SUPERBLOCK + 8, &FEATURE_CHECKSUM.to_le_bytes());
        put(&mut head, SUPERBLOCK + 12, &[12]); // blocks of 2^12 bytes
        put(&mut head, SUPERBLOCK + 14, &low16(ROOT_NUMBER));
        put(
            &mut head,
            SUPERBLOCK + 16,
            &(self.entries.len() as u64 + 1).to_le_bytes(),
        );
        put(&mut head, SUPERBLOCK + 36, &self.blocks.to_le_bytes());
        put(&mut head, SUPERBLOCK + 48, &uuid);
        let folder_block = u32::try_from(self.metadata_blocks).unwrap_or(u32::MAX);
        let root = inode(FOLDER_MODE, self.folder_size as u64, folder_block, 1, 2);
        put(&mut head, ROOT_NUMBER * SLOT, &root);
        for (index, entry) in self.entries.iter().enumerate() {
            // There are at most `MAX_FILES`.
            let serial = u32::try_from(index + 2).unwrap_or(u32::MAX);
            let bytes = inode(FILE_MODE, entry.size, entry.first_block, serial, 1);
            put(&mut head, number(index) * SLOT, &bytes);
        }
        let checksum = crc32c(&head[SUPERBLOCK..BLOCK]);
        put(&mut head, SUPERBLOCK + 4, &checksum.to_le_bytes());
        head.extend(&self.folder);
        head
    }

    /// Size of [`Self::head`], in bytes.
    #[must_use]
    pub fn head_len(&self) -> usize {
        self.metadata_blocks * BLOCK + self.folder.len()
    }

    /// Size of the file system, in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        u64::from(self.blocks) * BLOCK as u64
    }
}

/// Returns the number of zero bytes that follow a file of `size` bytes.
#[must_use]
pub fn padding(size: u64) -> usize {
    // The difference is less than 4096.
    usize::try_from(size.next_multiple_of(BLOCK as u64) - size).unwrap_or(0)
}

/// Returns the inode number of the file with this index.
const fn number(index: usize) -> usize {
    ROOT_NUMBER + (index + 1) * (INODE_LEN / SLOT)
}

fn inode(mode: u16, size: u64, block: u32, serial: u32, links: u32) -> [u8; INODE_LEN] {
    let mut inode = [0; INODE_LEN];
    put(&mut inode, 0, &EXTENDED_INODE.to_le_bytes());
    put(&mut inode, 4, &mode.to_le_bytes());
    put(&mut inode, 8, &size.to_le_bytes());
    put(&mut inode, 16, &block.to_le_bytes());
    put(&mut inode, 20, &serial.to_le_bytes());
    put(&mut inode, 44, &links.to_le_bytes());
    inode
}

/// Returns the root folder's blocks and its size. Each block has a table of entries in byte order, then their names.
fn folder(files: &[(&str, u64)]) -> (Vec<u8>, usize) {
    let mut entries: Vec<(&str, usize, u8)> = files
        .iter()
        .enumerate()
        .map(|(index, (name, _))| (*name, number(index), TYPE_FILE))
        .collect();
    entries.extend([
        (".", ROOT_NUMBER, TYPE_FOLDER),
        ("..", ROOT_NUMBER, TYPE_FOLDER),
    ]);
    entries.sort_unstable();
    let (mut blocks, mut size, mut rest) = (Vec::new(), 0, &entries[..]);
    while !rest.is_empty() {
        let mut used = 0;
        let fits = |entry: &&(&str, usize, u8)| {
            used += ENTRY_LEN + entry.0.len();
            used <= BLOCK
        };
        let count = rest.iter().take_while(fits).count();
        let (here, later) = rest.split_at(count);
        let (mut table, mut names) = (Vec::new(), Vec::new());
        for (name, number, kind) in here {
            table.extend((*number as u64).to_le_bytes());
            table.extend(low16(ENTRY_LEN * count + names.len()));
            table.extend([*kind, 0]);
            names.extend(name.bytes());
        }
        table.extend(names);
        size = blocks.len() + table.len();
        table.resize(BLOCK, 0);
        blocks.extend(table);
        rest = later;
    }
    (blocks, size)
}

/// Encodes a value that is below the block size.
fn low16(value: usize) -> [u8; 2] {
    u16::try_from(value).unwrap_or(u16::MAX).to_le_bytes()
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// Returns the CRC-32C as EROFS uses it: without the final inversion.
fn crc32c(data: &[u8]) -> u32 {
    data.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_is_crc32c() {
        assert_eq!(!crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn files_follow_one_another_in_whole_blocks() {
        let layout = Layout::new(&[("a", 1), ("b", 4096), ("c", 0), ("d", 4097)]).unwrap();
        let first: Vec<u32> = layout
            .entries
            .iter()
            .map(|entry| entry.first_block)
            .collect();
        assert_eq!(first, [2, 3, 4, 4]);
        assert_eq!(layout.size(), 6 * 4096);
        assert_eq!(layout.head([0; 16]).len(), layout.head_len());
        assert_eq!((padding(0), padding(1), padding(4096)), (0, 4095, 0));
    }

    #[test]
    fn a_folder_of_many_files_spans_blocks() {
        let names: Vec<String> = (0..300)
            .map(|number| format!("model-{number:05}.safetensors"))
            .collect();
        let files: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 1)).collect();
        let (blocks, size) = folder(&files);
        assert_eq!(blocks.len() % BLOCK, 0);
        assert!(size > 2 * BLOCK && size <= blocks.len(), "{size}");
    }

    #[test]
    fn what_exceeds_the_format_is_refused() {
        assert!(Layout::new(&[("a", 16 << 40)]).is_none());
        assert!(Layout::new(&[("a", u64::MAX), ("b", u64::MAX)]).is_none());
        assert!(Layout::new(&vec![("a", 0); MAX_FILES + 1]).is_none());
    }
}
