//! One good H100 with everything that vouches for it: what tests and fuzz targets change one part of.

use super::{Error, Gpu, ManifestParts, Nvidia, ReportParts, Times};

/// A GPU and its collateral, at one time.
#[derive(Debug)]
pub struct Scene {
    /// Who vouches.
    pub nvidia: Nvidia,
    /// For whom.
    pub gpu: Gpu,
    /// Its report before it is signed.
    pub parts: ReportParts,
    /// Its certificates, PEM.
    pub chain: String,
    /// The manifests of driver and VBIOS.
    pub rims: Vec<String>,
    /// OCSP responses about all of it, an hour old and due in a day.
    pub ocsp: Vec<Vec<u8>>,
}

impl Scene {
    /// The driver's version.
    pub const DRIVER: &str = "550.144.03";
    /// The VBIOS version.
    pub const VBIOS: &str = "96.00.5E.00.01";
    /// The VBIOS version as the report writes it.
    pub const VBIOS_BYTES: [u8; 8] = [0x00, 0x5e, 0x00, 0x96, 0x01, 0, 0, 0];
    /// Measurements of the driver's manifest, NVDEC0's among them.
    pub const OF_DRIVER: [u8; 4] = [1, 9, 35, 63];
    /// Measurements of the VBIOS's manifest.
    pub const OF_VBIOS: [u8; 3] = [0, 2, 40];
    /// The nonce that the report answers.
    pub const NONCE: [u8; 32] = [0x4e; 32];

    /// What it is like at `now`, in seconds since 1970.
    ///
    /// # Errors
    /// [`Error`] when something cannot be encoded.
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

    /// The report as the GPU signs it.
    #[must_use]
    pub fn report(&self) -> Vec<u8> {
        self.parts.signed(&self.gpu.attestation.key)
    }
}
