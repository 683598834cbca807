//! Unpacks NVIDIA's tools from their Python packages and lays them out as a CUDA folder.

use std::os::unix::fs::symlink;
use std::path::Path;

use cocoon_inputs::report::Reporter;
use cocoon_inputs::unpack::{self, Limits, WheelError};
use cocoon_inputs::{FetchError, Fetched, Fetcher};
use thiserror::Error;

use crate::files::{self, FileError};
use crate::package::PackageError;
use crate::scratch::Scratch;

/// Group of the lock file with the compiler and its headers.
pub const COMPILER: &str = "cuda";
/// Group of the lock file with cuobjdump and nvdisasm, which show the contents of a cubin.
pub const INSPECT: &str = "cuda-inspect";
/// Group of the lock file with compute-sanitizer.
pub const SANITIZER: &str = "cuda-sanitizer";

/// Folder in which all of these packages keep their files.
const PREFIX: &str = "nvidia/cu13/";

/// Why a tool cannot be unpacked.
#[derive(Debug, Error)]
pub enum ToolkitError {
    /// A group cannot be fetched.
    #[error("cannot fetch the {group} input")]
    Fetch {
        /// Group of the lock file.
        group: &'static str,
        /// Why the download failed.
        #[source]
        source: Box<FetchError>,
    },
    /// A Python package cannot be unpacked.
    #[error("cannot unpack {name}")]
    Unpack {
        /// Name of the package.
        name: String,
        /// What is wrong with it.
        #[source]
        source: WheelError,
    },
    /// A Debian package cannot be read or unpacked.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// A package does not have the expected layout.
    #[error(
        "package {name} has nothing where its tools should be: its layout has changed, and this program must follow"
    )]
    Layout {
        /// Name of the package.
        name: String,
    },
    /// A file cannot be read or written.
    #[error("cannot lay out the tools")]
    File(#[from] FileError),
}

/// Parts of the 270 MB compiler that are needed to compile cubins, as prefixes of paths: driver, front end, code generator,
/// assembler, headers.
pub const CUBINS: &[&str] = &[
    "bin/cudafe++",
    "bin/nvcc",
    "bin/ptxas",
    "nvvm/bin/cicc",
    "nvvm/libdevice/",
    "include/",
];
/// Prefix of every path: all files.
pub const ALL: &[&str] = &[""];

/// Unpacks the packages of `groups` into `home`, a folder as `CUDA_HOME` names it, with `bin`, `nvvm`, `include` and `lib`.
/// Only files whose paths begin with one of `parts` are taken.
///
/// # Errors
/// [`ToolkitError`] when a package cannot be fetched or unpacked, or has another layout.
pub fn unpack(
    fetcher: &Fetcher,
    groups: &[&'static str],
    parts: &[&str],
    home: &Path,
    reporter: &dyn Reporter,
) -> Result<(), ToolkitError> {
    let parent = match home.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    files::create_folder(parent)?;
    // A scratch folder beside `home` can be renamed to it in one step, and is removed if anything fails.
    let above = Scratch::below(parent, ".unpacking-")?;
    for group in groups {
        for package in fetch(fetcher, group)? {
            let name = package.entry.name;
            let task = reporter.start(&format!("unpacking {name}"), None);
            let mut known = false;
            let keep = |path: &str| {
                let below = path.strip_prefix(PREFIX);
                known |= below.is_some();
                below.is_some_and(|path| wanted(path, parts))
            };
            let limits = Limits::default();
            unpack::unpack_wheel_into(&package.path, limits, keep, runs, above.path()).map_err(
                |source| ToolkitError::Unpack {
                    name: name.clone(),
                    source,
                },
            )?;
            if !known {
                return Err(ToolkitError::Layout { name });
            }
            task.finish("done");
        }
    }
    std::fs::rename(above.path().join(PREFIX), home).map_err(FileError::write(home))?;
    link_libraries(home)
}

/// Fetches the packages of a group.
pub(super) fn fetch(fetcher: &Fetcher, group: &'static str) -> Result<Vec<Fetched>, ToolkitError> {
    let packages = fetcher.fetch_group(group);
    packages.map_err(|source| ToolkitError::Fetch {
        group,
        source: Box::new(source),
    })
}

/// Returns whether a file belongs to `parts`. Hidden folders hold the packages' own records, which are no tools. The CUDA C++
/// Core Libraries (`cccl`) are taken with [`ALL`] only, because the kernels do not use them.
fn wanted(path: &str, parts: &[&str]) -> bool {
    let part = parts.iter().any(|part| path.starts_with(part));
    part && !path.starts_with('.') && (parts == ALL || !path.starts_with("include/cccl/"))
}

/// Returns whether a file must be executable: it lies in a `bin` folder, or beside compute-sanitizer, which starts its helpers.
fn runs(path: &str) -> bool {
    let folder = path.rsplit('/').nth(1);
    matches!(folder, Some("bin" | "compute-sanitizer")) && !path.ends_with(".profile")
}

/// Makes the links that linkers look for and Python packages cannot hold: `lib64`, and each library without its version.
fn link_libraries(home: &Path) -> Result<(), ToolkitError> {
    let lib = home.join("lib");
    if !lib.is_dir() {
        return Ok(());
    }
    let mut links = vec![(home.join("lib64"), "lib".to_owned())];
    for entry in std::fs::read_dir(&lib).map_err(FileError::read(&lib))? {
        let entry = entry.map_err(FileError::read(&lib))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some((stem, _)) = name.split_once(".so.") {
            links.push((lib.join(format!("{stem}.so")), name));
        }
    }
    for (link, target) in links {
        symlink(target, &link).map_err(FileError::write(&link))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_programs_may_be_run() {
        for path in [
            "nvidia/cu13/bin/nvcc",
            "nvidia/cu13/nvvm/bin/cicc",
            "nvidia/cu13/compute-sanitizer/TreeLauncherSubreaper",
        ] {
            assert!(runs(path), "{path}");
        }
        for path in [
            "nvidia/cu13/bin/nvcc.profile",
            "nvidia/cu13/bin/crt/link.stub",
            "nvidia/cu13/lib/libcudart.so.13",
        ] {
            assert!(!runs(path), "{path}");
        }
    }

    #[test]
    fn a_compiler_is_less_than_everything() {
        for (path, for_cubins) in [
            ("bin/nvcc.profile", true),
            ("include/crt/host_config.h", true),
            ("nvvm/bin/cicc", true),
            ("nvvm/lib64/libnvvm.so.4", false),
            ("include/cccl/cuda/std/array", false),
            ("lib/libcudart_static.a", false),
        ] {
            assert_eq!(wanted(path, CUBINS), for_cubins, "{path}");
            assert!(wanted(path, ALL), "{path}");
        }
        assert!(!wanted(".metadata/sizes.txt", ALL));
    }

    #[test]
    fn libraries_get_the_names_that_linkers_look_for() {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join("lib")).unwrap();
        for name in ["libcudart.so.13", "libcudadevrt.a"] {
            std::fs::write(home.path().join("lib").join(name), name).unwrap();
        }
        link_libraries(home.path()).unwrap();
        let read = |path: &str| std::fs::read_to_string(home.path().join(path)).unwrap();
        assert_eq!(read("lib64/libcudart.so"), "libcudart.so.13");
        assert_eq!(read("lib64/libcudadevrt.a"), "libcudadevrt.a");
    }
}
