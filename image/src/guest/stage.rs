//! Copies the workspace's sources to a fixed place. Unchanged files keep their modification times, so that cargo compiles only
//! what changed. Files that are gone from the sources are removed from the copy.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use thiserror::Error;

use crate::files::{self, FileError};

/// Largest source file, in bytes.
const MAX_FILE: u64 = 64 << 20;
/// Largest number of files; a workspace has hundreds.
const MAX_FILES: usize = 50_000;
/// Largest depth of folders, so that recursion ends.
const MAX_DEPTH: usize = 32;

/// Files in the workspace's root that a build needs.
const TOP_FILES: &[&str] = &["Cargo.toml", "Cargo.lock", "rust-toolchain.toml"];

/// Why the sources cannot be copied.
#[derive(Debug, Error)]
pub enum StageError {
    /// A file cannot be read or written.
    #[error("cannot copy the sources")]
    File(#[from] FileError),
    /// The `Cargo.toml` is not that of a workspace.
    #[error("{path} is not the manifest of a cargo workspace")]
    Manifest {
        /// Path of the file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: toml::de::Error,
    },
    /// A workspace member lies outside the workspace.
    #[error("workspace member {0:?} does not lie below the workspace")]
    Member(String),
    /// A link, device or the like is among the sources.
    #[error("{0} is neither file nor folder: sources must be plain files")]
    NotPlain(PathBuf),
    /// There are too many files, or too deep folders.
    #[error("{0} holds more files or deeper folders than sources do")]
    TooMuch(PathBuf),
}

/// Makes `staged` equal to the sources of the workspace at `source`.
///
/// # Errors
/// [`StageError`], which names the file.
pub fn stage(source: &Path, staged: &Path) -> Result<(), StageError> {
    let wanted = list(source)?;
    for file in &wanted {
        copy(&source.join(file), &staged.join(file))?;
    }
    prune(staged, Path::new(""), &wanted, 0)
}

/// Returns the files that are copied from the workspace at `source`, as paths relative to it.
///
/// # Errors
/// [`StageError`] when `source` is not a workspace, or has files that cannot be sources.
pub fn list(source: &Path) -> Result<BTreeSet<PathBuf>, StageError> {
    let mut wanted: BTreeSet<PathBuf> = TOP_FILES.iter().map(PathBuf::from).collect();
    for folder in folders(source)? {
        collect(source, Path::new(&folder), 0, &mut wanted)?;
    }
    Ok(wanted)
}

/// Returns whether a file with this path would be copied if it existed. `folders` are those of the workspace's members.
pub fn is_source(path: &Path, folders: &BTreeSet<String>) -> bool {
    let mut parts = path.iter();
    let top = parts.next().and_then(|top| top.to_str());
    let below: Vec<_> = parts.collect();
    match top {
        Some(top) if below.is_empty() => TOP_FILES.contains(&top),
        Some(top) => folders.contains(top) && !below.into_iter().any(is_left_out),
        None => false,
    }
}

/// Returns whether a file or folder is not a source: hidden files and build outputs.
fn is_left_out(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".") || name == "target"
}

/// Returns the top-level folders that hold the workspace's members.
///
/// # Errors
/// [`StageError`] when `source` is not a workspace.
pub fn folders(source: &Path) -> Result<BTreeSet<String>, StageError> {
    #[derive(Deserialize)]
    struct Manifest {
        workspace: Workspace,
    }
    #[derive(Deserialize)]
    struct Workspace {
        members: Vec<String>,
    }
    let path = source.join("Cargo.toml");
    let text = files::read(&path, MAX_FILE)?;
    let manifest: Result<Manifest, _> = toml::from_slice(&text);
    let manifest = manifest.map_err(|source| StageError::Manifest { path, source })?;
    let top = |member: String| match member.split('/').next() {
        Some(top) if !top.is_empty() && top != ".." && top != "." => Ok(top.to_owned()),
        _ => Err(StageError::Member(member)),
    };
    manifest.workspace.members.into_iter().map(top).collect()
}

