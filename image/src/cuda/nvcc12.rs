//! Lays out nvcc 12.4 as a CUDA folder. It is the newest release whose code runs on R550, Debian's newest driver.
//!
//! No Python package has nvcc of that release, and the Debian package of its headers has 930 MB of static libraries. So the
//! programs come from Debian, and the headers from NVIDIA's Python packages of the same release.

use std::path::Path;

use cocoon_inputs::Fetched;
use cocoon_inputs::report::Reporter;
use cocoon_inputs::unpack::{self, Limits};

use super::toolkit::ToolkitError;
use crate::files::{self, FileError};
use crate::package;

/// Group of the lock file with compiler and headers.
pub const GROUP: &str = "cuda-12";

/// Paths of the programs in Debian's package, and their paths in a CUDA folder.
const PLACES: &[(&str, &str)] = &[
    ("usr/lib/nvidia-cuda-toolkit/bin/nvcc", "bin/nvcc"),
    ("usr/lib/nvidia-cuda-toolkit/bin/crt/", "bin/crt/"),
    ("usr/lib/nvidia-cuda-toolkit/bin/cicc", "nvvm/bin/cicc"),
    ("usr/lib/nvidia-cuda-toolkit/libdevice/", "nvvm/libdevice/"),
    ("usr/bin/bin2c", "bin/bin2c"),
    ("usr/bin/cudafe++", "bin/cudafe++"),
    ("usr/bin/fatbinary", "bin/fatbinary"),
    ("usr/bin/nvlink", "bin/nvlink"),
    ("usr/bin/ptxas", "bin/ptxas"),
];
/// The configuration that nvcc reads beside its executable. It replaces Debian's, which names folders of the machine.
const PROFILE: &str = "TOP = $(_HERE_)/..\n\
    CICC_PATH = $(TOP)/nvvm/bin\n\
    NVVMIR_LIBRARY_DIR = $(TOP)/nvvm/libdevice\n\
    PATH += $(CICC_PATH):$(_HERE_):\n\
    INCLUDES += \"-I$(TOP)/include\" $(_SPACE_)\n\
    LIBRARIES =+ $(_SPACE_) \"-L$(TOP)/lib\"\n";

/// Unpacks `packages`, which are those of [`GROUP`], into `home`, which must not exist.
///
/// # Errors
/// [`ToolkitError`] when a package cannot be unpacked or lacks the expected files.
pub fn unpack(
    packages: &[Fetched],
    home: &Path,
    reporter: &dyn Reporter,
) -> Result<(), ToolkitError> {
    files::create_folder(home)?;
    for package in packages {
        let name = &package.entry.name;
        let task = reporter.start(&format!("unpacking {name}"), None);
        let found = match name.ends_with("-cu12") {
            true => headers(package, home)?,
            false => programs(package, home)?,
        };
        if !found {
            return Err(ToolkitError::Layout { name: name.clone() });
        }
        task.finish("done");
    }
    files::write(&home.join("bin"), "nvcc.profile", PROFILE.as_bytes())?;
    Ok(())
}

/// Moves the `include` folder of a Python package into that of `home`. Returns whether there was one.
fn headers(package: &Fetched, home: &Path) -> Result<bool, ToolkitError> {
    let unpacked = tempfile::tempdir_in(home).map_err(FileError::write(home))?;
    let part = |path: &str| header(path).is_some();
    unpack::unpack_wheel_into(
        &package.path,
        Limits::default(),
        part,
        |_| false,
        unpacked.path(),
    )
    .map_err(|source| ToolkitError::Unpack {
        name: package.entry.name.clone(),
        source,
    })?;
    let mut found = false;
    for path in files_below(unpacked.path())? {
        let relative = path.strip_prefix(unpacked.path()).unwrap_or(&path);
        if let Some(name) = relative.to_str().and_then(header) {
            place(&path, &home.join("include").join(name))?;
            found = true;
        }
    }
    Ok(found)
}

/// Returns the path of a header relative to `include`, given its path in a Python package.
fn header(path: &str) -> Option<&str> {
    let (_, rest) = path.strip_prefix("nvidia/")?.split_once('/')?;
    let name = rest.strip_prefix("include/")?;
    (!name.ends_with("__init__.py")).then_some(name)
}

/// Writes the programs of Debian's package into `home`. Returns whether none is missing.
fn programs(package: &Fetched, home: &Path) -> Result<bool, ToolkitError> {
    let tree = package::unpacked(package, |path| program(path).is_some())?;
    for (path, node) in &tree {
        let (Some(to), Some(data)) = (program(path), node.data()) else {
            continue;
        };
        let to = home.join(to);
        let (Some(folder), Some(file)) = (to.parent(), to.file_name()) else {
            continue;
        };
        files::create_folder(folder)?;
        files::write(folder, &file.to_string_lossy(), data)?;
        make_executable(&to)?;
    }
    let all = PLACES.iter().all(|(_, to)| home.join(to).exists());
    Ok(all)
}

/// Returns the path in a CUDA folder of a file of Debian's package.
fn program(path: &str) -> Option<String> {
    PLACES
        .iter()
        .find_map(|(from, to)| match from.ends_with('/') {
            true => Some(format!("{to}{}", path.strip_prefix(from)?)),
            false => (path == *from).then(|| (*to).to_owned()),
        })
}

fn files_below(folder: &Path) -> Result<Vec<std::path::PathBuf>, FileError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(FileError::read(folder))? {
        let entry = entry.map_err(FileError::read(folder))?;
        let path = entry.path();
        match path.is_dir() {
            true => found.extend(files_below(&path)?),
            false => found.push(path),
        }
    }
    Ok(found)
}

fn place(from: &Path, to: &Path) -> Result<(), FileError> {
    if let Some(folder) = to.parent() {
        files::create_folder(folder)?;
    }
    std::fs::rename(from, to).map_err(FileError::write(to))
}

fn make_executable(path: &Path) -> Result<(), FileError> {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(path, mode).map_err(FileError::write(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_come_to_their_places() {
        for (path, place) in [
            ("usr/lib/nvidia-cuda-toolkit/bin/nvcc", Some("bin/nvcc")),
            (
                "usr/lib/nvidia-cuda-toolkit/bin/crt/link.stub",
                Some("bin/crt/link.stub"),
            ),
            (
                "usr/lib/nvidia-cuda-toolkit/libdevice/libdevice.10.bc",
                Some("nvvm/libdevice/libdevice.10.bc"),
            ),
            ("usr/bin/ptxas", Some("bin/ptxas")),
            ("usr/bin/nvcc", None),
            ("usr/lib/nvidia-cuda-toolkit/bin/nvcc.profile", None),
        ] {
            assert_eq!(program(path).as_deref(), place, "{path}");
        }
        assert_eq!(
            header("nvidia/cuda_cccl/include/cub/cub.cuh"),
            Some("cub/cub.cuh")
        );
        assert_eq!(header("nvidia/cuda_cccl/include/cub/__init__.py"), None);
        assert_eq!(header("nvidia/cuda_runtime/lib/libcudart.so.12"), None);
    }
}
