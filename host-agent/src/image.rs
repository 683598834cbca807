//! An image folder, opened: every file by descriptor, so that what was checked, what QEMU reads and what the
//! simulator measures are the same bytes.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use cocoon_protocol::bytes::Hex32;
use cocoon_protocol::manifest::{MAX_MANIFEST_LEN, Manifest, ManifestError, manifest_id};

/// Longest kernel command line, in bytes.
pub const MAX_CMDLINE: usize = 2047;

/// An image, opened.
#[derive(Debug)]
pub struct Image {
    /// `vmlinuz`.
    pub kernel: File,
    /// `initrd.img`.
    pub initrd: File,
    /// `OVMF.tdx.fd`, which also boots the simulated modes.
    pub firmware: File,
    /// `model.img`.
    pub model: File,
    /// `runtime.img`, of an image for real GPUs.
    pub runtime: Option<File>,
    /// Path of `OVMF.snp.fd`, for the simulator.
    pub snp_firmware: PathBuf,
    /// Path of `vmlinuz` and `OVMF.tdx.fd`, for the accelerator's probe.
    pub probe: (PathBuf, PathBuf),
    /// Contents of `cmdline`.
    pub cmdline: String,
    /// The manifest that this host publishes.
    pub manifest: Vec<u8>,
    /// Its identity.
    pub manifest_id: Hex32,
    /// What it says.
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
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The command line is too long or not text.
    #[error(
        "{path:?} is not a kernel command line: one line of at most {MAX_CMDLINE} printable characters"
    )]
    Cmdline {
        /// The file.
        path: PathBuf,
    },
    /// The manifest is none.
    #[error("{path:?} is not a manifest")]
    Manifest {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: ManifestError,
    },
}

impl Image {
    /// Opens the image in `folder`; its manifest is `manifest` or else the `manifest.json` in it.
    ///
    /// # Errors
    /// [`ImageError`] names the file.
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
        // Whether it is true is for clients to judge; that it parses spares the operator a useless boot.
        let content = Manifest::parse(&manifest).map_err(|source| ImageError::Manifest {
            path: manifest_path,
            source,
        })?;
        // Only the simulator opens it, but an image without it is incomplete.
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

    /// Boots `OVMF.snp.fd` instead, as SNP guests do.
    ///
    /// # Errors
    /// [`ImageError::Incomplete`].
    pub fn use_snp_firmware(&mut self) -> Result<(), ImageError> {
        self.firmware = open(&self.snp_firmware)?;
        Ok(())
    }
}

/// Identity and content of the manifest that is published for the image in `folder`: `manifest`, or the one in it.
///
/// # Errors
/// [`ImageError`] names the file.
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

/// The simulator is another process, perhaps in another folder.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
