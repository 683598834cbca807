//! The measured files of an image, in memory. The model is left out, because the guest checks it.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use cocoon_measurements::manifest::MAX_ENVELOPE_LEN;
use cocoon_protocol::bytes::Hex32;
use cocoon_protocol::manifest::{Manifest, ManifestError};

use crate::image::{Image, ImageError};

/// Maximum length of kernel, initrd or firmware in bytes.
const MAX_ARTEFACT: u64 = 1 << 30;

/// The measured files of an image, and its manifest.
#[derive(Debug, Clone)]
pub struct Artefacts {
    /// Contents of `vmlinuz`.
    pub kernel: Vec<u8>,
    /// Contents of `initrd.img`.
    pub initrd: Vec<u8>,
    /// The kernel's command line.
    pub cmdline: String,
    /// Contents of the file `cmdline`.
    pub cmdline_file: Vec<u8>,
    /// Contents of `OVMF.tdx.fd`.
    pub tdx_firmware: Vec<u8>,
    /// Contents of `OVMF.snp.fd`.
    pub snp_firmware: Vec<u8>,
    /// The parsed manifest.
    pub manifest: Manifest,
    /// Bytes of the manifest.
    pub manifest_bytes: Vec<u8>,
    /// Identity (SHA-256) of the manifest.
    pub manifest_id: Hex32,
    /// Contents of the signature file, if there is one.
    pub envelope: Option<Vec<u8>>,
}

/// Why the files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ArtefactsError {
    /// The image folder cannot be opened.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The manifest cannot be parsed.
    #[error("the image's manifest cannot be read")]
    Manifest(#[from] ManifestError),
    /// A file cannot be read.
    #[error("cannot read {path:?}")]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// The error of the system.
        #[source]
        source: io::Error,
    },
}

impl Artefacts {
    /// Reads the image in `folder`, and the manifest's signatures beside it.
    ///
    /// # Errors
    /// Fails with [`ArtefactsError`], which names the file.
    pub fn read(folder: &Path) -> Result<Self, ArtefactsError> {
        let image = Image::open(folder, None)?;
        let whole = |name: &str, file: File| read(file, MAX_ARTEFACT, &folder.join(name));
        let opened = |name: &str| {
            let path = folder.join(name);
            File::open(&path).map_err(|source| ArtefactsError::Read { path, source })
        };
        let signed = folder.join("manifest.json.dsse");
        let envelope = match File::open(&signed) {
            Ok(file) => Some(read(file, MAX_ENVELOPE_LEN as u64, &signed)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => {
                return Err(ArtefactsError::Read {
                    path: signed,
                    source,
                });
            }
        };
        Ok(Self {
            kernel: whole("vmlinuz", image.kernel)?,
            initrd: whole("initrd.img", image.initrd)?,
            cmdline_file: whole("cmdline", opened("cmdline")?)?,
            cmdline: image.cmdline,
            tdx_firmware: whole("OVMF.tdx.fd", image.firmware)?,
            snp_firmware: whole("OVMF.snp.fd", opened("OVMF.snp.fd")?)?,
            manifest: Manifest::parse(&image.manifest)?,
            manifest_bytes: image.manifest,
            manifest_id: image.manifest_id,
            envelope,
        })
    }

    /// The files that the manifest lists, by their names there.
    #[must_use]
    pub fn files(&self) -> [(&'static str, &[u8]); 5] {
        [
            ("vmlinuz", &self.kernel),
            ("initrd.img", &self.initrd),
            ("cmdline", &self.cmdline_file),
            ("OVMF.tdx.fd", &self.tdx_firmware),
            ("OVMF.snp.fd", &self.snp_firmware),
        ]
    }
}

fn read(file: File, limit: u64, path: &Path) -> Result<Vec<u8>, ArtefactsError> {
    let mut bytes = Vec::new();
    let fail = |source| ArtefactsError::Read {
        path: path.to_owned(),
        source,
    };
    file.take(limit + 1).read_to_end(&mut bytes).map_err(fail)?;
    if bytes.len() as u64 > limit {
        return Err(fail(io::Error::other(format!(
            "it has more than {limit} bytes"
        ))));
    }
    Ok(bytes)
}
