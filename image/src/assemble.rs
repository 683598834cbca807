//! Puts an image together from what it is made of: a pure function of bytes at hand, without cargo or network.

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

/// Names of an image's files, in the order in which a difference between two images is best explained.
pub mod name {
    /// The kernel.
    pub const KERNEL: &str = "vmlinuz";
    /// Agent, engine, modules.
    pub const INITRD: &str = "initrd.img";
    /// The command line, without a final newline.
    pub const CMDLINE: &str = "cmdline";
    /// Firmware for TDX and for no TEE.
    pub const TDX: &str = "OVMF.tdx.fd";
    /// Firmware for SEV-SNP.
    pub const SNP: &str = "OVMF.snp.fd";
    /// The programs and libraries that use the GPUs, in an image with real ones.
    pub const RUNTIME: &str = "runtime.img";
    /// The model volume.
    pub const MODEL: &str = "model.img";
    /// What it is made of.
    pub const SBOM: &str = "sbom.spdx.json";
    /// What is expected of all that.
    pub const MANIFEST: &str = "manifest.json";
    /// Its signatures.
    pub const ENVELOPE: &str = "manifest.json.dsse";
    /// What the manifest lists, causes before effects: the command line names the model.
    pub const ARTEFACTS: [&str; 8] = [KERNEL, INITRD, TDX, SNP, RUNTIME, MODEL, CMDLINE, SBOM];
}

/// Everything that decides the artefacts' bytes.
pub struct Ingredients {
    /// Kernel and modules.
    pub kernel: Kernel,
    /// Both firmware images.
    pub firmware: Firmware,
    /// Agent and engine.
    pub binaries: Binaries,
    /// The model.
    pub model: Source,
    /// The SPDX document of all this.
    pub sbom: Vec<u8>,
    /// What an image with real GPUs has besides.
    pub gpu: Option<Gpu>,
}

/// What an image with real GPUs has besides.
pub struct Gpu {
    /// NVIDIA's kernel modules.
    pub driver: Driver,
    /// The runtime volume's files, the GPUs' firmware among them.
    pub runtime: runtime::Files,
}

/// What the manifest says besides measurements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    /// Rising number.
    pub release: u64,
    /// Such as `cpu`.
    pub variant: String,
    /// Revision of the sources.
    pub source_revision: String,
    /// Seconds since 1970.
    pub not_before: u64,
    /// Seconds since 1970.
    pub not_after: u64,
    /// SHA-256 of the lock file.
    pub inputs_lock: Hex32,
    /// Inputs other than the locked ones.
    pub unlocked: Vec<String>,
}

/// Why there is no image.
#[derive(Debug, Error)]
pub enum AssembleError {
    /// The initrd.
    #[error("cannot make {}", name::INITRD)]
    Initrd(#[from] InitrdError),
    /// The model volume.
    #[error("cannot make {}", name::MODEL)]
    Model(#[from] VolumeError),
    /// The runtime volume.
    #[error("cannot make {}", name::RUNTIME)]
    Runtime(#[from] RuntimeError),
    /// The command line.
    #[error("cannot make {}", name::CMDLINE)]
    Cmdline(#[from] CmdlineError),
    /// The reference values.
    #[error("cannot make {}", name::MANIFEST)]
    Reference(#[from] ReferenceError),
    /// A kind of image whose command line is not known here.
    #[error(
        "the manifest says that the image is of the variant {0:?}, which this release does not know: use the one that built it"
    )]
    Variant(String),
    /// A file.
    #[error("cannot write the image")]
    File(#[from] FileError),
}

/// Writes the image to `folder`, the manifest last: a folder with a manifest is a whole image.
///
/// The same ingredients and stamp give the same bytes, whatever `jobs` (threads for hashing), folder, user, umask,
/// locale, zone and clock.
///
/// # Errors
/// [`AssembleError`] naming the artefact.
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

/// The artefacts that stay when only the model changes.
pub(crate) struct Images<'a> {
    pub(crate) kernel: &'a [u8],
    pub(crate) initrd: &'a [u8],
    pub(crate) tdx: &'a [u8],
    pub(crate) snp: &'a [u8],
    /// Shapes of real machines with that TDX firmware.
    pub(crate) platforms: &'a [TdxPlatform],
}

/// Until the end there is no manifest, lest an old one vouch for new files.
pub(crate) fn begin(folder: &Path) -> Result<(), FileError> {
    files::create_folder(folder)?;
    files::remove_if_present(&folder.join(name::MANIFEST))?;
    files::remove_if_present(&folder.join(name::ENVELOPE))
}

/// The kind of image of this name.
pub(crate) fn variant(name: &str) -> Result<Variant, AssembleError> {
    Variant::named(name).ok_or_else(|| AssembleError::Variant(name.chars().take(40).collect()))
}

/// Writes the command line for `model` and `gpu`, and the manifest of it all.
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
        // No kernel with the guard against the host's ACPI code runs NVIDIA's driver yet: SEV-SNP would not tell of that
        // code, so this image is not released for it.
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
        // Debian's kernel runs whatever ACPI code the host supplies.
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
