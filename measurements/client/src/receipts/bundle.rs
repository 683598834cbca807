//! A receipt in a file, with everything that is needed to verify it offline against a manifest. It
//! contains no text of the conversation. Its salt lets the holder test guesses of the text, so it
//! is not for everybody.

use cocoon_measurements::receipt::Expected;
use cocoon_protocol::bytes::{Blob, Hex32};
use cocoon_protocol::document::{Document, DocumentError, MAX_DOCUMENT_LEN};
use cocoon_protocol::pieces::{MAX_PIECES_LEN, Pieces, PiecesError};
use cocoon_protocol::receipt::{Delivery, ReceiptError, SignedReceipt};
use serde::{Deserialize, Serialize};

use super::Session;

/// Version of the file format.
pub const BUNDLE_VERSION: u16 = 1;
/// Largest file, in bytes: a document and its collateral in Base64, and 64 KiB for everything else.
pub const MAX_BUNDLE_LEN: usize = (MAX_DOCUMENT_LEN + MAX_PIECES_LEN).div_ceil(3) * 4 + 64 * 1024;

/// Content of the file, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bundle {
    /// Version of the file format: [`BUNDLE_VERSION`].
    pub version: u16,
    /// Time when the receipt arrived, on the client's clock, in seconds since 1970.
    pub received: u64,
    /// Receipt and signature, in binary form.
    pub receipt: Blob,
    /// Salt of the receipt's commitments.
    pub salt: Hex32,
    /// The session document as it arrived.
    pub document: Blob,
    /// Pieces of collateral that the document names, in any order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub collateral: Vec<Blob>,
    /// SHA-256 of the SubjectPublicKeyInfo that the connection presented.
    pub leaf_spki_sha256: Hex32,
    /// Exporter of the TLS session. The document's evidence commits to it and to the key.
    pub exporter: Hex32,
}

/// Why a file is not a usable bundle.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The file is not JSON of this format.
    #[error("it is not a bundle of a receipt in JSON")]
    Malformed(#[source] serde_json::Error),
    /// The file has another version.
    #[error("it has version {0}, this program knows version {BUNDLE_VERSION}: update it")]
    Version(u16),
    /// The receipt is malformed.
    #[error("its receipt cannot be read")]
    Receipt(#[source] ReceiptError),
    /// The session document is malformed.
    #[error("its session document cannot be read")]
    Document(#[source] DocumentError),
    /// The pieces are not the collateral that the document names.
    #[error("its session document is not whole")]
    Collateral(#[source] PiecesError),
}

impl Bundle {
    /// Makes a bundle of a receipt that passed its checks and its session.
    pub fn new(delivery: &Delivery, session: &Session, received: u64) -> Self {
        Self {
            version: BUNDLE_VERSION,
            received,
            receipt: Blob(delivery.signed.encode().to_vec()),
            salt: delivery.salt,
            document: Blob(session.document.to_vec()),
            collateral: session
                .collateral
                .iter()
                .map(|(_, piece)| Blob(piece.to_vec()))
                .collect(),
            leaf_spki_sha256: session.leaf_spki_sha256,
            exporter: session.exporter,
        }
    }

    /// Parses a bundle. Checks only its form.
    pub fn parse(json: &[u8]) -> Result<Self, BundleError> {
        let bundle: Self = serde_json::from_slice(json).map_err(BundleError::Malformed)?;
        match bundle.version {
            BUNDLE_VERSION => Ok(bundle),
            other => Err(BundleError::Version(other)),
        }
    }

    /// Returns the bundle as JSON.
    pub fn to_json(&self) -> Vec<u8> {
        // Only non-string map keys or failing Serialize impls make this fail: there are none.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Parses the receipt, and returns it with its salt.
    pub fn delivery(&self) -> Result<Delivery, BundleError> {
        let signed = SignedReceipt::parse(&self.receipt.0).map_err(BundleError::Receipt)?;
        let salt = self.salt;
        Ok(Delivery { signed, salt })
    }

    /// Returns the session document with its collateral, and what the receipt must contain under
    /// it.
    pub fn document(&self) -> Result<(Document, Expected), BundleError> {
        let bytes = &self.document.0;
        let parsed = Document::parse(bytes, MAX_DOCUMENT_LEN);
        let mut document = parsed.map_err(BundleError::Document)?;
        let expected = Expected::of(&document, bytes);
        let mut pieces = Pieces::default();
        for piece in &self.collateral {
            pieces.insert(piece.0.clone());
        }
        document.fill(&pieces).map_err(BundleError::Collateral)?;
        Ok((document, expected))
    }
}
