//! Builds the image of a manifest again and names the first artefact that differs.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use cocoon_inputs::report::Reporter;
use cocoon_protocol::manifest::{Manifest, PlatformSource};
use serde::Serialize;

use crate::assemble::name;
use crate::build::{self, Build, BuildError, Life};
use crate::diff::{self, Difference};
use crate::firmware::MAX_FIRMWARE;
use crate::scratch::Scratch;
use crate::shown::printable;
use crate::variant::Variant;
use crate::{files, provenance, reference};

/// What a rebuild says of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rebuilt {
    /// Whether every artefact and every reference value is the same.
    pub identical: bool,
    /// The first artefact that differs.
    pub first_different: Option<&'static str>,
    /// Where in that artefact, if the published one lies beside its manifest.
    pub first_different_byte: Option<u64>,
    /// Everything that differs, from the manifest to the rebuilt image.
    pub differences: Vec<Difference>,
    /// The revision in the manifest and that of the sources at hand, when they are not the same.
    pub other_revision: Option<(String, String)>,
    /// Names of machine shapes whose tables a rebuild cannot compute: their digests are the signers' word, all other
    /// events were predicted and are the same.
    pub pinned: Vec<String>,
}

/// Builds the image of `manifest`, which lies at `path`, from the sources in `what`, and compares.
///
/// # Errors
/// [`BuildError`] when it cannot be built at all.
pub fn verify(
    manifest: &Manifest,
    path: &Path,
    what: &Build,
    reporter: &Arc<dyn Reporter>,
) -> Result<Rebuilt, BuildError> {
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
    let published = path.parent().unwrap_or(Path::new(""));
    Ok(Rebuilt {
        pinned,
        ..compare(manifest, published, &rebuilt, scratch.path())
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

/// Compares the manifest of the image in `published` with that of the image in `rebuilt_at`.
pub fn compare(
    manifest: &Manifest,
    published: &Path,
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
    Rebuilt {
        identical: differences.is_empty(),
        first_different: first,
        first_different_byte: first
            .and_then(|name| first_byte(&published.join(name), &rebuilt_at.join(name))),
        differences,
        other_revision: (claimed != at_hand).then(|| (claimed.clone(), at_hand.clone())),
        pinned: Vec::new(),
    }
}

impl std::fmt::Display for Rebuilt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.identical, self.first_different) {
            (true, _) => writeln!(
                f,
                "identical: the sources at hand give every artefact and every reference value"
            )?,
            (false, Some(name)) => writeln!(
                f,
                "DIFFERENT: {name} is the first artefact that differs{}",
                match self.first_different_byte {
                    Some(offset) => format!(", from byte {offset} on"),
                    None => String::new(),
                }
            )?,
            (false, None) => writeln!(
                f,
                "DIFFERENT: the artefacts are the same, the manifest says something else of them"
            )?,
        }
        // Reference values follow from the artefacts: the first few lines tell the rest.
        for difference in self.differences.iter().take(12) {
            writeln!(f, "  {difference}")?;
        }
        if let Some(more) = self.differences.len().checked_sub(13) {
            writeln!(f, "  and {} more", more + 1)?;
        }
        if let Some((claimed, at_hand)) = &self.other_revision {
            writeln!(
                f,
                "note: the manifest names revision {}, the sources at hand are {}",
                printable(claimed),
                printable(at_hand)
            )?;
        }
        for name in &self.pinned {
            writeln!(
                f,
                "note: machine shape {:?}: its ACPI and SMBIOS tables are pinned by the signers, not recomputed; its other events follow from the firmware",
                printable(name)
            )?;
        }
        if self.first_different == Some(name::INITRD) {
            writeln!(
                f,
                "The initrd holds the compiled agent and engine: the engine has the C library and compiler of its builder in it, so compare on the same Debian release."
            )?;
        }
        if self.first_different == Some(name::RUNTIME) {
            writeln!(
                f,
                "The runtime volume holds the compiled engine and collector: they are compiled and linked by the C toolchain of their builder, so compare on the same Debian release."
            )?;
        }
        Ok(())
    }
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
