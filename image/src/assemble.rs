//! Assembles an image from its ingredients: a pure function of bytes that are already there, without cargo or network.

use std::collections::BTreeMap;
use std::path::Path;

use cocoon_inputs::report::Reporter;
use cocoon_protocol::bytes::Hex32;
use cocoon_protocol::manifest::{
    Artefact, GpuImage, MANIFEST_VERSION, Manifest, Model, TdxPlatform,
};
use thiserror::Error;

use crate::cmdline::{self, CmdlineError, ModelToken, RuntimeToken};
use crate::driver::Driver;
use crate::files::{self, FileError};
use crate::firmware::Firmware;
use crate::guest::Binaries;
use crate::initrd::{self, InitrdError, Parts};
use crate::kernel::Kernel;
use crate::model::{self, Source, VolumeError};
use crate::reference::{self, Boot, ReferenceError};
use crate::runtime::{self, RuntimeError};
use crate::variant::Variant;

/// Names of the files of an image.
pub mod name {
    /// The kernel.
    pub const KERNEL: &str = "vmlinuz";
    /// The initrd: agent, engine and kernel modules.
    pub const INITRD: &str = "initrd.img";
    /// The command line, without a final newline.
    pub const CMDLINE: &str = "cmdline";
    /// Firmware for TDX and for machines without a TEE.
    pub const TDX: &str = "OVMF.tdx.fd";
    /// Firmware for SEV-SNP.
    pub const SNP: &str = "OVMF.snp.fd";
    /// The runtime volume with the programs and libraries that use real GPUs; other images have none.
    pub const RUNTIME: &str = "runtime.img";
    /// The model volume.
    pub const MODEL: &str = "model.img";
    /// The SPDX document that lists the image's ingredients.
    pub const SBOM: &str = "sbom.spdx.json";
    /// The manifest: digests of the artefacts, and reference values.
    pub const MANIFEST: &str = "manifest.json";
    /// The DSSE envelope with the manifest's signatures.
    pub const ENVELOPE: &str = "manifest.json.dsse";
    /// Artefacts that the manifest lists. Causes come before effects, because `verify` names the first that differs: the
    /// command line, for example, holds the root hash of the model and comes after it.
    pub const ARTEFACTS: [&str; 8] = [KERNEL, INITRD, TDX, SNP, RUNTIME, MODEL, CMDLINE, SBOM];
}

/// The ingredients that decide every byte of the artefacts.
pub struct Ingredients {
    /// Kernel and its modules.
    pub kernel: Kernel,
    /// Firmware for TDX and for SEV-SNP.
    pub firmware: Firmware,
    /// Agent, and the engine if it lies in the initrd.
    pub binaries: Binaries,
    /// The model.
    pub model: Source,
    /// SPDX document of these ingredients.
    pub sbom: Vec<u8>,
    /// Additional ingredients of an image for real GPUs.
    pub gpu: Option<Gpu>,
}

/// Additional ingredients of an image for real GPUs.
pub struct Gpu {
    /// NVIDIA's kernel modules.
    pub driver: Driver,
    /// Files of the runtime volume, including the GPUs' firmware.
    pub runtime: runtime::Files,
}

/// Fields of the manifest that do not follow from the ingredients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    /// Release number, which rises from release to release.
    pub release: u64,
    /// Name of the variant, such as `cpu`.
    pub variant: String,
    /// Git revision of the sources.
    pub source_revision: String,
    /// Start of the manifest's validity, in seconds since 1970.
    pub not_before: u64,
    /// End of the manifest's validity, in seconds since 1970.
    pub not_after: u64,
    /// SHA-256 of the lock file of inputs.
    pub inputs_lock: Hex32,
    /// What a rebuild from the revision and the lock file would lack: substituted inputs, and marks about the sources.
    pub unlocked: Vec<String>,
}

