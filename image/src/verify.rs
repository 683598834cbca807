//! Rebuilds the image of a manifest and names the first artefact that differs.

mod told;

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use cocoon_inputs::report::Reporter;
use cocoon_protocol::manifest::{Manifest, PlatformSource};
use serde::Serialize;

use crate::assemble::name;
use crate::beside::{self, Beside};
use crate::build::{self, Build, BuildError, Life};
use crate::diff::{self, Difference};
use crate::firmware::MAX_FIRMWARE;
use crate::scratch::Scratch;
use crate::variant::Variant;
use crate::{files, program, provenance, reference, sbom};

/// Result of a rebuild.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rebuilt {
    /// Whether all artefacts and reference values are the same, and no file beside the manifest differs from its description.
    pub identical: bool,
    /// First artefact that differs.
    pub first_different: Option<&'static str>,
    /// Offset of the first byte that differs in that artefact, if the published one lies beside its manifest.
    pub first_different_byte: Option<u64>,
    /// All fields that differ between the manifest and that of the rebuilt image.
    pub differences: Vec<Difference>,
    /// Artefacts in whose place beside the manifest there is something else than it describes.
    pub altered: Vec<String>,
    /// Artefacts that are not beside the manifest.
    pub absent: Vec<String>,
    /// Differences between the libraries of the build machines, if an artefact with executables is the first that differs and
    /// the published SBOM lies beside the manifest.
    pub other_libraries: Option<Vec<sbom::Other>>,
    /// Revision in the manifest and revision of the sources, if they differ.
    pub other_revision: Option<(String, String)>,
    /// Names of the machine shapes whose tables were pinned by the signers, because a rebuild cannot compute them. Their other
    /// events were predicted and are the same.
    pub pinned: Vec<String>,
}

/// Compares the files beside the manifest at `path` with it, then rebuilds the image from the sources in `what` and compares.
///
/// # Errors
/// [`BuildError`] when the image cannot be built, or this program was not compiled from these sources.
pub fn verify(
    manifest: &Manifest,
    path: &Path,
    what: &Build,
    reporter: &Arc<dyn Reporter>,
) -> Result<Rebuilt, BuildError> {
    // Differences of this program would look like differences of the image.
    if !program::is_of(&what.source) {
        return Err(BuildError::OtherProgram {
            workspace: what.source.clone(),
        });
    }
    let published = path.parent().unwrap_or(Path::new(""));
    let beside = beside::look(published, &manifest.artefacts, &**reporter)?;
    let life = Life {
        release: manifest.release,
        not_before: manifest.not_before,
        not_after: manifest.not_after,
    };
    let what = Build {
        // A variant that these sources do not know shows up as a difference, like any other field.
        variant: Variant::named(&manifest.variant).unwrap_or_default(),
        model_id: Some(manifest.model.id.clone()),
        ..what.clone()
    };
    files::create_folder(&what.cache)?;
    let scratch = Scratch::in_cache(&what.cache)?;
    let mut rebuilt = build::build(&what, &life, scratch.path(), reporter)?;
    let firmware = files::read(&scratch.path().join(name::TDX), MAX_FIRMWARE)?;
    let pinned = take_over(manifest, &mut rebuilt, &firmware);
    Ok(Rebuilt {
        pinned,
        ..compare(manifest, published, beside, &rebuilt, scratch.path())
    })
}

/// Copies the machine shapes that the signers of `manifest` added into `rebuilt`, with all events predicted again that follow
/// from the rebuilt `firmware`. Returns the names of the shapes that did not change.
fn take_over(manifest: &Manifest, rebuilt: &mut Manifest, firmware: &[u8]) -> Vec<String> {
    let mut pinned = Vec::new();
    for (at, published) in manifest.tdx.platforms.iter().enumerate() {
        if published.source != PlatformSource::Computed {
            continue;
        }
        // A shape that cannot be predicted stays absent from the rebuilt manifest, so it counts as a difference.
        let Ok(platform) = reference::recomputed(firmware, published) else {
            continue;
        };
        if platform == *published {
            pinned.push(published.name.clone());
        }
        let platforms = &mut rebuilt.tdx.platforms;
        platforms.insert(at.min(platforms.len()), platform);
    }
    pinned
}

/// Compares the manifest of the image in `published` with that of the image in `rebuilt_at`. `beside` says which published
/// files do not match their manifest.
fn compare(
    manifest: &Manifest,
    published: &Path,
    beside: Beside,
    rebuilt: &Manifest,
    rebuilt_at: &Path,
) -> Rebuilt {
    // Revision and marks are left out, because several revisions, and changed sources, can give the same image. A different
    // revision is reported separately.
    let [manifest, rebuilt] = [manifest, rebuilt].map(|manifest| {
        let mut manifest = manifest.clone();
        provenance::without_marks(&mut manifest.unlocked);
        manifest
    });
    let mut differences = diff::diff(&manifest, &rebuilt);
    differences.retain(|difference| difference.field != "source_revision");
    let (claimed, at_hand) = (&manifest.source_revision, &rebuilt.source_revision);
    let first = diff::first_artefact(&differences);
    // The published file is of no use if it is not the one that the manifest describes.
    let described = |name: &str| {
        let altered = beside.altered.iter().any(|altered| altered == name);
        manifest.artefacts.contains_key(name) && !altered
    };
    let linked = [name::INITRD, name::RUNTIME];
    Rebuilt {
        identical: differences.is_empty() && beside.altered.is_empty(),
        first_different: first,
        first_different_byte: first
            .filter(|name| described(name))
            .and_then(|name| first_byte(&published.join(name), &rebuilt_at.join(name))),
        other_libraries: first
            .filter(|name| linked.contains(name) && described(name::SBOM))
            .and_then(|_| other_libraries(published, rebuilt_at)),
        differences,
        altered: beside.altered,
        absent: beside.absent,
        other_revision: (claimed != at_hand).then(|| (claimed.clone(), at_hand.clone())),
        pinned: Vec::new(),
    }
}

/// Returns the differences between the libraries in the SBOMs of both folders.
fn other_libraries(published: &Path, rebuilt_at: &Path) -> Option<Vec<sbom::Other>> {
    let read = |folder: &Path| files::read(&folder.join(name::SBOM), sbom::MAX_DOCUMENT).ok();
    sbom::others(&read(published)?, &read(rebuilt_at)?)
}

/// Returns the offset of the first byte in which two files differ; `None` if there is none or a file cannot be read.
fn first_byte(one: &Path, other: &Path) -> Option<u64> {
    let bytes = |path| Some(BufReader::new(File::open(path).ok()?).bytes());
    let (mut one, mut other) = (bytes(one)?, bytes(other)?);
    for offset in 0.. {
        match (one.next().transpose().ok()?, other.next().transpose().ok()?) {
            (None, None) => return None,
            (a, b) if a != b => return Some(offset),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_different_byte_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        };
        let (a, b, c) = (
            file("a", b"same"),
            file("b", b"some"),
            file("c", b"same, longer"),
        );
        assert_eq!(first_byte(&a, &b), Some(1));
        assert_eq!(first_byte(&a, &c), Some(4));
        assert_eq!(first_byte(&a, &a), None);
        assert_eq!(first_byte(&a, &folder.path().join("none")), None);
    }
}
