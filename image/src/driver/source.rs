//! Takes the modules' sources from Debian's package and applies the changes that the image's kernel requires.

use cocoon_inputs::unpack::{self, Limits, Node, Tree, UnpackError};
use thiserror::Error;

/// Path of the source archive in the package.
const ARCHIVE: &str = "usr/src/nvidia-open-kernel.tar.xz";
/// Folder of the sources in the archive.
const FOLDER: &str = "modules/nvidia-open-kernel/";

/// A replacement of one place in one file.
pub struct Patch {
    /// Path of the file, relative to the sources' folder.
    pub file: &'static str,
    /// Text to replace, which must occur exactly once.
    pub from: &'static str,
    /// Replacement.
    pub to: &'static str,
    /// Why the change is needed.
    pub reason: &'static str,
}

/// All changes to the sources.
pub const PATCHES: &[Patch] = &[Patch {
    file: "nvidia/nv-pci.c",
    from: "pci_resize_resource(pci_dev, NV_GPU_BAR1, requested_size);",
    to: "pci_resize_resource(pci_dev, NV_GPU_BAR1, requested_size, 0);",
    reason: "Linux 6.12.y took over a fourth argument, the BARs that stay as they are; 0 is what the function did before, \
             and what NVIDIA's later releases pass",
}];

/// Why the sources cannot be used.
#[derive(Debug, Error)]
pub enum SourceError {
    /// The group does not have exactly one package.
    #[error("group driver of the lock file names {found} files, expected one")]
    NotOne {
        /// Number of packages.
        found: usize,
    },
    /// The package or its archive cannot be unpacked.
    #[error("cannot unpack the driver's package")]
    Unpack(#[source] UnpackError),
    /// The package has no source archive at the expected path.
    #[error(
        "the driver's package has no {ARCHIVE}: its layout has changed, and this program must follow"
    )]
    NoArchive,
    /// A file to change is missing.
    #[error(
        "the driver's sources have no {file}: its layout has changed, and this program must follow"
    )]
    NoFile {
        /// Path of the file.
        file: &'static str,
    },
    /// The text to replace does not occur exactly once.
    #[error(
        "{file} of the driver has {found} times what is to be changed, expected once: look whether the change is still \
         needed ({reason})"
    )]
    Patch {
        /// Path of the file.
        file: &'static str,
        /// Number of occurrences.
        found: usize,
        /// Why the change is needed.
        reason: &'static str,
    },
}

/// Returns the changed sources, by path relative to their folder.
///
/// # Errors
/// [`SourceError`].
pub fn tree(package: &[u8]) -> Result<Tree, SourceError> {
    let limits = Limits::default();
    let mut package =
        unpack::unpack_deb(package, limits, |path| path == ARCHIVE).map_err(SourceError::Unpack)?;
    let Some(Node::File { data, .. }) = package.remove(ARCHIVE) else {
        return Err(SourceError::NoArchive);
    };
    let kept = |path: &str| path.starts_with(FOLDER);
    let unpacked = unpack::unpack_tar_xz(&data, limits, kept).map_err(SourceError::Unpack)?;
    let below = |(path, node): (String, Node)| Some((path.strip_prefix(FOLDER)?.to_owned(), node));
    let mut tree: Tree = unpacked.into_iter().filter_map(below).collect();
    for patch in PATCHES {
        apply(patch, &mut tree)?;
    }
    Ok(tree)
}

fn apply(patch: &Patch, tree: &mut Tree) -> Result<(), SourceError> {
    let Patch {
        file,
        from,
        to,
        reason,
    } = *patch;
    let Some(Node::File { data, .. }) = tree.get_mut(file) else {
        return Err(SourceError::NoFile { file });
    };
    let places: Vec<usize> = data
        .windows(from.len())
        .enumerate()
        .filter_map(|(at, window)| (window == from.as_bytes()).then_some(at))
        .collect();
    let [at] = places[..] else {
        let found = places.len();
        return Err(SourceError::Patch {
            file,
            found,
            reason,
        });
    };
    data.splice(at..at + from.len(), to.bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(text: &str) -> Result<String, String> {
        let file = PATCHES[0].file;
        let data = text.as_bytes().to_vec();
        let mut tree = Tree::from([(file.to_owned(), Node::File { mode: 0o644, data })]);
        apply(&PATCHES[0], &mut tree).map_err(|error| error.to_string())?;
        let data = tree[file].data().unwrap().to_vec();
        Ok(String::from_utf8(data).unwrap())
    }

    #[test]
    fn a_change_applies_once_or_not_at_all() {
        let before =
            "resize:\n    r = pci_resize_resource(pci_dev, NV_GPU_BAR1, requested_size);\n";
        let after =
            "resize:\n    r = pci_resize_resource(pci_dev, NV_GPU_BAR1, requested_size, 0);\n";
        assert_eq!(changed(before), Ok(after.to_owned()));
        for (text, found) in [(after.to_owned(), 0), (before.repeat(2), 2)] {
            let error = changed(&text).unwrap_err();
            let said = format!(
                "nvidia/nv-pci.c of the driver has {found} times what is to be changed, expected once: look whether the \
                 change is still needed (Linux 6.12.y took"
            );
            assert!(error.starts_with(&said), "{error}");
        }
        let error = apply(&PATCHES[0], &mut Tree::new()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the driver's sources have no nvidia/nv-pci.c: its layout has changed, and this program must follow"
        );
    }

    #[test]
    fn every_change_has_a_reason() {
        for patch in PATCHES {
            assert!(patch.reason.len() > 20, "{}", patch.file);
            assert_ne!(patch.from, patch.to);
        }
    }
}
