//! Selects the kernel modules that the guest loads, and their order.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;

use thiserror::Error;

use super::modinfo::{self, ModinfoError};

/// Modules that the image needs, each with its reason. Modules that they depend on are added automatically.
///
/// Not included on purpose: `virtio-rng` (the host's randomness is not credited), `vsock` (the control channel is
/// virtio-serial, which is built in), `qemu_fw_cfg` (nothing is read from the host that way).
pub const MODULES: &[(&str, &str)] = &[
    ("virtio_net", "the only network interface"),
    ("virtio_blk", "the model's disk, found by its serial"),
    (
        "sha256-ssse3",
        "dm-verity's hash at the processor's speed; loaded before it so that it is chosen",
    ),
    (
        "dm-verity",
        "the model's disk is checked block by block against the measured root",
    ),
    (
        "erofs",
        "the model volume's file system, read-only by design",
    ),
    ("configfs", "where the kernel offers attestation reports"),
    ("tsm", "the report interface common to TDX and SEV-SNP"),
    ("tdx-guest", "TDX quotes; answers ENODEV elsewhere"),
    ("sev-guest", "SEV-SNP reports; answers ENODEV elsewhere"),
];

/// Largest uncompressed module, in bytes.
const MAX_MODULE: u64 = 32 << 20;
/// Largest number of modules; the list has a few dozen.
const MAX_MODULES: usize = 100;

/// A module as it goes into the initrd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Name without folder and suffix, such as `dm-verity`.
    pub name: String,
    /// Content: an ELF file. Debian's modules end with a signature, NVIDIA's do not.
    pub bytes: Vec<u8>,
}

/// Why the modules cannot be selected.
#[derive(Debug, Error)]
pub enum ClosureError {
    /// A module is neither in the package nor built into the kernel.
    #[error(
        "module {name} (needed by {needed_by}) is neither in the kernel package nor built into the kernel"
    )]
    NotFound {
        /// Name of the module.
        name: String,
        /// The module that depends on it, or "the image".
        needed_by: String,
    },
    /// A module is not signed, so the kernel would refuse it.
    #[error("module {path} is not signed: the kernel would refuse it")]
    NotSigned {
        /// Path in the package.
        path: String,
    },
    /// A file is not a kernel module.
    #[error("module {path} cannot be read")]
    Modinfo {
        /// Path in the package.
        path: String,
        /// What is wrong with it.
        #[source]
        source: ModinfoError,
    },
    /// A file is not xz-compressed, although its name says so.
    #[error("module {path} cannot be uncompressed")]
    Xz {
        /// Path in the package.
        path: String,
        /// What the decompressor reported.
        #[source]
        source: std::io::Error,
    },
    /// A module is too large, or there are too many.
    #[error(
        "module {path} goes beyond what is allowed: {MAX_MODULES} modules of at most {MAX_MODULE} bytes"
    )]
    TooMuch {
        /// Path in the package.
        path: String,
    },
}

/// Returns the modules `wanted` and all that they depend on, dependencies first. `files` are those of the package, by path.
///
/// # Errors
/// [`ClosureError`] when a module is missing, unsigned or not valid.
pub fn closure(
    files: &BTreeMap<String, Vec<u8>>,
    wanted: &[(&str, &str)],
) -> Result<Vec<Module>, ClosureError> {
    let mut visit = Visit {
        found: by_name(files),
        builtin: builtin(files),
        seen: BTreeSet::new(),
        order: Vec::new(),
    };
    for (name, _) in wanted {
        visit.module(name, "the image")?;
    }
    Ok(visit.order)
}

struct Visit<'a> {
    found: BTreeMap<String, (&'a str, &'a [u8])>,
    builtin: BTreeSet<String>,
    seen: BTreeSet<String>,
    order: Vec<Module>,
}

impl Visit<'_> {
    /// Adds a module after its dependencies. Recursion ends, because each module of the package is visited at most once.
    fn module(&mut self, name: &str, needed_by: &str) -> Result<(), ClosureError> {
        let key = normal(name);
        if self.builtin.contains(&key) || !self.seen.insert(key.clone()) {
            return Ok(());
        }
        let Some(&(path, raw)) = self.found.get(&key) else {
            return Err(ClosureError::NotFound {
                name: name.to_owned(),
                needed_by: needed_by.to_owned(),
            });
        };
        let bytes = uncompressed(path, raw)?;
        let path = || path.to_owned();
        let info = modinfo::parse(&bytes).map_err(|source| ClosureError::Modinfo {
            path: path(),
            source,
        })?;
        if !info.signed {
            return Err(ClosureError::NotSigned { path: path() });
        }
        if self.seen.len() > MAX_MODULES {
            return Err(ClosureError::TooMuch { path: path() });
        }
        for depended in &info.depends {
            self.module(depended, name)?;
        }
        self.order.push(Module {
            name: stem(&path()).unwrap_or(name).to_owned(),
            bytes,
        });
        Ok(())
    }
}

