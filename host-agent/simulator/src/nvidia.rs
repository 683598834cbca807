//! H100 GPUs in software: the SPDM responder for attestation, the device certificates, the reference manifests (RIMs) of
//! driver and VBIOS, and NVIDIA's OCSP responses. A [`Fault`] produces each kind of evidence that verifiers must reject.
//!
//! `cocoon_measurements::nvidia::simulated` encodes and signs the structures in their real formats. This module adds the
//! device around them. The GPUs compute nothing.

use cocoon_measurements::nvidia::simulated::{
    Error, Gpu, ManifestParts, Nvidia, ReportParts, Status, Times, pki, status,
};
use cocoon_protocol::bytes::{Blob, Hex32};
use cocoon_protocol::gpu::{CollectedGpu, DriverState, GpuCollateral};

/// Version of the driver.
pub const DRIVER: &str = "550.144.03";
/// Version of the VBIOS.
pub const VBIOS: &str = "96.00.5E.00.01";
/// Version of the VBIOS as encoded in a report.
const VBIOS_BYTES: [u8; 8] = [0x00, 0x5e, 0x00, 0x96, 0x01, 0, 0, 0];
/// The only request that the responder answers: SPDM 1.1 `GET_MEASUREMENTS` for all measurements, with a signature.
const REQUEST: [u8; 4] = [0x11, 0xe0, 0x01, 0xff];
/// Length of the request in bytes: code, nonce and slot.
pub const REQUEST_LEN: usize = 37;
/// Validity of NVIDIA's OCSP responses in seconds. A host fetches them daily.
const WEEK: u64 = 7 * 24 * 60 * 60;
/// Index of a measurement in the VBIOS's manifest. Reports count from one, so its index there is one higher.
const OF_VBIOS: u8 = 40;

/// Fault of a machine's GPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The reports answer another nonce.
    WrongNonce,
    /// NVIDIA has revoked the identity of the first GPU.
    Revoked,
    /// NVIDIA's OCSP responses have expired.
    Expired,
    /// A measurement of the VBIOS differs from its manifest.
    OtherVbios,
    /// The driver reports developer mode.
    DeveloperMode,
    /// The last GPU returns no evidence.
    Missing,
}

/// The GPUs of one machine and their certification authorities.
#[derive(Debug)]
pub struct GpuSimulator {
    nvidia: Nvidia,
    gpus: Vec<Gpu>,
    /// Fault to simulate, if any.
    pub fault: Option<Fault>,
}

impl GpuSimulator {
    /// Creates GPUs with these serial numbers. All of NVIDIA's keys are derived from `seed`.
    ///
    /// # Errors
    /// [`Error`] if encoding fails.
    pub fn new(seed: &str, serials: &[String]) -> Result<Self, Error> {
        let nvidia = Nvidia::new(seed)?;
        let gpus = serials.iter().map(|serial| nvidia.gpu(serial));
        let gpus = gpus.collect::<Result<_, _>>()?;
        let fault = None;
        Ok(Self {
            nvidia,
            gpus,
            fault,
        })
    }

    /// Returns the two development roots in DER: first the one for devices, then the one for manifests.
    #[must_use]
    pub fn roots(&self) -> Vec<Vec<u8>> {
        self.nvidia.roots()
    }

    /// Returns the two development roots in PEM, as a client takes them with `--trust-root`.
    ///
    /// # Errors
    /// [`Error`] if a certificate is not DER.
    pub fn roots_pem(&self) -> Result<String, Error> {
        let ([devices, ..], [manifests, ..]) = (&self.nvidia.devices, &self.nvidia.manifests);
        pki::pem(&[devices, manifests])
    }

    /// Returns the digest of a device's identity, as verdicts show it.
    ///
    /// # Errors
    /// [`Error`] if there is no such GPU or its key cannot be encoded.
    pub fn device(&self, place: usize) -> Result<Hex32, Error> {
        self.gpus.get(place).ok_or(Error::Key)?.device()
    }

