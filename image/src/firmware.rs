//! Fragment: the firmware, one for TDX and one for SEV-SNP. Both are Debian's, with one change: the TDX firmware gets a blank
//! variable store.

use cocoon_measurements::tdx::varstore::{self, VarstoreError};
use thiserror::Error;

/// Paths of the firmware files in Debian's packages.
pub mod path {
    /// TDX firmware, in package `ovmf-inteltdx`.
    pub const TDX: &str = "usr/share/ovmf/OVMF.inteltdx.ms.fd";
    /// SNP firmware, in package `ovmf-amdsev`.
    pub const SNP: &str = "usr/share/ovmf/OVMF.amdsev.fd";
    /// Blank variable store, in package `ovmf-generic`.
    pub const VARSTORE: &str = "usr/share/OVMF/OVMF_VARS_4M.fd";
}

/// Largest firmware, in bytes. QEMU maps it just below 4 GiB and accepts no larger one.
pub const MAX_FIRMWARE: u64 = 16 << 20;

/// Both firmware files, as they go into the image.
#[derive(Debug, Clone)]
pub struct Firmware {
    /// Content of `OVMF.tdx.fd`.
    pub tdx: Vec<u8>,
    /// Content of `OVMF.snp.fd`.
    pub snp: Vec<u8>,
}

/// Why the firmware cannot be made.
#[derive(Debug, Error)]
pub enum FirmwareError {
    /// The variable store of the TDX firmware cannot be replaced.
    #[error("cannot give the TDX firmware a blank variable store")]
    Varstore(#[from] VarstoreError),
}

impl Firmware {
    /// Puts the blank variable store `varstore` into Debian's `inteltdx` firmware, and takes its `amdsev` firmware unchanged.
    ///
    /// As shipped, the TDX firmware has Microsoft's keys enrolled and boots no kernel given with `-kernel`.
    ///
    /// # Errors
    /// [`FirmwareError`] when the firmware or the variable store has an unexpected format.
    pub fn new(inteltdx: &[u8], varstore: &[u8], amdsev: Vec<u8>) -> Result<Self, FirmwareError> {
        Ok(Self {
            tdx: varstore::blank(inteltdx, varstore)?,
            snp: amdsev,
        })
    }
}
