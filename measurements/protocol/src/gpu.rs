//! GPUs: their evidence, NVIDIA's endorsements of it, and requests for these endorsements.
//!
//! These types only describe the form. Reports, certificates and manifests authenticate themselves, and `cocoon-measurements`
//! appraises them. The driver's statements are only as trustworthy as the measured guest that asked the driver.

pub mod collector;

use serde::{Deserialize, Serialize};

use crate::bytes::Blob;
use crate::document::Evidence;

/// Most GPUs of a machine.
pub const MAX_GPUS: usize = 16;
/// Largest attestation report, in bytes: the size of NVML's buffer.
pub const MAX_REPORT: usize = 8 * 1024;
/// Largest certificate chain in PEM, in bytes. NVML's buffer has 5 KiB.
pub const MAX_CHAIN: usize = 8 * 1024;
/// Longest version of a driver or VBIOS, in characters.
pub const MAX_VERSION: usize = 64;
/// Longest name of a reference manifest, in characters.
pub const MAX_RIM_NAME: usize = 160;
/// Most reference manifests in a message or document.
pub const MAX_RIMS: usize = 32;
/// Largest reference manifest, in bytes.
pub const MAX_RIM: usize = 64 * 1024;
/// Most OCSP responses in a message or document.
pub const MAX_OCSP_RESPONSES: usize = 64;
/// Largest OCSP response, in bytes.
pub const MAX_OCSP: usize = 16 * 1024;

/// Evidence of one GPU as it appears in a document. Its JSON has at most 28 KB.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CollectedGpu {
    /// Attestation report: SPDM request and response, at most [`MAX_REPORT`] bytes.
    pub report: Blob,
    /// Certificates in PEM, the attestation key's first, at most [`MAX_CHAIN`] bytes. They are text, because Base64 of them
    /// would be a third longer.
    pub chain: String,
    /// The driver's statement about the GPU. No signature of the GPU covers it.
    pub driver: DriverState,
}

/// State of a GPU as the driver (NVML) reports it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DriverState {
    /// Whether confidential computing is on.
    pub confidential_computing: bool,
    /// Whether developer mode is on. In this mode everything works and nothing is protected.
    pub developer_mode: bool,
    /// Whether the GPU is one of several under protected PCIe.
    pub protected_pcie: bool,
    /// The driver's version, at most [`MAX_VERSION`] characters of `[A-Za-z0-9._-]`.
    pub driver_version: String,
    /// Version of the VBIOS, at most [`MAX_VERSION`] characters of `[A-Za-z0-9._-]`.
    pub vbios_version: String,
}

/// NVIDIA's endorsements of drivers, firmware and certificates, fetched by the untrusted host and stapled by the guest. Each
/// item authenticates itself. With other type parameters the same shape holds the digests of the items; see
/// [`Names`](crate::pieces::Names).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpuCollateral<Manifest = String, Response = Blob> {
    /// Reference manifests (RIMs): their XML as text.
    pub rims: Vec<Manifest>,
    /// OCSP responses in DER.
    pub ocsp: Vec<Response>,
}

/// Use and temperature of one GPU as its driver reports them. A value is absent, never zero, if the driver does not report it;
/// a GPU in confidential computing may refuse to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpuMetrics {
    /// Size of the GPU's memory, in bytes.
    pub memory_bytes: Option<u64>,
    /// Memory in use, in bytes: weights and caches of all requests together.
    pub memory_used_bytes: Option<u64>,
    /// Temperature in whole degrees Celsius.
    pub temperature_celsius: Option<u16>,
}

/// Evidence for which a guest needs endorsements. Nothing in it is secret: every client sees the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CollateralRequest {
    /// Boot evidence of the CPU with an empty event log; absent if the CPU is simulated. Its certificate, or its chip id and
    /// patch levels, tell the host what to request from Intel or AMD.
    pub evidence: Option<Evidence>,
    /// What the evidence of each GPU needs, at most [`MAX_GPUS`] entries.
    pub gpus: Vec<GpuNeeds>,
}

/// Endorsements that the appraisal of one GPU's evidence needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpuNeeds {
    /// NVIDIA's name of the driver's reference manifest, at most [`MAX_RIM_NAME`] characters of `[A-Z0-9._-]`.
    pub driver_rim: String,
    /// NVIDIA's name of the VBIOS's reference manifest, at most [`MAX_RIM_NAME`] characters of `[A-Z0-9._-]`.
    pub vbios_rim: String,
    /// The GPU's certificates in PEM, whose revocation status is needed; at most [`MAX_CHAIN`] bytes.
    pub chain: String,
}

