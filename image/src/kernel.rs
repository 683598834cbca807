//! Fragment: Debian's cloud kernel, unchanged, and the modules that the guest needs.

pub mod closure;
pub mod modinfo;
#[cfg(test)]
mod test_module;

use std::collections::BTreeMap;

use thiserror::Error;

pub use closure::{ClosureError, MODULES, Module};

/// Modules with the kernel's cryptography that NVIDIA's driver uses, each with its reason. The driver requests algorithms by
/// name at run time, when nothing can be loaded any more. The kernel itself has only their slow implementations, or none.
pub const FOR_DRIVER: &[(&str, &str)] = &[
    ("gcm", "AES-GCM, for everything that crosses to a GPU"),
    ("ghash-generic", "the authentication in it"),
    ("ghash-clmulni-intel", "the same at the processor's speed"),
    ("aesni-intel", "AES at the processor's speed"),
    (
        "sha512-ssse3",
        "SHA-384 of a GPU's certificates and key exchange",
    ),
    ("ecdh_generic", "the key exchange with a GPU"),
];

/// Largest kernel that is accepted, in bytes.
pub const MAX_KERNEL: usize = 64 << 20;

/// The kernel and its modules, from a kernel package.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// The kernel, an EFI executable.
    pub vmlinuz: Vec<u8>,
    /// The modules of [`MODULES`], further ones that the caller wanted, and those that they depend on: in load order,
    /// uncompressed and signed.
    pub modules: Vec<Module>,
    /// Release as `uname -r` prints it, such as `6.12.117+deb13-cloud-amd64`.
    pub release: String,
}

/// Why a package yields no kernel.
#[derive(Debug, Error)]
pub enum KernelError {
    /// The package does not have exactly one `boot/vmlinuz-*`.
    #[error("the kernel package holds {found} files boot/vmlinuz-*, expected one")]
    NotOne {
        /// Number of such files.
        found: usize,
    },
    /// The file is not an EFI executable for Linux on x86.
    #[error("{path} is not a bootable kernel: {what}")]
    NotBootable {
        /// Path in the package.
        path: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A module is missing or cannot be used.
    #[error("cannot select the kernel's modules")]
    Modules(#[from] ClosureError),
}

impl Kernel {
    /// Returns whether a file of the kernel package is needed. The others need not be unpacked.
    pub fn wants(path: &str) -> bool {
        let path = path.trim_start_matches("./");
        path.starts_with("boot/vmlinuz-")
            || path.contains("lib/modules/")
                && (path.contains(".ko") || path.ends_with("/modules.builtin"))
    }

    /// Selects the kernel, [`MODULES`] and the modules in `more` from the files of an unpacked kernel package, given by path.
    ///
    /// # Errors
    /// [`KernelError`] when there is no kernel or a module is missing.
    pub fn select(
        files: &BTreeMap<String, Vec<u8>>,
        more: &[(&str, &str)],
    ) -> Result<Self, KernelError> {
        let named = |path: &&String| path.trim_start_matches("./").starts_with("boot/vmlinuz-");
        let kernels: Vec<&String> = files.keys().filter(named).collect();
        let [path] = kernels[..] else {
            return Err(KernelError::NotOne {
                found: kernels.len(),
            });
        };
        let vmlinuz = files[path].clone();
        check(&vmlinuz).map_err(|what| KernelError::NotBootable {
            path: path.clone(),
            what,
        })?;
        let (_, release) = path.split_once("vmlinuz-").unwrap_or_default();
        Ok(Self {
            vmlinuz,
            modules: closure::closure(files, &[MODULES, more].concat())?,
            release: release.to_owned(),
        })
    }
}

/// Checks the size, the EFI stub's "MZ", and the magic of the Linux boot protocol at 0x202.
fn check(vmlinuz: &[u8]) -> Result<(), &'static str> {
    if vmlinuz.len() > MAX_KERNEL {
        return Err("it is larger than any kernel");
    }
    if !vmlinuz.starts_with(b"MZ") {
        return Err("it does not begin with the EFI stub's \"MZ\"");
    }
    if vmlinuz.get(0x202..0x206) != Some(b"HdrS") {
        return Err("the Linux boot header is missing at offset 0x202");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_boot_files_are_wanted() {
        assert!(Kernel::wants("./boot/vmlinuz-6.12-cloud"));
        assert!(Kernel::wants(
            "usr/lib/modules/6.12/kernel/fs/erofs/erofs.ko.xz"
        ));
        assert!(Kernel::wants("./usr/lib/modules/6.12/modules.builtin"));
        assert!(!Kernel::wants("./usr/share/doc/linux/copyright"));
        assert!(!Kernel::wants("./boot/System.map-6.12-cloud"));
    }

    #[test]
    fn a_package_without_kernel_or_with_another_file_is_refused() {
        let none = Kernel::select(&BTreeMap::new(), &[]).unwrap_err();
        assert_eq!(
            none.to_string(),
            "the kernel package holds 0 files boot/vmlinuz-*, expected one"
        );
        let other = BTreeMap::from([("boot/vmlinuz-1".to_owned(), b"MZ".to_vec())]);
        assert_eq!(
            Kernel::select(&other, &[]).unwrap_err().to_string(),
            "boot/vmlinuz-1 is not a bootable kernel: the Linux boot header is missing at offset 0x202"
        );
    }
}
