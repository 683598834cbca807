//! A digest over the files of this repository that an image is built from.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use cocoon_protocol::bytes::Hex32;

/// Files and folders that can change a byte of an image: its contents and the code that builds it.
const PARTS: [&str; 7] = [
    ".cargo",
    "Cargo.lock",
    "Cargo.toml",
    "guest-agent",
    "image",
    "measurements",
    "rust-toolchain.toml",
];

/// Returns a digest over the names and contents of all sources of an image in `workspace`. Images are reproducible,
/// so equal digests mean equal images.
pub fn digest(workspace: &Path) -> io::Result<Hex32> {
    let mut files = Vec::new();
    for part in PARTS {
        let path = workspace.join(part);
        if path.exists() {
            list(&path, &mut files)?;
        }
    }
    files.sort();
    let mut lines = Vec::new();
    for path in files {
        let name = path.strip_prefix(workspace).unwrap_or(&path);
        lines.extend(Hex32::sha256(name.as_os_str().as_encoded_bytes()).0);
        lines.extend(Hex32::sha256(&fs::read(&path)?).0);
    }
    Ok(Hex32::sha256(&lines))
}

fn list(path: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            list(&entry?.path(), files)?;
        }
    } else {
        files.push(path.to_owned());
    }
    Ok(())
}