/// Adds the files in `source/folder` and its subfolders to `found`, as paths relative to `source`.
fn collect(
    source: &Path,
    folder: &Path,
    depth: usize,
    found: &mut BTreeSet<PathBuf>,
) -> Result<(), StageError> {
    let path = source.join(folder);
    for entry in fs::read_dir(&path).map_err(FileError::read(&path))? {
        let entry = entry.map_err(FileError::read(&path))?;
        let name = entry.file_name();
        if is_left_out(&name) {
            continue;
        }
        if depth >= MAX_DEPTH || found.len() >= MAX_FILES {
            return Err(StageError::TooMuch(path));
        }
        let kind = entry.file_type().map_err(FileError::read(&path))?;
        if kind.is_dir() {
            collect(source, &folder.join(name), depth + 1, found)?;
        } else if kind.is_file() {
            found.insert(folder.join(name));
        } else {
            return Err(StageError::NotPlain(entry.path()));
        }
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<(), StageError> {
    let bytes = files::read(from, MAX_FILE)?;
    if files::read(to, MAX_FILE).is_ok_and(|present| present == bytes) {
        return Ok(());
    }
    if let Some(folder) = to.parent() {
        // What was a file may be a folder now.
        if folder.is_file() {
            files::remove_if_present(folder)?;
        }
        files::create_folder(folder)?;
    }
    if to.is_dir() {
        fs::remove_dir_all(to).map_err(FileError::write(to))?;
    }
    Ok(fs::write(to, bytes).map_err(FileError::write(to))?)
}

/// Removes files that are not `wanted`, and folders without wanted files.
fn prune(
    staged: &Path,
    folder: &Path,
    wanted: &BTreeSet<PathBuf>,
    depth: usize,
) -> Result<(), StageError> {
    let path = staged.join(folder);
    if depth > MAX_DEPTH + 1 {
        return Err(StageError::TooMuch(path));
    }
    for entry in fs::read_dir(&path).map_err(FileError::read(&path))? {
        let entry = entry.map_err(FileError::read(&path))?;
        let (relative, full) = (folder.join(entry.file_name()), entry.path());
        if !entry.file_type().map_err(FileError::read(&full))?.is_dir() {
            if !wanted.contains(&relative) {
                files::remove_if_present(&full)?;
            }
        } else if wanted.iter().any(|file| file.starts_with(&relative)) {
            prune(staged, &relative, wanted, depth + 1)?;
        } else {
            fs::remove_dir_all(&full).map_err(FileError::write(&full))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workspace() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in [
            ("Cargo.toml", "[workspace]\nmembers = [\"a\", \"a/b\"]\n"),
            ("Cargo.lock", ""),
            ("rust-toolchain.toml", ""),
            ("a/src/lib.rs", "//! a"),
            ("a/target/junk", ""),
            ("a/.hidden", ""),
            ("a/b/src/lib.rs", "//! b"),
            ("other/file", ""),
        ] {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        folder
    }

    fn listing(folder: &Path) -> BTreeSet<PathBuf> {
        let mut found = BTreeSet::new();
        collect(folder, Path::new(""), 0, &mut found).unwrap();
        found
    }

    #[test]
    fn copies_members_keeps_times_and_removes_the_rest() {
        let (source, staged) = (workspace(), tempfile::tempdir().unwrap());
        let (source, staged) = (source.path(), staged.path());
        stage(source, staged).unwrap();
        let expected = [
            "Cargo.lock",
            "Cargo.toml",
            "a/b/src/lib.rs",
            "a/src/lib.rs",
            "rust-toolchain.toml",
        ];
        assert_eq!(
            listing(staged),
            expected.iter().map(PathBuf::from).collect()
        );

        let file = staged.join("a/src/lib.rs");
        let past =
            std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
        fs::File::options()
            .write(true)
            .open(&file)
            .unwrap()
            .set_modified(past)
            .unwrap();
        fs::remove_dir_all(source.join("a/b")).unwrap();
        fs::write(source.join("a/b"), "now a file").unwrap();
        stage(source, staged).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().modified().unwrap(), past);
        assert_eq!(fs::read(staged.join("a/b")).unwrap(), b"now a file");

        fs::write(source.join("a/src/lib.rs"), "//! changed").unwrap();
        stage(source, staged).unwrap();
        assert_ne!(fs::metadata(&file).unwrap().modified().unwrap(), past);
    }

    #[test]
    fn links_and_foreign_members_are_refused() {
        let source = workspace();
        let staged = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/passwd", source.path().join("a/link")).unwrap();
        let error = stage(source.path(), staged.path()).unwrap_err();
        assert!(matches!(error, StageError::NotPlain(path) if path.ends_with("a/link")));
        fs::write(
            source.path().join("Cargo.toml"),
            "[workspace]\nmembers = [\"../x\"]\n",
        )
        .unwrap();
        let error = stage(source.path(), staged.path()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "workspace member \"../x\" does not lie below the workspace"
        );
    }
}
