//! Unpacks Debian packages: the `data.tar` of a `.deb`, never its `control.tar`.

use std::io::{self, Read};
use std::path::Path;

use super::tree::{self, Node, Tree, TreeError};

/// Bounds for unpacking an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the decompressed tar including headers, or of the kept members of a wheel.
    pub bytes: u64,
    /// Number of members, whether kept or not.
    pub members: usize,
}

impl Default for Limits {
    /// 2 GiB and 100 000 members: the largest packages in use unpack to half a gibibyte.
    fn default() -> Self {
        Self {
            bytes: 2 << 30,
            members: 100_000,
        }
    }
}

/// Why a package was refused.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The file is not a Debian package of format 2.
    #[error("not a Debian package: {problem}")]
    NotDeb {
        /// Description of the problem.
        problem: &'static str,
    },
    /// The `data.tar` has an unsupported compression.
    #[error("member {member:?} is neither data.tar, data.tar.xz nor data.tar.zst")]
    Compression {
        /// Name of the ar member.
        member: String,
    },
    /// The package or its compression is damaged.
    #[error("cannot read the package")]
    Damaged(#[source] io::Error),
    /// The package unpacks to more bytes than allowed.
    #[error("the package unpacks to more than {} bytes", limits.bytes)]
    TooLarge {
        /// Bounds that were exceeded.
        limits: Limits,
    },
    /// The package has more members than allowed.
    #[error("the package has more than {} members", limits.members)]
    TooMany {
        /// Bounds that were exceeded.
        limits: Limits,
    },
    /// A member is a device node, a FIFO or of another unsupported type.
    #[error("member {path} is a {kind}, which is refused")]
    Kind {
        /// Path of the member.
        path: String,
        /// Entry type of the tar format.
        kind: String,
    },
    /// A kept hard link does not point to an earlier, kept regular file of the same package.
    #[error(
        "member {path} is a hard link to {target:?}, which is not an earlier, kept file of the package"
    )]
    HardLink {
        /// Path of the link.
        path: String,
        /// Target as written in the archive.
        target: String,
    },
    /// A path is refused, or writing to it failed.
    #[error("cannot unpack the package")]
    Tree(#[source] TreeError),
}

/// Unpacks the members of a `.deb` for which `keep` returns true. `keep` receives paths such as `usr/bin/x`.
///
/// # Errors
/// [`UnpackError`] if the package is damaged, exceeds `limits` or has a refused member. The paths and types of members
/// that are not kept are checked, too, but not the targets of their links.
pub fn unpack_deb(
    deb: &[u8],
    limits: Limits,
    keep: impl Fn(&str) -> bool,
) -> Result<Tree, UnpackError> {
    let mut archive = ar::Archive::new(deb);
    let mut index = 0;
    while let Some(member) = archive.next_entry() {
        let mut member = member.map_err(UnpackError::Damaged)?;
        let name = String::from_utf8_lossy(member.header().identifier())
            .trim_end_matches('/')
            .to_owned();
        if index == 0 {
            let mut version = String::new();
            let read = member.by_ref().take(16).read_to_string(&mut version);
            if name != "debian-binary" || read.is_err() || !version.starts_with("2.") {
                return Err(UnpackError::NotDeb {
                    problem: "its first member is not debian-binary with version 2",
                });
            }
        } else if name.starts_with("data.tar") {
            return unpack_data(&name, member, limits, &keep);
        } else if index > 8 {
            break;
        }
        index += 1;
    }
    Err(UnpackError::NotDeb {
        problem: "it has no data.tar",
    })
}

/// Unpacks a `.deb` into a folder, which may already contain other packages; returns the paths written.
///
/// # Errors
/// [`UnpackError`] if the package is refused or a file cannot be written.
pub fn unpack_deb_into(
    deb: &[u8],
    limits: Limits,
    keep: impl Fn(&str) -> bool,
    root: &Path,
) -> Result<Vec<String>, UnpackError> {
    let tree = unpack_deb(deb, limits, keep)?;
    tree::write_tree(&tree, root).map_err(UnpackError::Tree)?;
    Ok(tree.into_keys().collect())
}

/// Unpacks the members of a `.tar.xz` for which `keep` returns true: some packages contain their sources as such an
/// archive.
///
/// # Errors
/// As [`unpack_deb`].
pub fn unpack_tar_xz(
    archive: &[u8],
    limits: Limits,
    keep: impl Fn(&str) -> bool,
) -> Result<Tree, UnpackError> {
    unpack_data("data.tar.xz", archive, limits, &keep)
}