fn by_name(files: &BTreeMap<String, Vec<u8>>) -> BTreeMap<String, (&str, &[u8])> {
    let modules = files
        .iter()
        .filter_map(|(path, bytes)| Some((normal(stem(path)?), (&path[..], &bytes[..]))));
    modules.collect()
}

fn builtin(files: &BTreeMap<String, Vec<u8>>) -> BTreeSet<String> {
    let lists = files
        .iter()
        .filter(|(path, _)| path.ends_with("/modules.builtin"));
    let lines = lists.flat_map(|(_, bytes)| bytes.split(|byte| *byte == b'\n'));
    lines
        .filter_map(|line| stem(std::str::from_utf8(line).ok()?))
        .map(normal)
        .collect()
}

/// Returns the name of a module: `dm-verity` for `a/b/dm-verity.ko.xz`.
fn stem(path: &str) -> Option<&str> {
    let name = path.rsplit('/').next()?;
    name.strip_suffix(".ko")
        .or_else(|| name.strip_suffix(".ko.xz"))
}

/// Returns the name with `_` for `-`, because the kernel does not distinguish them.
fn normal(name: &str) -> String {
    name.replace('-', "_")
}

fn uncompressed(path: &str, raw: &[u8]) -> Result<Vec<u8>, ClosureError> {
    let mut bytes = Vec::new();
    if path.ends_with(".xz") {
        let unpacked = lzma_rust2::XzReader::new(raw, false)
            .take(MAX_MODULE + 1)
            .read_to_end(&mut bytes);
        unpacked.map_err(|source| ClosureError::Xz {
            path: path.to_owned(),
            source,
        })?;
    } else {
        bytes.extend(raw);
    }
    if bytes.len() as u64 > MAX_MODULE {
        return Err(ClosureError::TooMuch {
            path: path.to_owned(),
        });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::super::test_module::module;
    use super::*;

    const ROOT: &str = "./usr/lib/modules/6.12/kernel/";

    fn files(modules: &[(&str, &str, bool)]) -> BTreeMap<String, Vec<u8>> {
        let entry = |(name, depends, signed): &(&str, &str, bool)| {
            (format!("{ROOT}{name}.ko"), module(depends, *signed))
        };
        let mut files: BTreeMap<_, _> = modules.iter().map(entry).collect();
        files.insert(
            "./usr/lib/modules/6.12/modules.builtin".to_owned(),
            b"kernel/drivers/virtio.ko\n".to_vec(),
        );
        files
    }

    fn names(modules: &[Module]) -> Vec<&str> {
        modules.iter().map(|module| module.name.as_str()).collect()
    }

    #[test]
    fn every_module_has_a_reason() {
        for (name, reason) in MODULES.iter().chain(super::super::FOR_DRIVER) {
            assert!(reason.trim().len() > 10, "{name} has no reason");
        }
    }

    #[test]
    fn dependencies_come_first_and_once() {
        let files = files(&[
            ("dm-verity", "dm-mod,dm-bufio", true),
            ("dm-bufio", "dm_mod", true),
            ("dm-mod", "virtio", true),
            ("unused", "", true),
        ]);
        let order = closure(&files, &[("dm_verity", ""), ("dm-mod", ""), ("virtio", "")]).unwrap();
        assert_eq!(names(&order), ["dm-mod", "dm-bufio", "dm-verity"]);
    }

    #[test]
    fn a_circle_ends() {
        let files = files(&[("a", "b", true), ("b", "a", true)]);
        assert_eq!(names(&closure(&files, &[("a", "")]).unwrap()), ["b", "a"]);
    }

    #[test]
    fn missing_and_unsigned_modules_are_named() {
        let files = files(&[("a", "gone", true), ("b", "", false)]);
        assert_eq!(
            closure(&files, &[("a", "")]).unwrap_err().to_string(),
            "module gone (needed by a) is neither in the kernel package nor built into the kernel"
        );
        assert_eq!(
            closure(&files, &[("b", "")]).unwrap_err().to_string(),
            format!("module {ROOT}b.ko is not signed: the kernel would refuse it")
        );
    }

    #[test]
    fn what_is_not_xz_is_refused() {
        let files = BTreeMap::from([(format!("{ROOT}a.ko.xz"), b"rubbish".to_vec())]);
        let error = closure(&files, &[("a", "")]).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("module {ROOT}a.ko.xz cannot be uncompressed")
        );
    }
}
