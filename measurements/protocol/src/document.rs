//! The attestation document (SPEC.md §3): what a guest hands to a verifier, in JSON.
//!
//! Everything in it is either bound by the CPU's report data (the claims, the nonce, the exporter)
//! or authenticates itself (quote, report, collateral, event log against the registers).

use serde::{Deserialize, Serialize};

use crate::batch::{Batch, BatchError};
use crate::binding::{Claims, Tee};
use crate::bytes::{Blob, Hex32};
use crate::gpu::{GpuCollateral, GpuError};
use crate::gpu_section::{GpuSection, SectionError};
use crate::pieces::Names;

mod naming;

/// Version of the document's schema.
pub const DOCUMENT_VERSION: u16 = 1;
/// Largest document that a verifier reads over the session: evidence and collateral, in bytes.
pub const MAX_DOCUMENT_LEN: usize = 4 * 1024 * 1024;
/// Largest document in the certificate's extension, in bytes.
pub const MAX_BOOT_DOCUMENT_LEN: usize = 16 * 1024;
/// Path of the nonce exchange, and the only first request that a guest answers.
pub const ATTEST_PATH: &str = "/.well-known/cocoon/attest";
/// Object identifier of the certificate extension that carries the boot document: critical, its
/// value is the document's JSON bytes. The last arc fits 28 bits, four bytes of base 128, because
/// common decoders (const-oid 0.9, and with it x509-cert 0.2 and sev) refuse most larger ones.
pub const EVIDENCE_OID: &str = "2.25.246214497";
/// Object identifier of the critical extension that marks a development root; its value is the
/// ASN.1 NULL (`05 00`).
pub const DEVELOPMENT_ROOT_OID: &str = "2.25.246214498";

/// Body of `POST /.well-known/cocoon/attest`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttestRequest {
    /// 32 fresh random bytes.
    pub nonce: Hex32,
}

/// What the guest answers, and, without event log and collateral, what its certificate carries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// [`DOCUMENT_VERSION`].
    pub version: u16,
    /// Whether the evidence commits to the boot or to the session binding.
    pub kind: Kind,
    /// The bound claims.
    pub claims: Claims,
    /// The client's nonce, as the guest received it; zero in a boot document. The verifier
    /// compares it with the one it sent and takes the exporter from its own TLS session.
    pub nonce: Hex32,
    /// Evidence of the CPU.
    pub evidence: Evidence,
    /// The operator's configuration: its canonical bytes, see [`crate::config`].
    pub config: Blob,
    /// Endorsements that the host fetched. Absent in the boot document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collateral: Option<Collateral>,
    /// This session's place among those that share the evidence; absent where it is of this one alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<Batch>,
    /// Evidence of the GPUs. Absent without GPUs, and in the boot document, whose claims name their keys alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<GpuSection>,
    /// What NVIDIA says about them. Absent where `gpu` is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_collateral: Option<GpuCollateral>,
    /// What stands in place of both collaterals where the document travels over a session: their digests. Whole documents,
    /// which are judged and kept, have none: see [`Document::fill`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub named: Option<Names>,
}

/// Which binding the report data commits to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// [`crate::binding::boot`].
    Boot,
    /// [`crate::binding::session`].
    Session,
}

/// Evidence of the CPU, one variant per TEE.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    rename_all = "kebab-case",
    rename_all_fields = "snake_case",
    deny_unknown_fields
)]
pub enum Evidence {
    /// Intel TDX.
    Tdx {
        /// DCAP quote, version 4 or 5.
        quote: Blob,
        /// CCEL event log; empty in a boot document.
        event_log: Blob,
    },
    /// AMD SEV-SNP.
    SevSnp {
        /// Attestation report, 1184 bytes.
        report: Blob,
        /// The certificates that the firmware handed out with it: VCEK or VLEK, ASK, ARK, each DER.
        /// May be empty: the collateral can supply them.
        certificates: Vec<Blob>,
    },
}

impl Evidence {
    /// The TEE that this evidence is of.
    pub fn tee(&self) -> Tee {
        match self {
            Evidence::Tdx { .. } => Tee::Tdx,
            Evidence::SevSnp { .. } => Tee::SevSnp,
        }
    }
}

