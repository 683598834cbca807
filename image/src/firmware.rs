//! Fragment: the firmware. One image per kind of TEE, taken as Debian built them but for one variable store.

use cocoon_measurements::tdx::varstore::{self, VarstoreError};
use thiserror::Error;

/// The parts of packages that the firmware comes from.
pub mod path {
    /// TDX firmware, in `ovmf-inteltdx`.
    pub const TDX: &str = "usr/share/ovmf/OVMF.inteltdx.ms.fd";
    /// SNP firmware, in `ovmf-amdsev`.
    pub const SNP: &str = "usr/share/ovmf/OVMF.amdsev.fd";
    /// The blank variable store, in `ovmf`.
    pub const VARSTORE: &str = "usr/share/OVMF/OVMF_VARS_4M.fd";
}

/// The largest firmware, in bytes: it ends at 4 GiB and QEMU gives it no more.
pub const MAX_FIRMWARE: u64 = 16 << 20;

/// Both firmware images as they go into the image.
#[derive(Debug, Clone)]
pub struct Firmware {
    /// `OVMF.tdx.fd`.
    pub tdx: Vec<u8>,
    /// `OVMF.snp.fd`.
    pub snp: Vec<u8>,
}

/// Why the firmware cannot be had.
#[derive(Debug, Error)]
pub enum FirmwareError {
    /// The TDX firmware's variable store stays.
    #[error("cannot give the TDX firmware a blank variable store")]
    Varstore(#[from] VarstoreError),
}

impl Firmware {
    /// Debian's `inteltdx` firmware with `varstore`, a blank variable store, and its `amdsev` firmware unchanged.
    ///
    /// As shipped, the TDX image has Microsoft's keys enrolled and boots no kernel given with `-kernel`.
    ///
    /// # Errors
    /// [`FirmwareError`] when a part is not what its name says.
    pub fn new(inteltdx: &[u8], varstore: &[u8], amdsev: Vec<u8>) -> Result<Self, FirmwareError> {
        Ok(Self {
            tdx: varstore::blank(inteltdx, varstore)?,
            snp: amdsev,
        })
    }
}
