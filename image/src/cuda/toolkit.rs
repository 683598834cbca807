//! NVIDIA's tools from their Python packages, laid out as a CUDA folder.

use std::os::unix::fs::symlink;
use std::path::Path;

use cocoon_inputs::report::Reporter;
use cocoon_inputs::unpack::{self, Limits, WheelError};
use cocoon_inputs::{FetchError, Fetched, Fetcher};
use thiserror::Error;

use crate::files::{self, FileError};
use crate::package::PackageError;
use crate::scratch::Scratch;

/// Group of the compiler with its headers.
pub const COMPILER: &str = "cuda";
/// Group of the tools that show what is in a cubin.
pub const INSPECT: &str = "cuda-inspect";
/// Group of compute-sanitizer.
pub const SANITIZER: &str = "cuda-sanitizer";

/// Where all packages keep their files.
const PREFIX: &str = "nvidia/cu13/";

/// Why a tool cannot be had.
#[derive(Debug, Error)]
pub enum ToolkitError {
    /// Not to be fetched.
    #[error("cannot fetch the {group} input")]
    Fetch {
        /// Group of the lock file.
        group: &'static str,
        /// Why.
        #[source]
        source: Box<FetchError>,
    },
    /// Not to be unpacked.
    #[error("cannot unpack {name}")]
    Unpack {
        /// Package.
        name: String,
        /// Why.
        #[source]
        source: WheelError,
    },
    /// Nothing to be had from a Debian package.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// The packages are laid out in another way.
    #[error(
        "package {name} has nothing where its tools should be: its layout has changed, and this program must follow"
    )]
    Layout {
        /// Package.
        name: String,
    },
    /// A file.
    #[error("cannot lay out the tools")]
    File(#[from] FileError),
}

/// What compiling to a cubin needs of the compiler's 270 MB, by the beginning of a path: driver, front end, code generator,
/// assembler, headers.
pub const CUBINS: &[&str] = &[
    "bin/cudafe++",
    "bin/nvcc",
    "bin/ptxas",
    "nvvm/bin/cicc",
    "nvvm/libdevice/",
    "include/",
];
/// Everything.
pub const ALL: &[&str] = &[""];

/// Unpacks the packages of `groups`, as far as `parts` say, into `home`, a folder such as `CUDA_HOME` names: `bin`,
/// `nvvm`, `include`, `lib`.
///
/// # Errors
/// [`ToolkitError`].
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
    // Beside it, so that it takes one step to its place; gone by itself whatever happens.
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

/// The packages of a group.
pub(super) fn fetch(fetcher: &Fetcher, group: &'static str) -> Result<Vec<Fetched>, ToolkitError> {
    let packages = fetcher.fetch_group(group);
    packages.map_err(|source| ToolkitError::Fetch {
        group,
        source: Box::new(source),
    })
}

/// The packages' own records, in hidden folders, are no tools; C++ algorithms are needed for everything or for nothing.
fn wanted(path: &str, parts: &[&str]) -> bool {
    let part = parts.iter().any(|part| path.starts_with(part));
    part && !path.starts_with('.') && (parts == ALL || !path.starts_with("include/cccl/"))
}

/// Programs lie in `bin`, of whatever part, or beside compute-sanitizer, which starts its helpers.
fn runs(path: &str) -> bool {
    let folder = path.rsplit('/').nth(1);
    matches!(folder, Some("bin" | "compute-sanitizer")) && !path.ends_with(".profile")
}

/// The names that linkers look for, which Python packages cannot carry: `lib64`, and each library without its version.
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
