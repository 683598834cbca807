//! Writes the `newc` archive that Linux unpacks as its first file system. Nothing in it depends on the machine that builds it.
//!
//! Inode numbers rise from 1, times and owners are zero, and entries are in the caller's order. Format:
//! `Documentation/driver-api/early-userspace/buffer-format.rst`.

use thiserror::Error;

/// Longest path, in bytes; Linux refuses more than `PATH_MAX`.
const MAX_PATH: usize = 4095;

/// Why the archive format cannot hold an entry.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum CpioError {
    /// The content is too large: the format has 32 bits for its size.
    #[error("{path} has {size} bytes, more than the 4 GiB that an initrd can hold")]
    TooLarge {
        /// Path in the archive.
        path: String,
        /// Size of the content, in bytes.
        size: usize,
    },
    /// The path is empty, absolute, too long, or has a NUL.
    #[error(
        "{path:?} is not a path for an archive: it must be relative, without NUL and at most {MAX_PATH} bytes long"
    )]
    Path {
        /// Path as it was given.
        path: String,
    },
}

/// An archive under construction.
#[derive(Default)]
pub struct Cpio {
    bytes: Vec<u8>,
    inode: u32,
}

impl Cpio {
    /// Adds a folder that everyone can read.
    ///
    /// # Errors
    /// [`CpioError`] for a path that is not valid.
    pub fn folder(&mut self, path: &str) -> Result<(), CpioError> {
        self.entry(path, 0o040_755, 2, &[])
    }

    /// Adds a file with the permission bits `mode`. Its folder must have been added before.
    ///
    /// # Errors
    /// [`CpioError`] for a path or size that is not valid.
    pub fn file(&mut self, path: &str, mode: u32, data: &[u8]) -> Result<(), CpioError> {
        self.entry(path, 0o100_000 | mode, 1, data)
    }

    /// Adds a symbolic link to `target`. Its folder must have been added before.
    ///
    /// # Errors
    /// [`CpioError`] for a path that is not valid.
    pub fn link(&mut self, path: &str, target: &str) -> Result<(), CpioError> {
        self.entry(path, 0o120_777, 1, target.as_bytes())
    }

    /// Returns the archive, padded to a multiple of 512 bytes.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.inode = 0;
        self.record(0, 0, 1, "TRAILER!!!", 0, &[]);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, links: u32, data: &[u8]) -> Result<(), CpioError> {
        if path.is_empty() || path.len() > MAX_PATH || path.starts_with('/') || path.contains('\0')
        {
            return Err(CpioError::Path {
                path: path.to_owned(),
            });
        }
        let size = u32::try_from(data.len());
        let size = size.map_err(|_| CpioError::TooLarge {
            path: path.to_owned(),
            size: data.len(),
        })?;
        self.inode += 1;
        self.record(self.inode, mode, links, path, size, data);
        Ok(())
    }

    fn record(&mut self, inode: u32, mode: u32, links: u32, path: &str, size: u32, data: &[u8]) {
        // `entry` limits paths to `MAX_PATH`.
        let path_size = u32::try_from(path.len() + 1).unwrap_or(u32::MAX);
        // inode, mode, uid, gid, links, mtime, size, device (2), special device (2), length of the path, checksum
        let fields = [inode, mode, 0, 0, links, 0, size, 0, 0, 0, 0, path_size, 0];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08X}").bytes());
        }
        self.bytes.extend(path.bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(data);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_file_is_the_record_of_the_specification() {
        let mut archive = Cpio::default();
        archive.file("init", 0o755, b"hello").unwrap();
        let bytes = archive.finish();
        let header =
            "070701000000010000 81ED00000000000000000000000100000000000000050000000000000000\
                      00000000000000000000000500000000"
                .replace(' ', "");
        assert_eq!(std::str::from_utf8(&bytes[..110]).unwrap(), header);
        assert_eq!(&bytes[110..124], b"init\0\0hello\0\0\0");
        assert_eq!(&bytes[124..130], b"070701");
        assert_eq!(bytes.len(), 512);
    }

    #[test]
    fn impossible_paths_are_refused() {
        for path in ["", "/init", "a\0b"] {
            let refused = Cpio::default().file(path, 0o644, &[]);
            assert_eq!(
                refused,
                Err(CpioError::Path {
                    path: path.to_owned()
                })
            );
        }
    }
}
