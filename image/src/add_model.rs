//! Replaces the model of an existing image: writes a new model volume, command line, SBOM and manifest, and keeps kernel,
//! initrd, firmware and runtime volume.

use std::fs;
use std::path::{Path, PathBuf};

use cocoon_inputs::report::Reporter;
use cocoon_protocol::manifest::{MAX_MANIFEST_LEN, Manifest, ManifestError, PlatformSource};
use thiserror::Error;

use crate::assemble::{self, AssembleError, Images, Stamp, name};
use crate::build::Life;
use crate::files::{self, FileError};
use crate::firmware::MAX_FIRMWARE;
use crate::model::{self, Source, VolumeError};
use crate::sbom::{self, SbomError};
use crate::scratch::Scratch;

/// The largest kernel or initrd, in bytes.
const MAX_BOOT_FILE: u64 = 4 << 30;

/// Why the model of an image cannot be replaced.
#[derive(Debug, Error)]
pub enum AddModelError {
    /// A file of the image cannot be read or written.
    #[error("cannot use the image")]
    File(#[from] FileError),
    /// The image's manifest is not valid.
    #[error("{path} is not the manifest of an image")]
    Manifest {
        /// Path of the manifest.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: ManifestError,
    },
    /// A file of the image is not the one that its manifest describes.
    #[error("{path} is not the file that the image's manifest describes: build the image again")]
    Altered {
        /// Path of the file.
        path: PathBuf,
    },
    /// The image's SBOM cannot be adapted.
    #[error("cannot make {}", name::SBOM)]
    Sbom(#[from] SbomError),
    /// The model volume cannot be written.
    #[error("cannot make {}", name::MODEL)]
    Volume(#[from] VolumeError),
    /// The image cannot be assembled from its parts.
    #[error("cannot assemble the image")]
    Assemble(#[from] AssembleError),
}

/// Reads the manifest at `path` and checks its form, but not its signatures.
///
/// # Errors
/// [`AddModelError`] when the file cannot be read or is not a manifest.
pub fn read_manifest(path: &Path) -> Result<Manifest, AddModelError> {
    let bytes = files::read(path, MAX_MANIFEST_LEN as u64)?;
    Manifest::parse(&bytes).map_err(|source| AddModelError::Manifest {
        path: path.to_owned(),
        source,
    })
}

/// Writes to `folder` a copy of the image in `image` with the model `source` in place of its own. Both may be the same folder.
///
/// The caller vouches that this program was compiled from the image's own sources; otherwise use [`add_model_with`].
///
/// # Errors
/// [`AddModelError`]. Nothing is replaced before the kept files have been checked against the manifest and every new file has
/// been written completely.
pub fn add_model(
    image: &Path,
    source: &Source,
    life: &Life,
    folder: &Path,
    jobs: usize,
    reporter: &dyn Reporter,
) -> Result<Manifest, AddModelError> {
    add_model_with(image, source, life, None, folder, jobs, reporter)
}

/// Does the same as [`add_model`], and adds `mark` to the manifest's `unlocked` entries: for a program that may have been
/// compiled from other sources than the image.
///
/// # Errors
/// As [`add_model`].
pub fn add_model_with(
    image: &Path,
    source: &Source,
    life: &Life,
    mark: Option<String>,
    folder: &Path,
    jobs: usize,
    reporter: &dyn Reporter,
) -> Result<Manifest, AddModelError> {
    let old = read_manifest(&image.join(name::MANIFEST))?;
    // The command line depends on the variant, so an unknown one is refused before anything is replaced.
    assemble::variant(&old.variant)?;
    let kept = |name: &str, limit| -> Result<Vec<u8>, AddModelError> {
        let path = image.join(name);
        let bytes = files::read(&path, limit)?;
        match old.artefacts.get(name) {
            Some(expected) if *expected == files::artefact(&bytes) => Ok(bytes),
            _ => Err(AddModelError::Altered { path }),
        }
    };
    let (kernel, initrd) = (
        kept(name::KERNEL, MAX_BOOT_FILE)?,
        kept(name::INITRD, MAX_BOOT_FILE)?,
    );
    let (tdx, snp) = (
        kept(name::TDX, MAX_FIRMWARE)?,
        kept(name::SNP, MAX_FIRMWARE)?,
    );
    let sbom = sbom::without_model(&kept(name::SBOM, sbom::MAX_DOCUMENT)?)?;
    if old.gpu.is_some() {
        check_runtime(image, &old, reporter)?;
    }
    files::create_folder(folder)?;
    // A full disk or a Ctrl-C must not destroy the existing image, so everything is made in a scratch folder first.
    let made = Scratch::making(folder)?;
    let volume = model::write(source, made.path(), name::MODEL, jobs, reporter)?;
    let parts = [
        (name::KERNEL, &kernel),
        (name::INITRD, &initrd),
        (name::TDX, &tdx),
        (name::SNP, &snp),
    ];
    let mut artefacts = old.artefacts.clone();
    artefacts.insert(name::MODEL.to_owned(), volume.artefact);
    artefacts.insert(
        name::SBOM.to_owned(),
        files::write(made.path(), name::SBOM, &sbom)?,
    );
    if !same_folder(image, folder) {
        for (name, bytes) in parts {
            files::write(made.path(), name, bytes)?;
        }
        if old.gpu.is_some() {
            let kept = made.path().join(name::RUNTIME);
            fs::copy(image.join(name::RUNTIME), &kept).map_err(FileError::write(&kept))?;
        }
    }
    let stamp = Stamp {
        release: life.release,
        variant: old.variant,
        source_revision: old.source_revision,
        not_before: life.not_before,
        not_after: life.not_after,
        inputs_lock: old.inputs_lock,
        unlocked: old.unlocked.into_iter().chain(mark).collect(),
    };
    // No event of RTMR0 depends on the model.
    let mut platforms = old.tdx.platforms;
    platforms.retain(|platform| platform.source == PlatformSource::Computed);
    let images = Images {
        kernel: &kernel,
        initrd: &initrd,
        tdx: &tdx,
        snp: &snp,
        platforms: &platforms,
    };
    let manifest = assemble::finish(
        &images,
        volume.model,
        old.gpu,
        artefacts,
        &stamp,
        made.path(),
    )?;
    publish(made.path(), folder)?;
    Ok(manifest)
}

/// Moves the new files from `made` into the image, the manifest last.
fn publish(made: &Path, folder: &Path) -> Result<(), FileError> {
    assemble::begin(folder)?;
    for name in name::ARTEFACTS.into_iter().chain([name::MANIFEST]) {
        let (from, to) = (made.join(name), folder.join(name));
        if from.exists() {
            fs::rename(&from, &to).map_err(FileError::write(&to))?;
        }
    }
    Ok(())
}

/// Checks that the runtime volume, which is kept, is the one that the manifest describes.
fn check_runtime(
    image: &Path,
    old: &Manifest,
    reporter: &dyn Reporter,
) -> Result<(), AddModelError> {
    let path = image.join(name::RUNTIME);
    let task = reporter.start("checking the runtime volume", None);
    if Some(&files::artefact_of(&path)?) != old.artefacts.get(name::RUNTIME) {
        return Err(AddModelError::Altered { path });
    }
    task.finish("done");
    Ok(())
}

fn same_folder(one: &Path, other: &Path) -> bool {
    matches!((fs::canonicalize(one), fs::canonicalize(other)), (Ok(one), Ok(other)) if one == other)
}
