//! GPUs: what one shows of itself, what NVIDIA says about it, and what is asked for on its behalf.
//!
//! Shapes only. Reports, certificates and manifests authenticate themselves, and `cocoon-measurements` judges them; what
//! the driver says is the word of the measured guest that asked it.

pub mod collector;

use serde::{Deserialize, Serialize};

use crate::bytes::Blob;
use crate::document::Evidence;

/// Most GPUs of a machine.
pub const MAX_GPUS: usize = 16;
/// Largest report, in bytes: NVML's buffer has as many.
pub const MAX_REPORT: usize = 8 * 1024;
/// Largest chain of certificates in PEM, in bytes: NVML's buffer has 5 KiB.
pub const MAX_CHAIN: usize = 8 * 1024;
/// Longest version of a driver or a VBIOS, in characters.
pub const MAX_VERSION: usize = 64;
/// Longest name of a reference manifest, in characters.
pub const MAX_RIM_NAME: usize = 160;
/// Most reference manifests that travel.
pub const MAX_RIMS: usize = 32;
/// Largest reference manifest, in bytes.
pub const MAX_RIM: usize = 64 * 1024;
/// Most OCSP responses that travel.
pub const MAX_OCSP_RESPONSES: usize = 64;
/// Largest OCSP response, in bytes.
pub const MAX_OCSP: usize = 16 * 1024;

/// What one GPU shows, as it stands in a document: in JSON at most 23 KB.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CollectedGpu {
    /// Attestation report: SPDM request and response, at most [`MAX_REPORT`] bytes.
    pub report: Blob,
    /// Certificates in PEM, the attestation key's first, at most [`MAX_CHAIN`] characters. Text, not Base64 of it: that
    /// would be a third longer.
    pub chain: String,
    /// What the driver says of the GPU. No signature of the GPU covers it.
    pub driver: DriverState,
}

/// What the driver (NVML) says of a GPU and of the mode it is in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DriverState {
    /// Confidential computing is on.
    pub confidential_computing: bool,
    /// In developer mode everything works and nothing is protected.
    pub developer_mode: bool,
    /// Several GPUs under PCIe protection.
    pub protected_pcie: bool,
    /// The driver's version, at most [`MAX_VERSION`] characters of `[A-Za-z0-9._-]`.
    pub driver_version: String,
    /// The VBIOS version, likewise.
    pub vbios_version: String,
}

/// NVIDIA's word on drivers, firmware and certificates, fetched by the untrusted host and stapled by the guest. Each item
/// authenticates itself. The same shape holds their digests: see [`Names`](crate::pieces::Names).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpuCollateral<Manifest = String, Response = Blob> {
    /// Reference manifests: the XML as it is.
    pub rims: Vec<Manifest>,
    /// OCSP responses, DER.
    pub ocsp: Vec<Response>,
}

/// How one GPU is used and how warm it is, as its driver says: numbers alone, each absent where the driver does not tell it,
/// which a GPU in confidential computing may have it refuse. Never zero in place of nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpuMetrics {
    /// Its memory, in bytes.
    pub memory_bytes: Option<u64>,
    /// What of it is in use, in bytes: weights and caches of all requests together.
    pub memory_used_bytes: Option<u64>,
    /// Its temperature in whole degrees Celsius.
    pub temperature_celsius: Option<u16>,
}

/// For which evidence a guest needs endorsements. Nothing in it is secret: any client is shown the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CollateralRequest {
    /// Evidence of the CPU, of the boot: its certificate or its chip and patch levels say what Intel or AMD has to be
    /// asked for. Its event log is empty. Absent where the CPU is simulated.
    pub evidence: Option<Evidence>,
    /// One for each GPU, at most [`MAX_GPUS`].
    pub gpus: Vec<GpuNeeds>,
}

/// What one GPU's evidence is to be judged with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpuNeeds {
    /// Under which name NVIDIA keeps the driver's manifest, at most [`MAX_RIM_NAME`] characters of `[A-Z0-9._-]`.
    pub driver_rim: String,
    /// Under which name NVIDIA keeps the VBIOS's manifest, likewise.
    pub vbios_rim: String,
    /// The GPU's certificates in PEM, of which revocation is asked: at most [`MAX_CHAIN`] bytes.
    pub chain: String,
}

/// A value that there cannot be. The text never repeats foreign content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GpuError {
    /// More of something than is allowed.
    #[error("{found} {what}, where at most {limit} are allowed")]
    TooMany {
        /// Of what, in the plural.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// How many there may be.
        limit: usize,
    },
    /// None of something where there must be some.
    #[error("no {0}, where there must be some")]
    None(&'static str),
    /// A character that does not belong there.
    #[error("the {0} hold one that does not belong there")]
    Character(&'static str),
    /// GPUs out of order, or one twice.
    #[error("GPUs are not listed once each by their address")]
    Order,
    /// Something that is not carried here.
    #[error("the event log travels with a session's evidence only")]
    EventLog,
}

impl CollectedGpu {
    /// Checks form, never trustworthiness.
    ///
    /// # Errors
    /// [`GpuError`] names what is too large, empty or of foreign characters.
    pub fn check(&self) -> Result<(), GpuError> {
        sized("bytes of GPU report", self.report.0.len(), MAX_REPORT)?;
        text("bytes of GPU certificates", &self.chain, MAX_CHAIN)?;
        self.driver.check()
    }
}

impl DriverState {
    /// Checks form.
    ///
    /// # Errors
    /// [`GpuError`] of a version.
    pub fn check(&self) -> Result<(), GpuError> {
        version("characters of the driver's version", &self.driver_version)?;
        version("characters of the VBIOS's version", &self.vbios_version)
    }
}

impl GpuCollateral {
    /// Checks number and size of its items.
    ///
    /// # Errors
    /// [`GpuError::TooMany`] or [`GpuError::None`].
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
    /// Checks form.
    ///
    /// # Errors
    /// [`GpuError`] of a GPU's needs, or [`GpuError::EventLog`].
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

/// Whether this can be the name of a reference manifest, which becomes part of an address and of a file's name.
///
/// # Errors
/// [`GpuError`] with `what` in its text, such as "characters of the name".
pub fn rim_name(what: &'static str, name: &str) -> Result<(), GpuError> {
    sized(what, name.len(), MAX_RIM_NAME)?;
    let allowed = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || "._-".contains(c);
    // A name begins with NV_: no name is `.` or `..`.
    match name.starts_with("NV_") && name.chars().all(allowed) {
        true => Ok(()),
        false => Err(GpuError::Character(what)),
    }
}

/// Checks the version of a driver or of a VBIOS: 1 to [`MAX_VERSION`] characters of `[A-Za-z0-9._-]`.
///
/// # Errors
/// [`GpuError`] with `what` in its text, such as "characters of the driver's version".
pub fn version(what: &'static str, text: &str) -> Result<(), GpuError> {
    sized(what, text.len(), MAX_VERSION)?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    match text.chars().all(allowed) {
        true => Ok(()),
        false => Err(GpuError::Character(what)),
    }
}

/// Text without control characters but line breaks and tabs, so that escapes at most double it in JSON.
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
