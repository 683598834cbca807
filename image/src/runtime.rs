//! Fragment: the runtime volume of an image for real GPUs. It holds two programs and the libraries that they need, and no
//! shell, tool or compiler except the one inside NVIDIA's driver.
//!
//! It is a flat folder, written like the model volume, and the guest verifies it in the same way. Its content follows from the
//! programs: it has each library that a program or another library is linked to, and those of [`CATALOGUE`] that are opened by
//! name at run time.

pub mod catalogue;
mod linked;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use cocoon_inputs::Fetched;
use cocoon_inputs::report::Reporter;
use cocoon_inputs::unpack::{Node, Tree};
use cocoon_protocol::manifest::{Artefact, Runtime};
use thiserror::Error;

use crate::files::{self, FileError};
use crate::model::{self, SourceFile, VolumeError};
use crate::package::{self, PackageError};
use crate::scratch::Scratch;
pub use catalogue::{CATALOGUE, Library};
use linked::LinkError;

/// Group of the lock file with the libraries.
pub const GROUP: &str = "cuda-runtime";
/// Path of the loader in the guest, where the kernel looks for it: the programs of the volume name it.
pub const LOADER: &str = "/runtime/ld-linux-x86-64.so.2";
/// Name of the inference worker in the volume.
pub const ENGINE: &str = "engine";
/// Name of the collector, the process that holds the GPUs, in the volume.
pub const COLLECTOR: &str = "cocoon-gpu";