    /// Returns the evidence that the driver collects for `nonce`.
    ///
    /// # Errors
    /// [`Error`] if encoding fails.
    pub fn collect(&self, nonce: &Hex32) -> Result<Vec<CollectedGpu>, Error> {
        let missing = usize::from(self.fault == Some(Fault::Missing));
        let shown = self.gpus.len().saturating_sub(missing);
        self.gpus
            .iter()
            .take(shown)
            .map(|gpu| self.show(gpu, nonce))
            .collect()
    }

    fn show(&self, gpu: &Gpu, nonce: &Hex32) -> Result<CollectedGpu, Error> {
        let mut request = [0; REQUEST_LEN];
        request[..4].copy_from_slice(&REQUEST);
        request[4..36].copy_from_slice(&nonce.0);
        if self.fault == Some(Fault::WrongNonce) {
            request[4] ^= 1;
        }
        let report = self.respond(gpu, &request).ok_or(Error::Key)?;
        Ok(CollectedGpu {
            report: Blob([&request[..], &report].concat()),
            chain: self.nvidia.chain(gpu)?,
            driver: DriverState {
                confidential_computing: true,
                developer_mode: self.fault == Some(Fault::DeveloperMode),
                protected_pcie: false,
                driver_version: DRIVER.into(),
                vbios_version: VBIOS.into(),
            },
        })
    }

    /// Answers `GET_MEASUREMENTS` with `MEASUREMENTS`, signed over both. Ignores any other request.
    fn respond(&self, gpu: &Gpu, request: &[u8; REQUEST_LEN]) -> Option<Vec<u8>> {
        let (code, rest) = request.split_first_chunk::<4>()?;
        let (nonce, slot) = rest.split_first_chunk::<32>()?;
        if *code != REQUEST || slot != [0] {
            return None;
        }
        let mut parts = ReportParts::new(*nonce, DRIVER, VBIOS_BYTES, gpu.firmware_id);
        if self.fault == Some(Fault::OtherVbios) {
            let other = |index: &u8| *index == OF_VBIOS + 1;
            let measured = parts
                .measurements
                .iter_mut()
                .find(|(index, ..)| other(index));
            measured?.3[0] ^= 1;
        }
        let signed = parts.signed(&gpu.attestation.key);
        signed.get(REQUEST_LEN..).map(<[u8]>::to_vec)
    }

    /// Returns NVIDIA's collateral at `now`, in Unix seconds.
    ///
    /// # Errors
    /// [`Error`] if encoding fails.
    pub fn collateral(&self, now: u64) -> Result<GpuCollateral, Error> {
        let hour = 60 * 60;
        let (this_update, next_update) = match self.fault {
            Some(Fault::Expired) => (now - 2 * WEEK, now - WEEK),
            _ => (now - hour, now + WEEK),
        };
        let times = Times {
            this_update,
            next_update: Some(next_update),
        };
        // Certificates that several GPUs share get one response.
        let mut revocable: Vec<(&pki::Identity, &pki::Identity)> = Vec::new();
        for gpu in &self.gpus {
            for pair in self.nvidia.revocable(gpu) {
                let known = |other: &(&pki::Identity, _)| other.0.certificate == pair.0.certificate;
                if !revocable.iter().any(known) {
                    revocable.push(pair);
                }
            }
        }
        let revoked = self
            .gpus
            .first()
            .filter(|_| self.fault == Some(Fault::Revoked));
        let answer = |(subject, issuer): (&pki::Identity, &pki::Identity)| {
            let named = |gpu: &Gpu| gpu.identity.certificate == subject.certificate;
            let said = match revoked.is_some_and(named) {
                true => Status::Revoked(now - WEEK),
                false => Status::Good,
            };
            status::response(subject, issuer, said, times).map(Blob)
        };
        let manifest =
            |version, active: &[u8]| self.nvidia.manifest(&ManifestParts::new(version, active));
        Ok(GpuCollateral {
            rims: vec![
                manifest(DRIVER, &[1, 9, 35, 63])?,
                manifest(VBIOS, &[0, 2, OF_VBIOS])?,
            ],
            ocsp: revocable
                .into_iter()
                .map(answer)
                .collect::<Result<_, _>>()?,
        })
    }
}
