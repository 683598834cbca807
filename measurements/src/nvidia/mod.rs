//! Offline verification of attestation evidence of NVIDIA GPUs (Hopper): report, certificate chain, reference manifests
//! and revocation status.
//!
//! [`appraise`] is a pure function: all its inputs are arguments, and it returns one row with a reason for each check.
//! SPEC.md §12, "NVIDIA GPUs", defines the rows. A GPU's report names no VM. The nonce ties the report to one VM: the
//! caller derives the nonce from the data that the CPU's evidence covers, and passes it in.
//!
//! | module | content |
//! |---|---|
//! | [`spdm`], [`opaque`] | the report: an SPDM request with its response |
//! | `certificate`, `chain`, `root` | P-384 certificates, the GPU's chain of five, and trust in its root |
//! | `xml`, `signature`, [`rim`] | reference manifests: canonical form, signature, measurements |
//! | [`ocsp`], `revocation` | the revocation status of NVIDIA's certificates |
//! | `known` | cache of signatures that were verified before |
//! | `manifests`, `golden` | the manifests for a report's versions, and the comparison of its measurements with them |
//! | [`fetching`] | helpers for programs that fetch collateral |
//! | `device`, `set` | verification of one GPU, and of all GPUs of a machine |

mod certificate;
mod chain;
mod device;
pub mod fetching;
mod golden;
mod known;
mod manifests;
pub mod ocsp;
pub mod opaque;
mod revocation;
pub mod rim;
mod root;
mod set;
mod signature;
#[cfg(any(test, feature = "simulated"))]
pub mod simulated;
pub mod spdm;
mod xml;

use cocoon_protocol::{bytes::Hex32, gpu::CollectedGpu};

use crate::{roots::RootClass, verdict::Check};

pub use certificate::CertificateError;
pub use chain::{CHAIN_LENGTH, FirmwareIdError};
/// Limits shared with the wire format, so that all that may be sent can also be read.
pub use cocoon_protocol::gpu::{DriverState, MAX_CHAIN, MAX_GPUS, MAX_OCSP_RESPONSES, MAX_RIMS};
pub use known::Known;
pub use manifests::verify_manifest;
pub use root::presented_roots;
pub use set::{appraise, appraise_knowing};
pub use signature::SignatureError;
pub use xml::{MAX_XML, XmlError};

/// Evidence of one GPU.
#[derive(Clone, Copy, Debug)]
pub struct GpuEvidence<'a> {
    /// The attestation report: SPDM request and response, as the driver returns them.
    pub report: &'a [u8],
    /// The five certificates in PEM, that of the attestation key first.
    pub chain: &'a [u8],
    /// The driver's statement on the GPU's mode; `None` if the driver was not asked. No signature of the GPU covers it, so
    /// it is only as trustworthy as the measured guest that asked the driver.
    pub driver: Option<&'a DriverState>,
}

impl<'a> GpuEvidence<'a> {
    /// Borrows the evidence that a guest collected, including the driver's statement.
    #[must_use]
    pub fn of(gpu: &'a CollectedGpu) -> Self {
        Self {
            report: &gpu.report.0,
            chain: gpu.chain.as_bytes(),
            driver: Some(&gpu.driver),
        }
    }
}

/// NVIDIA's endorsements and reference values. They are signed, so that any untrusted party may fetch them.
#[derive(Clone, Copy, Debug, Default)]
pub struct GpuCollateral<'a> {
    /// Reference manifests (RIM) in XML.
    pub rims: &'a [&'a [u8]],
    /// OCSP responses in DER.
    pub ocsp: &'a [&'a [u8]],
}

/// What the verifier expects of the GPUs, from its own knowledge.
#[derive(Clone, Copy, Debug)]
pub struct GpuDemand {
    /// The nonce that every report must answer.
    pub nonce: [u8; 32],
    /// Expected number of GPUs. `None` means any number from one on.
    pub count: Option<usize>,
    /// Whether the driver's statement on each GPU's mode is required.
    pub driver_state: bool,
}

/// Result of the appraisal of a machine's GPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuAppraisal {
    /// All checks, in the order in which they were made. One failed check rejects the evidence.
    pub checks: Vec<Check>,
    /// The class of the roots that the chains end in: [`RootClass::Development`] if any of them is a development root,
    /// `None` if nothing was verified.
    pub root: Option<RootClass>,
    /// The GPUs whose reports were verified, in the order in which they were presented.
    pub gpus: Vec<Gpu>,
    /// Whether a GPU is in developer mode, as its driver reports. Even where the policy accepts this, the GPU protects
    /// nothing and is worth no more than a simulated one.
    pub developer_mode: bool,
    /// Whether the only fault is a lapse: a revocation status from NVIDIA is missing or out of date. All else that the GPUs
    /// present, including their measurements, passed.
    pub lapsed: bool,
}

/// Claims of a verified report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// SHA-256 of the SubjectPublicKeyInfo of the device identity key, which never changes.
    pub device: Hex32,
    /// SHA-256 of the SubjectPublicKeyInfo of the attestation key, which changes with the firmware.
    pub attestation_key: Hex32,
    /// Version of the driver.
    pub driver_version: String,
    /// Version of the VBIOS.
    pub vbios_version: String,
    /// Identifier under which NVIDIA publishes the driver's reference manifest.
    pub driver_rim: String,
    /// Identifier under which NVIDIA publishes the VBIOS's reference manifest.
    pub vbios_rim: String,
}

impl GpuAppraisal {
    /// Whether a check failed, or no chain was verified.
    #[must_use]
    pub fn is_rejected(&self) -> bool {
        use crate::verdict::Outcome;
        self.root.is_none()
            || self
                .checks
                .iter()
                .any(|check| check.outcome == Outcome::Fail)
    }
}

#[cfg(test)]
mod tests;