/// Why the runtime volume cannot be made.
#[derive(Debug, Error)]
pub enum RuntimeError {
    /// A package cannot be read or unpacked.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// The group of the lock file lacks a package.
    #[error("group {GROUP} of the lock file has no package {package}")]
    NoPackage {
        /// Name of the package.
        package: &'static str,
    },
    /// A package lacks an expected file.
    #[error(
        "package {package} has no file {path}: its layout has changed, and this program must follow"
    )]
    NoFile {
        /// Name of the package.
        package: &'static str,
        /// Path of the file.
        path: String,
    },
    /// A file is not a suitable program or library.
    #[error("{name} cannot go into the runtime volume")]
    Link {
        /// Name of the file.
        name: String,
        /// What is wrong with it.
        #[source]
        source: LinkError,
    },
    /// A file is linked to a library that the catalogue does not have.
    #[error("{name} is linked to {needed}, which no package of group {GROUP} is known to hold")]
    Missing {
        /// Name of the file.
        name: String,
        /// Name of the library.
        needed: String,
    },
    /// A file needs a symbol version that the locked library does not have. The loader would refuse to start it.
    #[error(
        "{name} needs {version} of {library}, which the locked {library} has not: {name} was linked on a machine with a newer \
         one; build on the Debian release of the lock file, or lock a newer {library}"
    )]
    Version {
        /// Name of the file.
        name: String,
        /// Symbol version.
        version: String,
        /// Name of the library.
        library: String,
    },
    /// The volume cannot be written.
    #[error("cannot make the runtime volume")]
    Volume(#[from] VolumeError),
    /// A file cannot be read or written.
    #[error("cannot lay the runtime out")]
    File(#[from] FileError),
}

/// Files of the volume, by name.
pub type Files = BTreeMap<String, Vec<u8>>;

/// Returns the programs and all libraries that they need. `packages` are those of [`GROUP`]. `driver` is the version of
/// NVIDIA's driver, which is part of some file names.
///
/// # Errors
/// [`RuntimeError`], which names what is missing.
pub fn select(
    programs: [(&str, Vec<u8>); 2],
    packages: &[Fetched],
    driver: &str,
    reporter: &dyn Reporter,
) -> Result<Files, RuntimeError> {
    let mut files = Files::new();
    let mut waiting: Vec<(String, String)> = Vec::new();
    for (name, bytes) in programs {
        let link = |source| RuntimeError::Link {
            name: name.to_owned(),
            source,
        };
        linked::check_program(&bytes, LOADER).map_err(link)?;
        let needed = linked::needed(&bytes).map_err(link)?;
        waiting.extend(needed.into_iter().map(|needed| (name.to_owned(), needed)));
        files.insert(name.to_owned(), bytes);
    }
    let opened = CATALOGUE.iter().filter(|library| library.opened);
    waiting.extend(opened.map(|library| ("the image".to_owned(), library.name(driver))));
    let mut trees: BTreeMap<&str, Tree> = BTreeMap::new();
    while let Some((name, needed)) = waiting.pop() {
        if files.contains_key(&needed) {
            continue;
        }
        let library = CATALOGUE
            .iter()
            .find(|library| library.name(driver) == needed)
            .ok_or_else(|| RuntimeError::Missing {
                name,
                needed: needed.clone(),
            })?;
        let tree = match trees.entry(library.package) {
            std::collections::btree_map::Entry::Occupied(tree) => tree.into_mut(),
            std::collections::btree_map::Entry::Vacant(place) => {
                place.insert(unpacked(library.package, packages, reporter)?)
            }
        };
        let bytes = library.take(tree, driver)?;
        let more = linked::needed(&bytes).map_err(|source| RuntimeError::Link {
            name: needed.clone(),
            source,
        })?;
        waiting.extend(more.into_iter().map(|more| (needed.clone(), more)));
        files.insert(needed, bytes);
    }
    check_versions(&files)?;
    Ok(files)
}

/// Checks that the libraries have every symbol version that the files need.
fn check_versions(files: &Files) -> Result<(), RuntimeError> {
    let link = |name: &str| {
        let name = name.to_owned();
        move |source| RuntimeError::Link { name, source }
    };
    let mut defined = BTreeMap::new();
    for (name, bytes) in files {
        let versions = linked::versions_defined(bytes).map_err(link(name))?;
        defined.insert(name.as_str(), versions);
    }
    for (name, bytes) in files {
        for (library, version) in linked::versions_needed(bytes).map_err(link(name))? {
            let known = defined.get(library.as_str());
            if known.is_none_or(|known| !known.contains(&version)) {
                let name = name.clone();
                return Err(RuntimeError::Version {
                    name,
                    version,
                    library,
                });
            }
        }
    }
    Ok(())
}

/// Writes the volume of `files` to `folder/name`, hashing with `jobs` threads.
///
/// # Errors
/// [`RuntimeError`] when the volume cannot be written.
pub fn write(
    files: &Files,
    folder: &Path,
    name: &str,
    jobs: usize,
    reporter: &dyn Reporter,
) -> Result<(Runtime, Artefact), RuntimeError> {
    let scratch = Scratch::making(folder)?;
    let mut sources = Vec::new();
    for (name, bytes) in files {
        let artefact = files::write(scratch.path(), name, bytes)?;
        sources.push(SourceFile {
            name: name.clone(),
            path: scratch.path().join(name),
            size: artefact.size,
            recoding: None,
        });
    }
    let written = model::write_files(&sources, folder, name, jobs, reporter)?;
    let runtime = Runtime {
        verity_root: written.tree.root,
        verity_salt: written.salt,
        verity_data_blocks: written.tree.data_blocks,
        files: written.files,
    };
    Ok((runtime, written.tree.volume))
}

/// Unpacks the shared libraries of one package.
fn unpacked(
    name: &'static str,
    packages: &[Fetched],
    reporter: &dyn Reporter,
) -> Result<Tree, RuntimeError> {
    let fetched = packages
        .iter()
        .find(|fetched| fetched.entry.name == name)
        .ok_or(RuntimeError::NoPackage { package: name })?;
    let task = reporter.start(&format!("unpacking {name}"), None);
    let is_library = |path: &str| path.starts_with("usr/lib/") && path.contains(".so");
    let tree = package::unpacked(fetched, is_library)?;
    task.finish("done");
    Ok(tree)
}

/// Follows the links of a package from `path`, and returns the path of the file.
fn followed(tree: &Tree, path: &str) -> Option<String> {
    let mut path = path.to_owned();
    let mut seen = BTreeSet::new();
    while seen.insert(path.clone()) {
        match tree.get(&path)? {
            Node::File { .. } => return Some(path),
            Node::Symlink { target } => {
                let (folder, _) = path.rsplit_once('/')?;
                let mut parts: Vec<&str> = folder.split('/').collect();
                for part in target.split('/') {
                    match part {
                        ".." => drop(parts.pop()),
                        "" | "." => {}
                        part => parts.push(part),
                    }
                }
                path = parts.join("/");
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(data: &[u8]) -> Node {
        let data = data.to_vec();
        Node::File { mode: 0o644, data }
    }

    #[test]
    fn a_library_that_is_too_old_for_a_program_ends_the_build() {
        let read = |path: &str| std::fs::read(path).unwrap();
        let folder = "/lib/x86_64-linux-gnu";
        let mut files = Files::new();
        for library in ["libc.so.6", "ld-linux-x86-64.so.2"] {
            files.insert(library.to_owned(), read(&format!("{folder}/{library}")));
        }
        files.insert("a-program".to_owned(), read("/bin/sh"));
        check_versions(&files).unwrap();
        // Another file in its place, which defines no versions at all.
        files.insert("libc.so.6".to_owned(), read("/bin/sh"));
        let error = check_versions(&files).unwrap_err();
        let RuntimeError::Version { version, .. } = &error else {
            panic!("{error}");
        };
        assert!(version.starts_with("GLIBC_2."), "{version}");
        assert_eq!(
            error.to_string(),
            format!(
                "a-program needs {version} of libc.so.6, which the locked libc.so.6 has not: a-program was linked on a \
                 machine with a newer one; build on the Debian release of the lock file, or lock a newer libc.so.6"
            )
        );
    }

    #[test]
    fn links_are_followed_within_a_package_and_circles_end() {
        let link = |target: &str| Node::Symlink {
            target: target.to_owned(),
        };
        let tree = Tree::from([
            ("usr/lib/a/x.so.1".to_owned(), link("x.so.1.2")),
            ("usr/lib/a/x.so.1.2".to_owned(), link("../b/x.so.1.2")),
            ("usr/lib/b/x.so.1.2".to_owned(), file(b"x")),
            ("usr/lib/b/one".to_owned(), link("two")),
            ("usr/lib/b/two".to_owned(), link("one")),
        ]);
        let found = followed(&tree, "usr/lib/a/x.so.1");
        assert_eq!(found.as_deref(), Some("usr/lib/b/x.so.1.2"));
        assert_eq!(followed(&tree, "usr/lib/b/one"), None);
        assert_eq!(followed(&tree, "usr/lib/b/three"), None);
    }
}
