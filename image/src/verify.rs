//! Builds the image of a manifest again and names the first artefact that differs.

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

/// What a rebuild says of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rebuilt {
    /// Whether every artefact and every reference value is the same, and what lies beside the manifest is what it describes.
    pub identical: bool,
    /// The first artefact that differs.
    pub first_different: Option<&'static str>,
    /// Where in that artefact, if the published one lies beside its manifest.
    pub first_different_byte: Option<u64>,
    /// Everything that differs, from the manifest to the rebuilt image.
    pub differences: Vec<Difference>,
    /// Artefacts in whose place beside the manifest lies something else than it describes.
    pub altered: Vec<String>,
    /// Artefacts that do not lie beside the manifest.
    pub absent: Vec<String>,
    /// Where executables differ: the libraries of the machines that linked them, as far as the published list of ingredients
    /// lies beside the manifest.
    pub other_libraries: Option<Vec<sbom::Other>>,
    /// The revision in the manifest and that of the sources at hand, when they are not the same.
    pub other_revision: Option<(String, String)>,
    /// Names of machine shapes whose tables a rebuild cannot compute: their digests are the signers' word, all other
    /// events were predicted and are the same.
    pub pinned: Vec<String>,
}

/// Builds the image of `manifest`, which lies at `path`, from the sources in `what`, and compares; first the files beside it.
///
/// # Errors
/// [`BuildError`] when it cannot be built at all, and when this program is not of these sources.
pub fn verify(
    manifest: &Manifest,
    path: &Path,
    what: &Build,
    reporter: &Arc<dyn Reporter>,
) -> Result<Rebuilt, BuildError> {
    // Its own differences would pass for those of the image.
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
        // Another kind than these sources know is a difference like any other.
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

/// Puts the machine shapes that `manifest`'s signers added into `rebuilt`, too, but for what follows from the rebuilt
/// `firmware`: that is predicted again, and a difference if it is another. Names the shapes without a difference.
fn take_over(manifest: &Manifest, rebuilt: &mut Manifest, firmware: &[u8]) -> Vec<String> {
    let mut pinned = Vec::new();
    for (at, published) in manifest.tdx.platforms.iter().enumerate() {
        if published.source != PlatformSource::Computed {
            continue;
        }
        // What cannot be predicted at all is absent from the rebuilt manifest, and so a difference.
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

/// Compares the manifest of the image in `published`, where `beside` was found, with that of the image in `rebuilt_at`.
fn compare(
    manifest: &Manifest,
    published: &Path,
    beside: Beside,
    rebuilt: &Manifest,
    rebuilt_at: &Path,
) -> Rebuilt {
    // The same image can come of several revisions, and of changed sources: not a difference of the image, but worth
    // saying.
    let [manifest, rebuilt] = [manifest, rebuilt].map(|manifest| {
        let mut manifest = manifest.clone();
        provenance::without_marks(&mut manifest.unlocked);
        manifest
    });
    let mut differences = diff::diff(&manifest, &rebuilt);
    differences.retain(|difference| difference.field != "source_revision");
    let (claimed, at_hand) = (&manifest.source_revision, &rebuilt.source_revision);
    let first = diff::first_artefact(&differences);
    // Another file says nothing of the one that the manifest describes.
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

/// How the libraries differ that the images in both folders say they are linked to.
fn other_libraries(published: &Path, rebuilt_at: &Path) -> Option<Vec<sbom::Other>> {
    let read = |folder: &Path| files::read(&folder.join(name::SBOM), sbom::MAX_DOCUMENT).ok();
    sbom::others(&read(published)?, &read(rebuilt_at)?)
}

/// Offset of the first byte in which two files differ; `None` if there is none or one cannot be read.
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