/// Endorsements and revocation data, fetched by the untrusted host and stapled by the guest. Each
/// item authenticates itself by its signature chain. The same shape holds their digests: see [`Names`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    rename_all = "kebab-case",
    rename_all_fields = "snake_case",
    deny_unknown_fields
)]
pub enum Collateral<Piece = Blob> {
    /// Intel's, as the PCS serves it (JSON of `dcap_qvl::QuoteCollateralV3`).
    Tdx {
        /// UTF-8 JSON.
        json: Piece,
    },
    /// AMD's: chain and CRL, each DER.
    SevSnp {
        /// VCEK or VLEK, ASK, ARK.
        certificates: Vec<Piece>,
        /// Certificate revocation list of the ARK, when the host has one.
        crl: Option<Piece>,
    },
}

/// Why a document's bytes are not a document.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// Longer than the place it came from allows.
    #[error("attestation document of {found} bytes exceeds the limit of {limit}")]
    TooLong {
        /// Bytes found.
        found: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// Not JSON of the schema.
    #[error("attestation document is not JSON of the expected schema")]
    Malformed(#[source] serde_json::Error),
    /// Another version of the schema.
    #[error(
        "attestation document has version {0}, this verifier knows version {DOCUMENT_VERSION}: update it"
    )]
    Version(u16),
    /// The evidence is of another TEE than the claims.
    #[error("attestation document claims {claimed} but carries evidence of {found}")]
    TeeMismatch {
        /// TEE named in the claims.
        claimed: Tee,
        /// TEE of the evidence.
        found: Tee,
    },
    /// There is no such place in a batch.
    #[error("attestation document has a place in a batch that there cannot be")]
    Batch(#[source] BatchError),
    /// Sessions share evidence, boots do not.
    #[error(
        "attestation document of the boot has a place in a batch: only sessions share evidence"
    )]
    SharedBoot,
    /// The section is none.
    #[error("attestation document has a GPU section of no form")]
    Gpu(#[source] SectionError),
    /// NVIDIA's word has no such form.
    #[error("attestation document has collateral of GPUs of no form")]
    GpuCollateral(#[source] GpuError),
    /// Boots name keys, and collateral is about evidence.
    #[error(
        "attestation document has evidence or collateral of GPUs where none has a place: in a boot document, or without a \
         GPU section"
    )]
    StrayGpu,
    /// A boot document has no collateral.
    #[error("attestation document of the boot names collateral: only those of sessions have some")]
    NamedInBoot,
    /// Both at once.
    #[error("attestation document names collateral that it holds as well: one or the other")]
    NamedAndHeld,
    /// More than travels.
    #[error("attestation document names {found} {what}, where at most {limit} are allowed")]
    TooManyNames {
        /// Of what, in the plural.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// How many there may be.
        limit: usize,
    },
}

impl Document {
    /// Parses and checks form, never trustworthiness. `limit` is [`MAX_DOCUMENT_LEN`] or
    /// [`MAX_BOOT_DOCUMENT_LEN`].
    pub fn parse(bytes: &[u8], limit: usize) -> Result<Self, DocumentError> {
        if bytes.len() > limit {
            return Err(DocumentError::TooLong {
                found: bytes.len(),
                limit,
            });
        }
        let document: Self = serde_json::from_slice(bytes).map_err(DocumentError::Malformed)?;
        document.check()?;
        Ok(document)
    }

    /// Checks the form of a document that was put together otherwise; [`Document::parse`] has done it.
    pub fn check(&self) -> Result<(), DocumentError> {
        if self.version != DOCUMENT_VERSION {
            return Err(DocumentError::Version(self.version));
        }
        let (claimed, found) = (self.claims.tee, self.evidence.tee());
        if claimed != found {
            return Err(DocumentError::TeeMismatch { claimed, found });
        }
        match &self.batch {
            Some(_) if self.kind == Kind::Boot => return Err(DocumentError::SharedBoot),
            Some(batch) => batch.check().map_err(DocumentError::Batch)?,
            None => {}
        }
        self.check_names()?;
        self.check_gpus()
    }

    fn check_gpus(&self) -> Result<(), DocumentError> {
        match (&self.gpu, &self.gpu_collateral) {
            (None, None) => return Ok(()),
            (Some(_), _) if self.kind == Kind::Session => {}
            _ => return Err(DocumentError::StrayGpu),
        }
        if let Some(section) = &self.gpu {
            section
                .check(self.batch.is_some())
                .map_err(DocumentError::Gpu)?;
        }
        match &self.gpu_collateral {
            Some(collateral) => collateral.check().map_err(DocumentError::GpuCollateral),
            None => Ok(()),
        }
    }

    /// The document as JSON.
    pub fn to_json(&self) -> Vec<u8> {
        // Only maps with non-string keys or failing Serialize impls make this fail: there are none.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