/// Why an image cannot be assembled.
#[derive(Debug, Error)]
pub enum AssembleError {
    /// The initrd cannot be made.
    #[error("cannot make {}", name::INITRD)]
    Initrd(#[from] InitrdError),
    /// The model volume cannot be written.
    #[error("cannot make {}", name::MODEL)]
    Model(#[from] VolumeError),
    /// The runtime volume cannot be written.
    #[error("cannot make {}", name::RUNTIME)]
    Runtime(#[from] RuntimeError),
    /// The command line cannot be made.
    #[error("cannot make {}", name::CMDLINE)]
    Cmdline(#[from] CmdlineError),
    /// The reference values cannot be computed.
    #[error("cannot make {}", name::MANIFEST)]
    Reference(#[from] ReferenceError),
    /// The manifest names a variant that this release does not know, so the command line is unknown, too.
    #[error(
        "the manifest says that the image is of the variant {0:?}, which this release does not know: use the one that built it"
    )]
    Variant(String),
    /// A file of the image cannot be written.
    #[error("cannot write the image")]
    File(#[from] FileError),
}

/// Writes the image to `folder`. The manifest comes last, so a folder with a manifest holds a complete image.
///
/// The same ingredients and stamp give the same bytes. `jobs` (threads for hashing), folder, user, umask, locale, time zone
/// and clock have no influence.
///
/// # Errors
/// [`AssembleError`], which names the artefact.
pub fn assemble(
    ingredients: &Ingredients,
    stamp: &Stamp,
    folder: &Path,
    jobs: usize,
    reporter: &dyn Reporter,
) -> Result<Manifest, AssembleError> {
    begin(folder)?;
    let Ingredients {
        kernel,
        firmware,
        binaries,
        model,
        sbom,
        gpu,
    } = ingredients;
    let parts = Parts {
        agent: &binaries.agent,
        engine: binaries.engine.as_deref(),
        modules: &kernel.modules,
        driver: gpu.as_ref().map(|gpu| &gpu.driver),
    };
    let initrd = initrd::build(&parts, reporter)?;
    let volume = model::write(model, folder, name::MODEL, jobs, reporter)?;
    let mut artefacts = BTreeMap::from([(name::MODEL.to_owned(), volume.artefact)]);
    let mut listed = None;
    if let Some(Gpu { driver, runtime }) = gpu {
        let (runtime, artefact) = runtime::write(runtime, folder, name::RUNTIME, jobs, reporter)?;
        artefacts.insert(name::RUNTIME.to_owned(), artefact);
        let without = cmdline::WITHOUT.iter();
        listed = Some(GpuImage {
            driver: driver.version.clone(),
            runtime,
            without: without
                .map(|(_, name, reason)| ((*name).to_owned(), (*reason).to_owned()))
                .collect(),
        });
    }
    let parts: [(&str, &[u8]); 5] = [
        (name::KERNEL, &kernel.vmlinuz),
        (name::INITRD, &initrd),
        (name::TDX, &firmware.tdx),
        (name::SNP, &firmware.snp),
        (name::SBOM, sbom),
    ];
    for (name, bytes) in parts {
        artefacts.insert(name.to_owned(), files::write(folder, name, bytes)?);
    }
    let images = Images {
        kernel: &kernel.vmlinuz,
        initrd: &initrd,
        tdx: &firmware.tdx,
        snp: &firmware.snp,
        platforms: &[],
    };
    finish(&images, volume.model, listed, artefacts, stamp, folder)
}

/// Artefacts that stay when only the model changes.
pub(crate) struct Images<'a> {
    pub(crate) kernel: &'a [u8],
    pub(crate) initrd: &'a [u8],
    pub(crate) tdx: &'a [u8],
    pub(crate) snp: &'a [u8],
    /// TDX machine shapes to list after the predicted ones, such as those that signers added.
    pub(crate) platforms: &'a [TdxPlatform],
}

/// Prepares `folder` for new artefacts. It removes an old manifest and its signatures first, because they would describe a
/// mixture of old and new files if the build were interrupted.
pub(crate) fn begin(folder: &Path) -> Result<(), FileError> {
    files::create_folder(folder)?;
    files::remove_if_present(&folder.join(name::MANIFEST))?;
    files::remove_if_present(&folder.join(name::ENVELOPE))
}

/// Returns the variant with this name.
pub(crate) fn variant(name: &str) -> Result<Variant, AssembleError> {
    Variant::named(name).ok_or_else(|| AssembleError::Variant(name.chars().take(40).collect()))
}

/// Writes the command line for `model` and `gpu`, and the manifest over all artefacts.
pub(crate) fn finish(
    images: &Images<'_>,
    model: Model,
    gpu: Option<GpuImage>,
    mut artefacts: BTreeMap<String, Artefact>,
    stamp: &Stamp,
    folder: &Path,
) -> Result<Manifest, AssembleError> {
    let token = ModelToken {
        id: &model.id,
        root: model.verity_root,
        salt: model.verity_salt,
        data_blocks: model.verity_data_blocks,
    };
    let runtime = gpu.as_ref().map(|gpu| RuntimeToken {
        root: gpu.runtime.verity_root,
        salt: gpu.runtime.verity_salt,
        data_blocks: gpu.runtime.verity_data_blocks,
    });
    let gpus = variant(&stamp.variant)?.gpus();
    let cmdline = cmdline::build(&token, gpus, runtime.as_ref())?;
    artefacts.insert(
        name::CMDLINE.to_owned(),
        files::write(folder, name::CMDLINE, cmdline.as_bytes())?,
    );
    let boot = Boot {
        kernel: images.kernel,
        initrd: images.initrd,
        cmdline: &cmdline,
    };
    let mut tdx = reference::tdx(images.tdx, &boot)?;
    let mut snp = reference::snp(images.snp, &boot)?;
    if gpu.is_some() {
        // No kernel with the guard against the host's ACPI code runs NVIDIA's driver yet. SNP measurements do not cover that
        // code, so this image is not released for SEV-SNP.
        snp.launch.clear();
    }
    tdx.platforms.extend_from_slice(images.platforms);
    let Stamp {
        release,
        variant,
        source_revision,
        not_before,
        not_after,
        inputs_lock,
        unlocked,
    } = stamp.clone();
    let manifest = Manifest {
        version: MANIFEST_VERSION,
        release,
        variant,
        source_revision,
        not_before,
        not_after,
        inputs_lock,
        unlocked,
        // Debian's kernel runs any ACPI code that the host supplies.
        aml_guard: false,
        artefacts,
        cmdline,
        model,
        gpu,
        tdx,
        snp,
    };
    files::write(folder, name::MANIFEST, &manifest.to_json())?;
    Ok(manifest)
}
