//! What this program is made of. The build script has this file, too, so that what is compiled in and what lies at hand are
//! summed up alike.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

/// Files of the workspace, and folders of which every Rust source counts: this crate and those of the workspace that it
/// depends on, with what decides their dependencies and compiler.
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

/// The files of all parts, as paths from `workspace`.
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

/// A digest of their names and bytes, in hexadecimal.
pub fn digest(workspace: &Path) -> io::Result<String> {
    let mut all = Sha256::new();
    for file in files(workspace)? {
        all.update(Sha256::digest(file.as_os_str().as_encoded_bytes()));
        all.update(Sha256::digest(fs::read(workspace.join(file))?));
    }
    Ok(format!("{:x}", all.finalize()))
}

/// Whether a file of this path from the workspace counts: not hidden ones, nor build outputs, nor what editors leave beside a
/// Rust source. None of these is staged, or compiled.
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