/// Reason why a value is malformed. The error text never repeats foreign content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GpuError {
    /// There are more items of a kind than allowed.
    #[error("{found} {what}, where at most {limit} are allowed")]
    TooMany {
        /// Kind of item, in the plural.
        what: &'static str,
        /// Number of items found.
        found: usize,
        /// Number of items allowed.
        limit: usize,
    },
    /// There are no items of a kind that is required.
    #[error("no {0}, where there must be some")]
    None(&'static str),
    /// A text contains a character that is not allowed.
    #[error("the {0} hold one that does not belong there")]
    Character(&'static str),
    /// GPUs are not in order of their addresses, or one is listed twice.
    #[error("GPUs are not listed once each by their address")]
    Order,
    /// An event log is present where none is allowed.
    #[error("the event log travels with a session's evidence only")]
    EventLog,
}

impl CollectedGpu {
    /// Checks the form, not whether the evidence can be trusted.
    ///
    /// # Errors
    /// [`GpuError`] names the field that is too long, is empty or has a character that is not allowed.
    pub fn check(&self) -> Result<(), GpuError> {
        sized("bytes of GPU report", self.report.0.len(), MAX_REPORT)?;
        text("bytes of GPU certificates", &self.chain, MAX_CHAIN)?;
        self.driver.check()
    }
}

impl DriverState {
    /// Checks the form of both versions.
    ///
    /// # Errors
    /// [`GpuError`] names the version that is malformed.
    pub fn check(&self) -> Result<(), GpuError> {
        version("characters of the driver's version", &self.driver_version)?;
        version("characters of the VBIOS's version", &self.vbios_version)
    }
}

impl GpuCollateral {
    /// Checks the number, the size and the characters of the items.
    ///
    /// # Errors
    /// [`GpuError`] names the limit that is exceeded, or the item that is empty or has a character that is not allowed.
    pub fn check(&self) -> Result<(), GpuError> {
        counted("reference manifests", self.rims.len(), MAX_RIMS)?;
        counted("OCSP responses", self.ocsp.len(), MAX_OCSP_RESPONSES)?;
        for rim in &self.rims {
            text("bytes of a reference manifest", rim, MAX_RIM)?;
        }
        for response in &self.ocsp {
            sized("bytes of an OCSP response", response.0.len(), MAX_OCSP)?;
        }
        Ok(())
    }
}

impl CollateralRequest {
    /// Checks the form.
    ///
    /// # Errors
    /// [`GpuError::EventLog`] for evidence with an event log, and other [`GpuError`]s for malformed needs of a GPU.
    pub fn check(&self) -> Result<(), GpuError> {
        if let Some(Evidence::Tdx { event_log, .. }) = &self.evidence
            && !event_log.0.is_empty()
        {
            return Err(GpuError::EventLog);
        }
        counted("GPUs", self.gpus.len(), MAX_GPUS)?;
        for gpu in &self.gpus {
            rim_name(
                "characters of the name of the driver's manifest",
                &gpu.driver_rim,
            )?;
            rim_name(
                "characters of the name of the VBIOS's manifest",
                &gpu.vbios_rim,
            )?;
            text("bytes of GPU certificates", &gpu.chain, MAX_CHAIN)?;
        }
        Ok(())
    }
}

/// Checks the name of a reference manifest. The name becomes part of a URL and of a file name.
///
/// # Errors
/// [`GpuError`] whose text contains `what`, such as "characters of the name".
pub fn rim_name(what: &'static str, name: &str) -> Result<(), GpuError> {
    sized(what, name.len(), MAX_RIM_NAME)?;
    let allowed = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || "._-".contains(c);
    // With the prefix `NV_` no name can be `.` or `..`.
    match name.starts_with("NV_") && name.chars().all(allowed) {
        true => Ok(()),
        false => Err(GpuError::Character(what)),
    }
}

/// Checks the version of a driver or VBIOS: 1 to [`MAX_VERSION`] characters of `[A-Za-z0-9._-]`.
///
/// # Errors
/// [`GpuError`] whose text contains `what`, such as "characters of the driver's version".
pub fn version(what: &'static str, text: &str) -> Result<(), GpuError> {
    sized(what, text.len(), MAX_VERSION)?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    match text.chars().all(allowed) {
        true => Ok(()),
        false => Err(GpuError::Character(what)),
    }
}

/// Refuses control characters other than line breaks and tabs, so that escaping in JSON at most doubles the length.
fn text(what: &'static str, text: &str, limit: usize) -> Result<(), GpuError> {
    sized(what, text.len(), limit)?;
    let foreign = |c: char| c.is_control() && !matches!(c, '\n' | '\r' | '\t');
    match text.contains(foreign) {
        true => Err(GpuError::Character(what)),
        false => Ok(()),
    }
}

fn counted(what: &'static str, found: usize, limit: usize) -> Result<(), GpuError> {
    match found > limit {
        true => Err(GpuError::TooMany { what, found, limit }),
        false => Ok(()),
    }
}

fn sized(what: &'static str, found: usize, limit: usize) -> Result<(), GpuError> {
    match found {
        0 => Err(GpuError::None(what)),
        found => counted(what, found, limit),
    }
}

#[cfg(test)]
mod tests;
