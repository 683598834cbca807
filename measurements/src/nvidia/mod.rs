//! Evidence of NVIDIA's GPUs (Hopper), verified offline: report, certificates, reference manifests, revocation.
//!
//! [`appraise`] is a pure function: everything that it judges by is an argument, and every check is a row with its
//! reason. What each row means stands in SPEC.md, "NVIDIA GPUs". A GPU's report names no VM: it is bound to one by the
//! nonce that is asked for here, which whoever calls derives from what the CPU's evidence covers.
//!
//! | module | reads or judges |
//! |---|---|
//! | [`spdm`], [`opaque`] | the report: an SPDM request with its response |
//! | `certificate`, `chain`, `root` | certificates on P-384, the GPU's five, under whose root |
//! | `xml`, `signature`, [`rim`] | reference manifests: canonical form, signature, measurements |
//! | [`ocsp`], `revocation` | what NVIDIA says of its certificates today |
//! | `known` | signatures that held before |
//! | `manifests`, `golden` | the right manifests for a report, and whether it says what they expect |
//! | [`fetching`] | what whoever fetches collateral asks for |
//! | `device`, `set` | one GPU, and all of a machine |

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
/// What may travel is what is read: one bound for each.
pub use cocoon_protocol::gpu::{DriverState, MAX_CHAIN, MAX_GPUS, MAX_OCSP_RESPONSES, MAX_RIMS};
pub use known::Known;
pub use manifests::verify_manifest;
pub use root::presented_roots;
pub use set::{appraise, appraise_knowing};
pub use signature::SignatureError;
pub use xml::{MAX_XML, XmlError};

/// What one GPU shows.
#[derive(Clone, Copy, Debug)]
pub struct GpuEvidence<'a> {
    /// The attestation report: SPDM request and response, as the driver hands them out.
    pub report: &'a [u8],
    /// The five certificates in PEM, the attestation key's first.
    pub chain: &'a [u8],
    /// What the driver says of the GPU's mode; nothing where nobody asked it. No signature of the GPU covers it: it is
    /// worth as much as the measured guest that asked.
    pub driver: Option<&'a DriverState>,
}

impl<'a> GpuEvidence<'a> {
    /// What a guest collected, the driver's word with it.
    #[must_use]
    pub fn of(gpu: &'a CollectedGpu) -> Self {
        Self {
            report: &gpu.report.0,
            chain: gpu.chain.as_bytes(),
            driver: Some(&gpu.driver),
        }
    }
}

/// What NVIDIA says about devices, drivers and certificates, fetched by whoever: it vouches for itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct GpuCollateral<'a> {
    /// Reference manifests, XML.
    pub rims: &'a [&'a [u8]],
    /// OCSP responses, DER.
    pub ocsp: &'a [&'a [u8]],
}

/// What the verifier knows on its own.
#[derive(Clone, Copy, Debug)]
pub struct GpuDemand {
    /// The nonce that every report must be about.
    pub nonce: [u8; 32],
    /// How many GPUs there must be; at least one where nothing is known.
    pub count: Option<usize>,
    /// The driver's word on each GPU's mode is needed.
    pub driver_state: bool,
}

/// What the checks came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuAppraisal {
    /// Every check, in the order in which they were made; one that failed rejects.
    pub checks: Vec<Check>,
    /// Whose roots vouched: [`RootClass::Development`] when it was one anywhere; `None` when nothing was verified.
    pub root: Option<RootClass>,
    /// The GPUs whose reports were verified, in the order in which they were shown.
    pub gpus: Vec<Gpu>,
    /// A GPU is in developer mode, as its driver says. Where the policy accepts that, nothing is protected all the same:
    /// it is worth no more than a simulated one.
    pub developer_mode: bool,
    /// Something failed, and nothing but this: an answer of NVIDIA's on revocation is absent or over its time. What the GPUs
    /// show is what it must be then, measurements included.
    pub lapsed: bool,
}

/// What a verified report says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// SHA-256 of the key (SubjectPublicKeyInfo) of the device's identity, which it keeps for its life.
    pub device: Hex32,
    /// SHA-256 of the attestation key (SubjectPublicKeyInfo), which changes with the firmware.
    pub attestation_key: Hex32,
    /// The driver's version.
    pub driver_version: String,
    /// The VBIOS version.
    pub vbios_version: String,
    /// Under which name NVIDIA keeps the driver's reference manifest.
    pub driver_rim: String,
    /// Under which name NVIDIA keeps the VBIOS's reference manifest.
    pub vbios_rim: String,
}

impl GpuAppraisal {
    /// Whether a check failed.
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
