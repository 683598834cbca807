//! Computes the digest of this program's sources. The build script includes this file, so that the digest that is compiled in
//! and that of a workspace are computed in the same way.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

/// Files, and folders whose Rust sources all count: this crate, the crates of the workspace that it depends on, and the files
/// that decide their dependencies and compiler.
pub const PARTS: &[&str] = &[
    "Cargo.lock",
    "Cargo.toml",
    "rust-toolchain.toml",
    "image/Cargo.toml",
    "image/build.rs",
    "image/src",
    "image/inputs/Cargo.toml",
    "image/inputs/src",
    "measurements/Cargo.toml",
    "measurements/src",
    "measurements/protocol/Cargo.toml",
    "measurements/protocol/src",
];

/// Returns the files of all parts, as paths relative to `workspace`.
pub fn files(workspace: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    for part in PARTS {
        if fs::metadata(workspace.join(part))?.is_dir() {
            collect(workspace, Path::new(part), &mut found)?;
        } else {
            found.insert(part.into());
        }
    }
    Ok(found)
}

/// Returns a digest of the names and bytes of these files, in hexadecimal.
pub fn digest(workspace: &Path) -> io::Result<String> {
    let mut all = Sha256::new();
    for file in files(workspace)? {
        all.update(Sha256::digest(file.as_os_str().as_encoded_bytes()));
        all.update(Sha256::digest(fs::read(workspace.join(file))?));
    }
    Ok(format!("{:x}", all.finalize()))
}

/// Returns whether a file with this path in the workspace counts. Hidden files, build outputs, and files that editors leave
/// beside Rust sources do not count, because they are neither staged nor compiled.
pub fn is_part(path: &Path) -> bool {
    let is_left_out = |name: &OsStr| name.as_encoded_bytes().starts_with(b".") || name == "target";
    let mut below = PARTS.iter().filter_map(|part| path.strip_prefix(part).ok());
    below.any(|rest| {
        let is_rust = rest.extension().is_some_and(|kind| kind == "rs");
        rest.as_os_str().is_empty() || is_rust && !rest.iter().any(is_left_out)
    })
}

fn collect(workspace: &Path, folder: &Path, found: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(workspace.join(folder))? {
        let entry = entry?;
        let (path, kind) = (folder.join(entry.file_name()), entry.file_type()?);
        if kind.is_dir() {
            collect(workspace, &path, found)?;
        } else if kind.is_file() && is_part(&path) {
            found.insert(path);
        }
    }
    Ok(())
}
