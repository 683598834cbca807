//! Lists the libraries of the runtime volume: which package holds each, and why it is needed.

use cocoon_inputs::unpack::{Node, Tree};

use super::{RuntimeError, followed};

/// Placeholder for the driver's version in a name.
const VERSION: &str = "{driver}";
/// Folder in which most packages keep their libraries.
const COMMON: &str = "usr/lib/x86_64-linux-gnu";
/// Folder in which Debian keeps the libraries of NVIDIA's driver.
const NVIDIA: &str = "usr/lib/x86_64-linux-gnu/nvidia/current";

/// A library that may be in the volume.
pub struct Library {
    /// Name in the volume, which other files are linked to or open.
    name: &'static str,
    /// Name of the package that holds it.
    pub package: &'static str,
    /// Folder in the package.
    folder: &'static str,
    /// Whether it is opened by name at run time, so that no file lists it as needed.
    pub opened: bool,
    /// Why it is needed.
    pub reason: &'static str,
}

const fn linked(
    name: &'static str,
    package: &'static str,
    folder: &'static str,
    reason: &'static str,
) -> Library {
    Library {
        name,
        package,
        folder,
        opened: false,
        reason,
    }
}

const fn opened(
    name: &'static str,
    package: &'static str,
    folder: &'static str,
    reason: &'static str,
) -> Library {
    Library {
        opened: true,
        ..linked(name, package, folder, reason)
    }
}

/// All libraries that may be in the volume.
pub const CATALOGUE: &[Library] = &[
    opened(
        "ld-linux-x86-64.so.2",
        "libc6",
        COMMON,
        "starts both programs: the kernel opens it by the name in them",
    ),
    linked("libc.so.6", "libc6", COMMON, "C library"),
    linked("libm.so.6", "libc6", COMMON, "C library: mathematics"),
    linked(
        "libpthread.so.0",
        "libc6",
        COMMON,
        "empty since glibc 2.34; NVIDIA's libraries are linked to it",
    ),
    linked(
        "libdl.so.2",
        "libc6",
        COMMON,
        "empty since glibc 2.34; NVIDIA's libraries are linked to it",
    ),
    linked(
        "librt.so.1",
        "libc6",
        COMMON,
        "empty since glibc 2.34; NVIDIA's libraries are linked to it",
    ),
    linked(
        "libgcc_s.so.1",
        "libgcc-s1",
        COMMON,
        "unwinding, for C++ and Rust",
    ),
    linked("libstdc++.so.6", "libstdc++6", COMMON, "C++ library"),
    linked(
        "libcuda.so.1",
        "libcuda1",
        NVIDIA,
        "the CUDA driver library",
    ),
    opened(
        "libnvidia-ptxjitcompiler.so.1",
        "libnvidia-ptxjitcompiler1",
        NVIDIA,
        "libcuda opens it to compile the engine's PTX for the GPU at hand",
    ),
    opened(
        "libnvidia-nvvm.so.4",
        "libnvidia-nvvm4",
        NVIDIA,
        "libcuda opens it for what the other compiler does not know",
    ),
    opened(
        "libnvidia-pkcs11-openssl3.so.{driver}",
        "libnvidia-pkcs11-openssl3",
        COMMON,
        "libcuda opens it to encrypt what crosses to a GPU in confidential-computing mode",
    ),
    linked(
        "libcrypto.so.3",
        "libssl3t64",
        COMMON,
        "OpenSSL, under the library before",
    ),
    linked("libz.so.1", "zlib1g", COMMON, "under OpenSSL"),
    linked("libzstd.so.1", "libzstd1", COMMON, "under OpenSSL"),
    opened(
        "libnvidia-ml.so.1",
        "libnvidia-ml1",
        NVIDIA,
        "the collector opens it: evidence, ready state and events of the GPUs",
    ),
    linked(
        "libcudart.so.12",
        "libcudart12",
        COMMON,
        "CUDA runtime, under the engine's kernels",
    ),
    linked(
        "libcublas.so.12",
        "libcublas12",
        COMMON,
        "matrix products of the engine",
    ),
    linked(
        "libcublasLt.so.12",
        "libcublaslt12",
        COMMON,
        "the same, chosen at run time",
    ),
    linked(
        "libcurand.so.10",
        "libcurand10",
        COMMON,
        "the engine is linked to it",
    ),
    linked(
        "libnvrtc.so.12",
        "libnvrtc12",
        COMMON,
        "the engine is linked to it; nothing is compiled from source in the guest",
    ),
];

impl Library {
    /// Returns its name, for a driver with this version.
    #[must_use]
    pub fn name(&self, driver: &str) -> String {
        self.name.replace(VERSION, driver)
    }

    /// Takes its content out of the files of its package. It is moved and not copied: some libraries have half a gigabyte.
    pub(super) fn take(&self, tree: &mut Tree, driver: &str) -> Result<Vec<u8>, RuntimeError> {
        let path = format!("{}/{}", self.folder, self.name(driver));
        let found = followed(tree, &path).and_then(|place| tree.remove(&place));
        match found {
            Some(Node::File { data, .. }) => Ok(data),
            _ => Err(RuntimeError::NoFile {
                package: self.package,
                path,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_library_has_a_reason_and_stands_once() {
        let mut names = std::collections::BTreeSet::new();
        for library in CATALOGUE {
            assert!(names.insert(library.name("1.2")), "{}", library.name);
            assert!(library.reason.len() > 8, "{}", library.name);
        }
        assert!(names.contains("libnvidia-pkcs11-openssl3.so.1.2"));
    }
}
