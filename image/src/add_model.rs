//! Another model for an image that exists: a new volume, command line and manifest. Kernel, initrd and firmware stay.

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

/// The largest kernel or initrd, in bytes.
const MAX_BOOT_FILE: u64 = 4 << 30;

/// Why the image cannot have another model.
#[derive(Debug, Error)]
pub enum AddModelError {
    /// A file.
    #[error("cannot use the image")]
    File(#[from] FileError),
    /// Its manifest.
    #[error("{path} is not the manifest of an image")]
    Manifest {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: ManifestError,
    },
    /// It is not the image that its manifest describes.
    #[error("{path} is not the file that the image's manifest describes: build the image again")]
    Altered {
        /// The file.
        path: PathBuf,
    },
    /// The list of ingredients.
    #[error("cannot make {}", name::SBOM)]
    Sbom(#[from] SbomError),
    /// The volume.
    #[error("cannot make {}", name::MODEL)]
    Volume(#[from] VolumeError),
    /// The rest.
    #[error("cannot assemble the image")]
    Assemble(#[from] AssembleError),
}

/// Reads and checks the form of the manifest at `path`.
///
/// # Errors
/// [`AddModelError`].
pub fn read_manifest(path: &Path) -> Result<Manifest, AddModelError> {
    let bytes = files::read(path, MAX_MANIFEST_LEN as u64)?;
    Manifest::parse(&bytes).map_err(|source| AddModelError::Manifest {
        path: path.to_owned(),
        source,
    })
}

/// Makes in `folder` the image of `image` with the model `source` instead of its own. Both may be the same folder.
///
/// # Errors
/// [`AddModelError`]; nothing is replaced before the image has been checked against its manifest.
pub fn add_model(
    image: &Path,
    source: &Source,
    life: &Life,
    folder: &Path,
    jobs: usize,
    reporter: &dyn Reporter,
) -> Result<Manifest, AddModelError> {
    let old = read_manifest(&image.join(name::MANIFEST))?;
    // What follows from it must be known before anything is replaced.
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
    let sbom = sbom::without_model(&kept(name::SBOM, MAX_BOOT_FILE)?)?;
    assemble::begin(folder)?;
    let volume = model::write(source, folder, name::MODEL, jobs, reporter)?;
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
        files::write(folder, name::SBOM, &sbom)?,
    );
    if old.gpu.is_some() {
        keep_runtime(image, folder, &old, reporter)?;
    }
    if !same_folder(image, folder) {
        for (name, bytes) in parts {
            files::write(folder, name, bytes)?;
        }
    }
    let stamp = Stamp {
        release: life.release,
        variant: old.variant,
        source_revision: old.source_revision,
        not_before: life.not_before,
        not_after: life.not_after,
        inputs_lock: old.inputs_lock,
        unlocked: old.unlocked,
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
    Ok(assemble::finish(
        &images,
        volume.model,
        old.gpu,
        artefacts,
        &stamp,
        folder,
    )?)
}

/// The runtime volume stays as it is: it is compared with the manifest, and copied where the image gets another folder.
fn keep_runtime(
    image: &Path,
    folder: &Path,
    old: &Manifest,
    reporter: &dyn Reporter,
) -> Result<(), AddModelError> {
    let (path, kept) = (image.join(name::RUNTIME), folder.join(name::RUNTIME));
    let task = reporter.start("checking the runtime volume", None);
    if Some(&files::artefact_of(&path)?) != old.artefacts.get(name::RUNTIME) {
        return Err(AddModelError::Altered { path });
    }
    if !same_folder(image, folder) {
        fs::copy(&path, &kept).map_err(FileError::write(&kept))?;
    }
    task.finish("done");
    Ok(())
}

fn same_folder(one: &Path, other: &Path) -> bool {
    matches!((fs::canonicalize(one), fs::canonicalize(other)), (Ok(one), Ok(other)) if one == other)
}
