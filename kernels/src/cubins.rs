//! The kernels' machine code, which is used only if it has one of the digests pinned in this crate.
//!
//! `sm90.sha256` lists, in the format of `sha256sum`, the cubins that the locked compiler makes of `cuda/`, and their
//! sources. `sm90.cuda-12.sha256` does so for the image's compiler, because the image's driver loads no newer code. A
//! cubin of either list is accepted. `cocoon-image kernels build` makes the cubins and compares them. A test compares
//! the sources, so that no kernel is changed without being built. Cubins are never committed.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

/// The two lists of digests.
pub const PINNED: [&str; 2] = [
    include_str!("../sm90.sha256"),
    include_str!("../sm90.cuda-12.sha256"),
];
/// Largest cubin that is read, in bytes; those of this crate have some tens of thousands.
const MAX_CUBIN: u64 = 1 << 20;

/// The verified machine code of all kernels.
#[derive(Debug, Clone)]
pub struct Cubins {
    pub(crate) scrub: Cow<'static, [u8]>,
    pub(crate) blake3: Cow<'static, [u8]>,
}

/// Why machine code is refused.
#[derive(Debug, thiserror::Error)]
pub enum CubinError {
    /// The file cannot be read.
    #[error("cannot read {path}: make it with `cocoon-image kernels build --out DIR`")]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The digest is not that of a cubin that a pinned compiler makes of this crate's sources.
    #[error(
        "{name} has SHA-256 {found}, and this program uses only {expected} or {or}: make it with `cocoon-image kernels \
         build` of the same sources"
    )]
    Digest {
        /// File name of the cubin.
        name: &'static str,
        /// Digest of the given machine code.
        found: String,
        /// Digest in the first list.
        expected: &'static str,
        /// Digest in the second list.
        or: &'static str,
    },
}

/// File names, as in the lists.
mod name {
    pub const SCRUB: &str = "sm90_scrub.cubin";
    pub const BLAKE3: &str = "sm90_blake3.cubin";
}

impl Cubins {
    /// Reads the cubins that `cocoon-image kernels build --out FOLDER` has made.
    ///
    /// # Errors
    /// [`CubinError`] if a cubin cannot be read or has another digest.
    pub fn read(folder: &Path) -> Result<Self, CubinError> {
        Self::new(
            Cow::Owned(read(&folder.join(name::SCRUB))?),
            Cow::Owned(read(&folder.join(name::BLAKE3))?),
        )
    }

    /// Returns the cubins that were embedded into this binary when it was built.
    ///
    /// # Errors
    /// [`CubinError::Digest`] if a cubin has another digest.
    #[cfg(feature = "embedded")]
    pub fn embedded() -> Result<Self, CubinError> {
        Self::new(
            Cow::Borrowed(include_bytes!(concat!(
                env!("COCOON_KERNELS"),
                "/sm90_scrub.cubin"
            ))),
            Cow::Borrowed(include_bytes!(concat!(
                env!("COCOON_KERNELS"),
                "/sm90_blake3.cubin"
            ))),
        )
    }

    fn new(scrub: Cow<'static, [u8]>, blake3: Cow<'static, [u8]>) -> Result<Self, CubinError> {
        check(name::SCRUB, &scrub)?;
        check(name::BLAKE3, &blake3)?;
        Ok(Self { scrub, blake3 })
    }
}

/// Returns the digest of a file in a list, or an empty text, which equals no digest, if the list does not name the
/// file.
fn pinned(list: &'static str, file: &str) -> &'static str {
    let named = |line: &'static str| line.split_once("  ").filter(|(_, name)| *name == file);
    list.lines()
        .find_map(named)
        .map_or("", |(digest, _)| digest)
}

fn check(name: &'static str, bytes: &[u8]) -> Result<(), CubinError> {
    let found = hex::encode(Sha256::digest(bytes));
    let [expected, or] = PINNED.map(|list| pinned(list, name));
    if found == expected || found == or {
        return Ok(());
    }
    Err(CubinError::Digest {
        name,
        found,
        expected,
        or,
    })
}

fn read(path: &Path) -> Result<Vec<u8>, CubinError> {
    let mut bytes = Vec::new();
    let file = File::open(path).and_then(|file| file.take(MAX_CUBIN).read_to_end(&mut bytes));
    file.map_err(|source| CubinError::Read {
        path: path.to_owned(),
        source,
    })?;
    Ok(bytes)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// `e_machine` of CUDA in an ELF header.
    pub const CUBIN: u8 = 190;

    /// Machine code that the driver's stand-in accepts if `machine` is [`CUBIN`]: an ELF header.
    pub fn cubins(machine: u8) -> Cubins {
        let mut header = vec![0; 64];
        header[..4].copy_from_slice(b"\x7fELF");
        header[18] = machine;
        Cubins {
            scrub: Cow::Owned(header.clone()),
            blake3: Cow::Owned(header),
        }
    }

    #[test]
    fn whoever_changes_a_kernel_builds_it() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut sources: Vec<String> = std::fs::read_dir(folder.join("cuda"))
            .unwrap()
            .map(|entry| format!("cuda/{}", entry.unwrap().file_name().to_str().unwrap()))
            .collect();
        sources.sort();
        for list in PINNED {
            let listed: Vec<&str> = list
                .lines()
                .filter_map(|line| line.split_once("  "))
                .map(|(_, name)| name)
                .collect();
            assert_eq!(listed[..2], [name::BLAKE3, name::SCRUB]);
            assert_eq!(listed[2..], sources, "a list has other sources");
            for source in &sources {
                let bytes = std::fs::read(folder.join(source)).unwrap();
                assert_eq!(
                    hex::encode(Sha256::digest(bytes)),
                    pinned(list, source),
                    "{source} has changed: run `cocoon-image kernels build --out DIR --pin` for releases 13.0 and 12.4, and \
                     the tests on a GPU"
                );
            }
        }
    }

    #[test]
    #[cfg(feature = "embedded")]
    fn what_is_embedded_counts() {
        let cubins = Cubins::embedded().unwrap();
        for cubin in [&cubins.scrub, &cubins.blake3] {
            assert_eq!(&cubin[..4], b"\x7fELF");
        }
    }

    #[test]
    fn other_machine_code_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let missing = Cubins::read(folder.path()).unwrap_err();
        let path = folder.path().join(name::SCRUB);
        assert_eq!(
            missing.to_string(),
            format!(
                "cannot read {}: make it with `cocoon-image kernels build --out DIR`",
                path.display()
            )
        );
        for name in [name::SCRUB, name::BLAKE3] {
            std::fs::write(folder.path().join(name), "no kernel").unwrap();
        }
        let found = hex::encode(Sha256::digest("no kernel"));
        assert_eq!(
            Cubins::read(folder.path()).unwrap_err().to_string(),
            format!(
                "sm90_scrub.cubin has SHA-256 {found}, and this program uses only {} or {}: make it with `cocoon-image \
                 kernels build` of the same sources",
                pinned(PINNED[0], name::SCRUB),
                pinned(PINNED[1], name::SCRUB)
            )
        );
        assert_eq!(pinned(PINNED[0], "nothing"), "");
    }
}
