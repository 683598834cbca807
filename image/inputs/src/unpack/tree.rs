//! A tree of files in memory, and the rules for its paths.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// Files by relative path (`usr/bin/x`), without folders.
pub type Tree = BTreeMap<String, Node>;

/// One member of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A regular file.
    File {
        /// Permission bits, at most `0o777`: set-user-ID and the like are dropped.
        mode: u32,
        /// Content.
        data: Vec<u8>,
    },
    /// A symbolic link that stays within the tree.
    Symlink {
        /// Relative target.
        target: String,
    },
}

/// Why a path, or writing to it, was refused.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// Absolute, with `..`, empty, or not UTF-8.
    #[error("member {path:?} would lie outside the folder")]
    Outside {
        /// Path as written in the archive.
        path: String,
    },
    /// A link to a place outside.
    #[error("link {path} points to {target:?}, outside the folder")]
    LinkOutside {
        /// Link.
        path: String,
        /// Target as written in the archive.
        target: String,
    },
    /// A member below a symbolic link of an earlier one.
    #[error("member {path} would be written through the symbolic link {link}")]
    ThroughLink {
        /// Member.
        path: String,
        /// Link.
        link: PathBuf,
    },
    /// The disk failed.
    #[error("cannot write {path}")]
    Write {
        /// File.
        path: PathBuf,
        /// Cause.
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

/// Writes a tree below `root`, which may hold other trees already; equal paths are replaced.
///
/// # Errors
/// [`TreeError`] at the first member that is refused or fails.
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
            // Set afterwards, so that the umask has no say.
            file.set_permissions(fs::Permissions::from_mode(mode & 0o777))
                .map_err(failed)
        }
        Node::Symlink { target } => {
            check_link(path, target)?;
            symlink(target, &full).map_err(failed)
        }
    }
}

/// The path without `./`; refuses whatever could leave the folder.
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

/// Refuses absolute targets and targets above the root.
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
