//! The attestation document (SPEC.md §3): the JSON that a guest gives to a verifier.
//!
//! Every part of it is either bound by the CPU's report data (claims, nonce, exporter) or authenticates itself (quote, report,
//! collateral; the event log by the measurement registers).

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
/// Largest session document that a verifier reads, evidence and collateral together, in bytes.
pub const MAX_DOCUMENT_LEN: usize = 4 * 1024 * 1024;
/// Largest document in the certificate's extension, in bytes.
pub const MAX_BOOT_DOCUMENT_LEN: usize = 16 * 1024;
/// Path of the nonce exchange, the only first request of a connection that a guest answers.
pub const ATTEST_PATH: &str = "/.well-known/cocoon/attest";
/// Object identifier of the critical certificate extension that carries the boot document. Its value is the document's JSON.
/// The last arc fits in 28 bits, which is four base-128 bytes, because common decoders (const-oid 0.9, and with it x509-cert
/// 0.2 and sev) refuse most larger arcs.
pub const EVIDENCE_OID: &str = "2.25.246214497";
/// Object identifier of the critical extension that marks a development root. Its value is the ASN.1 NULL (`05 00`).
pub const DEVELOPMENT_ROOT_OID: &str = "2.25.246214498";

/// Body of `POST /.well-known/cocoon/attest`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttestRequest {
    /// Fresh nonce of 32 random bytes.
    pub nonce: Hex32,
}

/// The attestation document. The guest answers the nonce exchange with it; its certificate carries a boot document, without
/// event log and collateral.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// Version of the schema: [`DOCUMENT_VERSION`].
    pub version: u16,
    /// Binding that the evidence commits to.
    pub kind: Kind,
    /// Claims to which the evidence is bound.
    pub claims: Claims,
    /// The client's nonce as the guest received it; zero in a boot document. The verifier compares it with the nonce that it
    /// sent, and takes the exporter from its own TLS session.
    pub nonce: Hex32,
    /// Evidence of the CPU.
    pub evidence: Evidence,
    /// Canonical bytes of the operator's configuration; see [`crate::config`].
    pub config: Blob,
    /// Endorsements of the CPU, fetched by the host. Absent in a boot document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collateral: Option<Collateral>,
    /// Position of this session in the batch that shares the evidence. Absent if the evidence is for this session alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<Batch>,
    /// Evidence of the GPUs. Absent without GPUs, and in a boot document, whose claims commit to the GPUs' keys only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<GpuSection>,
    /// NVIDIA's endorsements of the GPUs. Absent if `gpu` is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_collateral: Option<GpuCollateral>,
    /// Digests of both collaterals, in place of the collaterals while the document travels over a session. Whole documents,
    /// which are appraised and kept, have none; see [`Document::fill`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub named: Option<Names>,
}

/// Kind of binding to which the report data commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The boot binding, [`crate::binding::boot`].
    Boot,
    /// A session binding, [`crate::binding::session`].
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
        /// Certificates that the firmware returned with the report: VCEK or VLEK, ASK, ARK, each in DER. May be empty, because
        /// the collateral can supply them.
        certificates: Vec<Blob>,
    },
}

impl Evidence {
    /// Returns the TEE that made this evidence.
    pub fn tee(&self) -> Tee {
        match self {
            Evidence::Tdx { .. } => Tee::Tdx,
            Evidence::SevSnp { .. } => Tee::SevSnp,
        }
    }
}

/// Endorsements of the CPU, fetched by the untrusted host and stapled by the guest. Each item authenticates itself by its
/// signature chain. With another type parameter the same shape holds the digests of the items; see [`Names`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    rename_all = "kebab-case",
    rename_all_fields = "snake_case",
    deny_unknown_fields
)]
pub enum Collateral<Piece = Blob> {
    /// Intel's collateral as the PCS serves it (JSON of `dcap_qvl::QuoteCollateralV3`).
    Tdx {
        /// The collateral in UTF-8 JSON.
        json: Piece,
    },
    /// AMD's certificate chain and revocation list, each in DER.
    SevSnp {
        /// The certificates VCEK or VLEK, ASK, ARK.
        certificates: Vec<Piece>,
        /// Certificate revocation list of the ARK, if the host has one.
        crl: Option<Piece>,
    },
}

/// Reason why bytes are not a valid attestation document.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// The document is longer than its source allows.
    #[error("attestation document of {found} bytes exceeds the limit of {limit}")]
    TooLong {
        /// Bytes found.
        found: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The bytes are not JSON of the schema.
    #[error("attestation document is not JSON of the expected schema")]
    Malformed(#[source] serde_json::Error),
    /// The document has another version of the schema.
    #[error(
        "attestation document has version {0}, this verifier knows version {DOCUMENT_VERSION}: update it"
    )]
    Version(u16),
    /// The TEE of the evidence is not the one in the claims.
    #[error("attestation document claims {claimed} but carries evidence of {found}")]
    TeeMismatch {
        /// TEE named in the claims.
        claimed: Tee,
        /// TEE of the evidence.
        found: Tee,
    },
    /// The position in the batch is malformed.
    #[error("attestation document has a place in a batch that there cannot be")]
    Batch(#[source] BatchError),
    /// A boot document has a position in a batch, but only sessions share evidence.
    #[error(
        "attestation document of the boot has a place in a batch: only sessions share evidence"
    )]
    SharedBoot,
    /// The GPU section is malformed.
    #[error("attestation document has a GPU section of no form")]
    Gpu(#[source] SectionError),
    /// The GPUs' collateral is malformed.
    #[error("attestation document has collateral of GPUs of no form")]
    GpuCollateral(#[source] GpuError),
    /// There is GPU evidence or GPU collateral in a boot document, or GPU collateral without a GPU section.
    #[error(
        "attestation document has evidence or collateral of GPUs where none has a place: in a boot document, or without a \
         GPU section"
    )]
    StrayGpu,
    /// A boot document names collateral.
    #[error("attestation document of the boot names collateral: only those of sessions have some")]
    NamedInBoot,
    /// The document both names and holds one of its collaterals.
    #[error("attestation document names collateral that it holds as well: one or the other")]
    NamedAndHeld,
    /// The document names more items of one kind than it may.
    #[error("attestation document names {found} {what}, where at most {limit} are allowed")]
    TooManyNames {
        /// Kind of item, in the plural.
        what: &'static str,
        /// Number of items named.
        found: usize,
        /// Number of items allowed.
        limit: usize,
    },
}

impl Document {
    /// Parses a document and checks its form, but not whether it can be trusted. `limit` is [`MAX_DOCUMENT_LEN`] or
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

    /// Checks the form of a document that was assembled in memory. [`Document::parse`] already does this.
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

    /// Returns the document as JSON.
    pub fn to_json(&self) -> Vec<u8> {
        // Serialisation fails only for non-string map keys or failing `Serialize` implementations, and there are none.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