fn unpack_data(
    name: &str,
    data: impl Read,
    limits: Limits,
    keep: &dyn Fn(&str) -> bool,
) -> Result<Tree, UnpackError> {
    let data = io::BufReader::new(data);
    match name {
        "data.tar" => unpack_tar(data, limits, keep),
        "data.tar.xz" => unpack_tar(lzma_rust2::XzReader::new(data, true), limits, keep),
        "data.tar.zst" => {
            let decoder = ruzstd::decoding::StreamingDecoder::new(data)
                .map_err(|error| UnpackError::Damaged(io::Error::other(error.to_string())))?;
            unpack_tar(decoder, limits, keep)
        }
        _ => Err(UnpackError::Compression {
            member: name.chars().take(40).collect(),
        }),
    }
}

fn unpack_tar(
    data: impl Read,
    limits: Limits,
    keep: &dyn Fn(&str) -> bool,
) -> Result<Tree, UnpackError> {
    // The errors of the tar reader do not show that the bound was exceeded, so `Bounded` records it.
    let mut bounded = Bounded {
        inner: data,
        left: limits.bytes,
        exceeded: false,
    };
    let result = read_members(&mut bounded, limits, keep);
    if bounded.exceeded {
        Err(UnpackError::TooLarge { limits })
    } else {
        result
    }
}

fn read_members(
    data: &mut impl Read,
    limits: Limits,
    keep: &dyn Fn(&str) -> bool,
) -> Result<Tree, UnpackError> {
    let mut tree = Tree::new();
    let mut archive = tar::Archive::new(data);
    for (count, member) in archive.entries().map_err(UnpackError::Damaged)?.enumerate() {
        if count == limits.members {
            return Err(UnpackError::TooMany { limits });
        }
        let mut member = member.map_err(UnpackError::Damaged)?;
        let kind = member.header().entry_type();
        let written = String::from_utf8(member.path_bytes().into_owned()).map_err(|error| {
            UnpackError::Tree(TreeError::Outside {
                path: String::from_utf8_lossy(error.as_bytes()).into_owned(),
            })
        })?;
        // Every package has the root folder itself as a member; only its path is empty.
        if kind.is_dir() && written.trim_matches(['.', '/']).is_empty() && !written.contains("..") {
            continue;
        }
        let path = tree::clean(&written).map_err(UnpackError::Tree)?;
        let link = || -> Result<String, UnpackError> {
            let target = member.link_name_bytes().unwrap_or_default().into_owned();
            String::from_utf8(target).map_err(|_| {
                UnpackError::Tree(TreeError::LinkOutside {
                    path: path.clone(),
                    target: "bytes that are not UTF-8".to_owned(),
                })
            })
        };
        let node = match kind {
            tar::EntryType::Directory => continue,
            tar::EntryType::Symlink => {
                // Links that are not kept are not checked, because Debian's own packages contain links to /etc.
                if !keep(&path) {
                    continue;
                }
                let target = link()?;
                tree::check_link(&path, &target).map_err(UnpackError::Tree)?;
                Node::Symlink { target }
            }
            tar::EntryType::Link => {
                let target = link()?;
                let earlier = tree::clean(&target)
                    .ok()
                    .and_then(|target| tree.get(&target).cloned());
                match earlier {
                    Some(node @ Node::File { .. }) => node,
                    _ if !keep(&path) => continue,
                    _ => return Err(UnpackError::HardLink { path, target }),
                }
            }
            tar::EntryType::Regular | tar::EntryType::Continuous => {
                let mode = member.header().mode().map_err(UnpackError::Damaged)? & 0o777;
                if !keep(&path) {
                    continue;
                }
                let mut data = Vec::new();
                member
                    .read_to_end(&mut data)
                    .map_err(UnpackError::Damaged)?;
                Node::File { mode, data }
            }
            other => {
                return Err(UnpackError::Kind {
                    path,
                    kind: format!("{other:?}"),
                });
            }
        };
        if keep(&path) {
            tree.insert(path, node);
        }
    }
    Ok(tree)
}

struct Bounded<R> {
    inner: R,
    left: u64,
    exceeded: bool,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        match self.left.checked_sub(count as u64) {
            Some(left) => self.left = left,
            None => {
                self.exceeded = true;
                return Err(io::Error::other(
                    "the package unpacks to more than is allowed",
                ));
            }
        }
        Ok(count)
    }
}

#[cfg(test)]
#[path = "deb_tests.rs"]
mod tests;
