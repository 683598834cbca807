//! The image's artefacts from its locked inputs, as input for the predictions.

use std::path::PathBuf;

use crate::tools::Packages;

/// Debian's kernel, the firmware for SEV-SNP, and the firmware for plain machines with TPM, of the
/// same release as that for TDX.
pub struct Artefacts {
    /// Kernel: `boot/vmlinuz-…`.
    pub kernel: PathBuf,
    /// Kernel module through which a guest reads QEMU's fw_cfg settings.
    pub fw_cfg_module: PathBuf,
    /// SEV-SNP firmware: `OVMF.amdsev.fd`.
    pub snp_firmware: PathBuf,
    /// Package `ovmf-generic`: code and variable store in one file and separately, with and without secure boot.
    pub ovmf: Packages,
}

impl Artefacts {
    /// Fetches and unpacks what is missing.
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
