//! A tree of files in memory, and the rules for its paths.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// Files and links by relative path (`usr/bin/x`), without folders.
pub type Tree = BTreeMap<String, Node>;

/// One member of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A regular file.
    File {
        /// Permission bits, at most `0o777`: set-user-ID, set-group-ID and sticky bits are dropped.
        mode: u32,
        /// Content of the file.
        data: Vec<u8>,
    },
    /// A symbolic link that stays within the tree.
    Symlink {
        /// Relative target of the link.
        target: String,
    },
}

/// Why a path is refused, or could not be written.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// A path is absolute, contains `..` or NUL, is empty or too long, or is not UTF-8.
    #[error("member {path:?} would lie outside the folder")]
    Outside {
        /// Path as written in the archive.
        path: String,
    },
    /// A link points outside the tree, or its target is not a valid path.
    #[error("link {path} points to {target:?}, outside the folder")]
    LinkOutside {
        /// Path of the link.
        path: String,
        /// Target as written in the archive.
        target: String,
    },
    /// A member lies below a symbolic link of an earlier one.
    #[error("member {path} would be written through the symbolic link {link}")]
    ThroughLink {
        /// Path of the member.
        path: String,
        /// Path of the link.
        link: PathBuf,
    },
    /// The file system failed.
    #[error("cannot write {path}")]
    Write {
        /// Path of the file.
        path: PathBuf,
        /// Underlying error.
        #[source]
        source: io::Error,
    },
}

impl Node {
    /// Content of a regular file; `None` for a link.
    #[must_use]
    pub fn data(&self) -> Option<&[u8]> {
        match self {
            Self::File { data, .. } => Some(data),
            Self::Symlink { .. } => None,
        }
    }
}

/// Writes a tree into the folder `root`, which may already contain others. Replaces files of the same path.
///
/// # Errors
/// [`TreeError`] at the first member that is refused or cannot be written.
pub fn write_tree(tree: &Tree, root: &Path) -> Result<(), TreeError> {
    for (path, node) in tree {
        write_node(path, node, root)?;
    }
    Ok(())
}

fn write_node(path: &str, node: &Node, root: &Path) -> Result<(), TreeError> {
    let path = &clean(path)?;
    let full = root.join(path);
    let failed = |source| TreeError::Write {
        path: full.clone(),
        source,
    };
    let mut parent = root.to_owned();
    fs::create_dir_all(&parent).map_err(failed)?;
    let parts: Vec<&str> = path.split('/').collect();
    for part in &parts[..parts.len() - 1] {
        parent.push(part);
        match fs::symlink_metadata(&parent) {
            Ok(meta) if meta.is_symlink() => {
                return Err(TreeError::ThroughLink {
                    path: path.clone(),
                    link: parent,
                });
            }
            Ok(_) => {}
            Err(_) => fs::create_dir(&parent).map_err(failed)?,
        }
    }
    match fs::remove_file(&full) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    match node {
        Node::File { mode, data } => {
            let mut file = fs::File::options()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&full)
                .map_err(failed)?;
            file.write_all(data).map_err(failed)?;
            // The mode is set after writing, so that the umask does not apply.
            file.set_permissions(fs::Permissions::from_mode(mode & 0o777))
                .map_err(failed)
        }
        Node::Symlink { target } => {
            check_link(path, target)?;
            symlink(target, &full).map_err(failed)
        }
    }
}

/// Returns the path without `.` and empty parts; refuses any path that could leave the folder.
pub(super) fn clean(path: &str) -> Result<String, TreeError> {
    let outside = || TreeError::Outside {
        path: path.chars().take(200).collect(),
    };
    if path.starts_with('/') || path.contains('\0') || path.len() > 4096 {
        return Err(outside());
    }
    let parts: Vec<&str> = path
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .collect();
    if parts.is_empty() || parts.contains(&"..") {
        return Err(outside());
    }
    Ok(parts.join("/"))
}

/// Refuses a link target that is absolute or leads above the root.
pub(super) fn check_link(path: &str, target: &str) -> Result<(), TreeError> {
    let outside = || TreeError::LinkOutside {
        path: path.to_owned(),
        target: target.chars().take(200).collect(),
    };
    if target.is_empty() || target.starts_with('/') || target.contains('\0') || target.len() > 4096
    {
        return Err(outside());
    }
    let mut depth = path.split('/').count() - 1;
    for part in target.split('/') {
        depth = match part {
            "" | "." => depth,
            ".." => depth.checked_sub(1).ok_or_else(outside)?,
            _ => depth + 1,
        };
    }
    Ok(())
}
