//! An image folder with every file opened, so that the bytes that were checked, that QEMU reads and that the simulator
//! measures are the same.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use cocoon_protocol::bytes::Hex32;
use cocoon_protocol::manifest::{MAX_MANIFEST_LEN, Manifest, ManifestError, manifest_id};

/// Maximum length of a kernel command line in bytes.
pub const MAX_CMDLINE: usize = 2047;

/// An opened image.
#[derive(Debug)]
pub struct Image {
    /// File `vmlinuz`.
    pub kernel: File,
    /// File `initrd.img`.
    pub initrd: File,
    /// Firmware to boot: `OVMF.tdx.fd`, also for simulated TEEs, or `OVMF.snp.fd` after [`Self::use_snp_firmware`].
    pub firmware: File,
    /// File `model.img`.
    pub model: File,
    /// File `runtime.img`, which only images for real GPUs have.
    pub runtime: Option<File>,
    /// Path of `OVMF.snp.fd`, for the simulator and for SNP guests.
    pub snp_firmware: PathBuf,
    /// Paths of `vmlinuz` and `OVMF.tdx.fd`, for the trial of KVM.
    pub probe: (PathBuf, PathBuf),
    /// Contents of the file `cmdline`.
    pub cmdline: String,
    /// Bytes of the manifest that this host publishes.
    pub manifest: Vec<u8>,
    /// Identity (SHA-256) of the manifest.
    pub manifest_id: Hex32,
    /// The parsed manifest.
    pub content: Manifest,
}

/// Why a folder is not an image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A file is missing or cannot be read.
    #[error(
        "the image is incomplete: cannot read {path:?}; build it with `cocoon-image build --variant cpu --out DIR`"
    )]
    Incomplete {
        /// Path of the file.
        path: PathBuf,
        /// The error of the system.
        #[source]
        source: io::Error,
    },
    /// The file with the kernel's command line is malformed or too long.
    #[error(
        "{path:?} is not a kernel command line: one line of at most {MAX_CMDLINE} printable characters"
    )]
    Cmdline {
        /// Path of the file.
        path: PathBuf,
    },
    /// The manifest cannot be parsed.
    #[error("{path:?} is not a manifest")]
    Manifest {
        /// Path of the file.
        path: PathBuf,
        /// The parser's error.
        #[source]
        source: ManifestError,
    },
}

impl Image {
    /// Opens the image in `folder`. Its manifest is `manifest`, or else `manifest.json` in the folder.
    ///
    /// # Errors
    /// Fails with [`ImageError`], which names the file.
    pub fn open(folder: &Path, manifest: Option<&Path>) -> Result<Self, ImageError> {
        let path = |name: &str| folder.join(name);
        let open = |name: &str| open(&path(name));
        let cmdline_path = path("cmdline");
        let cmdline = read(&cmdline_path, MAX_CMDLINE + 2)?;
        let cmdline = String::from_utf8(cmdline)
            .ok()
            .map(|text| text.trim_end_matches('\n').to_owned());
        let good = |text: &String| text.len() <= MAX_CMDLINE && !text.chars().any(char::is_control);
        let cmdline = cmdline
            .filter(good)
            .ok_or(ImageError::Cmdline { path: cmdline_path })?;
        let manifest_path = manifest.map_or_else(|| path("manifest.json"), Path::to_owned);
        let manifest = read(&manifest_path, MAX_MANIFEST_LEN + 1)?;
        // Clients judge the manifest; parsing it here spares the operator a useless boot.
        let content = Manifest::parse(&manifest).map_err(|source| ImageError::Manifest {
            path: manifest_path,
            source,
        })?;
        // Opened later, by the simulator or for an SNP guest, but an image without it is incomplete.
        open("OVMF.snp.fd")?;
        Ok(Self {
            kernel: open("vmlinuz")?,
            initrd: open("initrd.img")?,
            firmware: open("OVMF.tdx.fd")?,
            model: open("model.img")?,
            runtime: content
                .gpu
                .is_some()
                .then(|| open("runtime.img"))
                .transpose()?,
            snp_firmware: absolute(&path("OVMF.snp.fd")),
            probe: (path("vmlinuz"), path("OVMF.tdx.fd")),
            cmdline,
            manifest_id: manifest_id(&manifest),
            manifest,
            content,
        })
    }

    /// Replaces the firmware with `OVMF.snp.fd`, which SNP guests boot.
    ///
    /// # Errors
    /// Fails with [`ImageError::Incomplete`] if the file cannot be opened.
    pub fn use_snp_firmware(&mut self) -> Result<(), ImageError> {
        self.firmware = open(&self.snp_firmware)?;
        Ok(())
    }
}

/// Returns identity and content of the manifest that is published for the image in `folder`: `manifest`, or else
/// `manifest.json` in the folder.
///
/// # Errors
/// Fails with [`ImageError`], which names the file.
pub fn manifest(folder: &Path, manifest: Option<&Path>) -> Result<(Hex32, Manifest), ImageError> {
    let path = manifest.map_or_else(|| folder.join("manifest.json"), Path::to_owned);
    let bytes = read(&path, MAX_MANIFEST_LEN + 1)?;
    let content = Manifest::parse(&bytes);
    let content = content.map_err(|source| ImageError::Manifest { path, source })?;
    Ok((manifest_id(&bytes), content))
}

fn open(path: &Path) -> Result<File, ImageError> {
    let fail = |source| ImageError::Incomplete {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(fail)?;
    if file.metadata().map_err(fail)?.is_file() {
        Ok(file)
    } else {
        Err(fail(io::Error::other("not a regular file")))
    }
}

fn read(path: &Path, limit: usize) -> Result<Vec<u8>, ImageError> {
    let mut bytes = Vec::new();
    let fail = |source| ImageError::Incomplete {
        path: path.to_owned(),
        source,
    };
    open(path)?
        .take(limit as u64)
        .read_to_end(&mut bytes)
        .map_err(fail)?;
    Ok(bytes)
}

/// The simulator is another process, perhaps with another current folder.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
