//! One good H100 with all its evidence and collateral, of which tests and fuzz targets change one part at a time.

use super::{Error, Gpu, ManifestParts, Nvidia, ReportParts, Times};

/// A GPU with its evidence and collateral at one time.
#[derive(Debug)]
pub struct Scene {
    /// The certificate authorities.
    pub nvidia: Nvidia,
    /// The GPU.
    pub gpu: Gpu,
    /// The GPU's report before it is signed.
    pub parts: ReportParts,
    /// The GPU's certificate chain in PEM.
    pub chain: String,
    /// The reference manifests of driver and VBIOS.
    pub rims: Vec<String>,
    /// OCSP responses about all certificates, an hour old and with the next due in a day.
    pub ocsp: Vec<Vec<u8>>,
}

impl Scene {
    /// Version of the driver.
    pub const DRIVER: &str = "550.144.03";
    /// Version of the VBIOS.
    pub const VBIOS: &str = "96.00.5E.00.01";
    /// Version of the VBIOS as encoded in the report.
    pub const VBIOS_BYTES: [u8; 8] = [0x00, 0x5e, 0x00, 0x96, 0x01, 0, 0, 0];
    /// Indices of the active measurements in the driver's manifest, NVDEC0's among them.
    pub const OF_DRIVER: [u8; 4] = [1, 9, 35, 63];
    /// Indices of the active measurements in the VBIOS's manifest.
    pub const OF_VBIOS: [u8; 3] = [0, 2, 40];
    /// The nonce that the report answers.
    pub const NONCE: [u8; 32] = [0x4e; 32];

    /// Makes the scene at `now`, in seconds since 1970.
    ///
    /// # Errors
    /// [`Error`] if a structure cannot be encoded.
    pub fn at(now: u64) -> Result<Self, Error> {
        let nvidia = Nvidia::new("scene")?;
        let gpu = nvidia.gpu("0123456789")?;
        let times = Times {
            this_update: now.saturating_sub(3600),
            next_update: Some(now.saturating_add(86_400)),
        };
        Ok(Self {
            parts: ReportParts::new(
                Self::NONCE,
                Self::DRIVER,
                Self::VBIOS_BYTES,
                gpu.firmware_id,
            ),
            chain: nvidia.chain(&gpu)?,
            rims: vec![
                nvidia.manifest(&ManifestParts::new(Self::DRIVER, &Self::OF_DRIVER))?,
                nvidia.manifest(&ManifestParts::new(Self::VBIOS, &Self::OF_VBIOS))?,
            ],
            ocsp: nvidia.good(&gpu, times)?,
            nvidia,
            gpu,
        })
    }

    /// Returns the report with the GPU's signature.
    #[must_use]
    pub fn report(&self) -> Vec<u8> {
        self.parts.signed(&self.gpu.attestation.key)
    }
}
