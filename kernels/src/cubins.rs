//! The kernels' machine code, which is used only if it has the digest that this crate names.
//!
//! `sm90.sha256` lists, in the format of `sha256sum`, the cubins that the locked compiler makes of `cuda/`, and the
//! sources that they are made of; `sm90.cuda-12.sha256` does so for the compiler of the image, whose driver takes no newer
//! code. Those of either list count. `cocoon-image kernels build` makes them and compares; a test compares the sources, so
//! that nobody changes a kernel without building it; no cubin is ever committed.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

/// The lists of digests.
pub const PINNED: [&str; 2] = [
    include_str!("../sm90.sha256"),
    include_str!("../sm90.cuda-12.sha256"),
];
/// The largest cubin that is read, in bytes: ours have some tens of thousands.
const MAX_CUBIN: u64 = 1 << 20;

/// Checked machine code of all kernels.
#[derive(Debug, Clone)]
pub struct Cubins {
    pub(crate) scrub: Cow<'static, [u8]>,
    pub(crate) blake3: Cow<'static, [u8]>,
}

/// Why machine code is not used.
#[derive(Debug, thiserror::Error)]
pub enum CubinError {
    /// Cannot be read.
    #[error("cannot read {path}: make it with `cocoon-image kernels build --out DIR`")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Not what the locked compiler makes of the sources of this crate.
    #[error(
        "{name} has SHA-256 {found}, and this program uses only {expected} or {or}: make it with `cocoon-image kernels \
         build` of the same sources"
    )]
    Digest {
        /// Which.
        name: &'static str,
        /// Digest of what was given.
        found: String,
        /// Digest in the first list.
        expected: &'static str,
        /// Digest in the other.
        or: &'static str,
    },
}

/// File names, as in the list.
mod name {
    pub const SCRUB: &str = "sm90_scrub.cubin";
    pub const BLAKE3: &str = "sm90_blake3.cubin";
}

impl Cubins {
    /// Those that `cocoon-image kernels build --out FOLDER` has made.
    ///
    /// # Errors
    /// [`CubinError`].
    pub fn read(folder: &Path) -> Result<Self, CubinError> {
        Self::new(
            Cow::Owned(read(&folder.join(name::SCRUB))?),
            Cow::Owned(read(&folder.join(name::BLAKE3))?),
        )
    }

    /// Those that were taken into this binary when it was built.
    ///
    /// # Errors
    /// [`CubinError::Digest`].
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

/// The digest that a list has for a file; empty, which nothing has, for a file that is not in it.
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

    /// The machine of GPUs in an ELF header.
    pub const CUBIN: u8 = 190;

    /// What the stand-in of the driver takes for machine code of a GPU: an ELF header of that machine.
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
