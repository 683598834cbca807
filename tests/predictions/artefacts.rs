//! The artefacts of the image, from its locked inputs: what the predictions are made of.

use std::path::PathBuf;

use crate::tools::Packages;

/// Debian's kernel, the firmware for SEV-SNP, and the plain firmware with TPM of the same release as that for TDX.
pub struct Artefacts {
    /// `boot/vmlinuz-…`.
    pub kernel: PathBuf,
    /// The module through which a guest reads QEMU's settings.
    pub fw_cfg_module: PathBuf,
    /// `OVMF.amdsev.fd`.
    pub snp_firmware: PathBuf,
    /// Package `ovmf-generic`: code and variable store in one file and apart, with and without secure boot.
    pub ovmf: Packages,
}

impl Artefacts {
    /// Fetches and unpacks what is not there yet.
    pub fn open() -> anyhow::Result<Self> {
        let kernel = Packages::of_image("kernel")?;
        let modules = kernel.only("usr/lib/modules", "", "")?;
        Ok(Self {
            kernel: kernel.only("boot", "vmlinuz-", "")?,
            fw_cfg_module: modules.join("kernel/drivers/firmware/qemu_fw_cfg.ko.xz"),
            snp_firmware: Packages::of_image("firmware-snp")?
                .file(cocoon_image::firmware::path::SNP),
            ovmf: Packages::of_image("firmware-vars")?,
        })
    }
}
