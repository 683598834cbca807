//! Collateral by name (SPEC.md §3.1): a session document names each piece of collateral by its digest, and a client fetches
//! the pieces that it has not kept. The answer has this form:
//!
//! ```text
//! size         field
//! each requested piece, in the order of the request:
//!            4 length of the piece, big-endian
//!   as many    the piece
//! ```

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::bytes::Hex32;
use crate::document::{Collateral, DocumentError, MAX_DOCUMENT_LEN};
use crate::gpu::{GpuCollateral, MAX_OCSP_RESPONSES, MAX_RIMS};

/// Path of requests for pieces, on the connection whose document names them.
pub const COLLATERAL_PATH: &str = "/.well-known/cocoon/collateral";
/// Most certificates of the CPU that a document names.
pub const MAX_CERTIFICATES: usize = 8;
/// Most pieces that a document names: certificates and revocation list of the CPU, and the collateral of the GPUs.
pub const MAX_PIECES: usize = MAX_CERTIFICATES + 1 + MAX_RIMS + MAX_OCSP_RESPONSES;
/// Longest answer to a request for pieces, in bytes.
pub const MAX_PIECES_LEN: usize = MAX_DOCUMENT_LEN;
/// Longest request for pieces, in bytes. It has room for [`MAX_PIECES`] digests in hexadecimal and some white space.
pub const MAX_PIECES_REQUEST: usize = 16 * 1024;

/// Body of `POST /.well-known/cocoon/collateral`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PiecesRequest {
    /// SHA-256 digests of the requested pieces: 1 to [`MAX_PIECES`], each once.
    pub pieces: Vec<Hex32>,
}

/// SHA-256 digests in place of the pieces of collateral, in the same shape as the collateral.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Names {
    /// Digests of the CPU's collateral, with at most [`MAX_CERTIFICATES`] certificates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collateral: Option<Collateral<Hex32>>,
    /// Digests of the GPUs' collateral, with at most [`MAX_RIMS`] manifests and [`MAX_OCSP_RESPONSES`] responses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_collateral: Option<GpuCollateral<Hex32, Hex32>>,
}

/// Pieces of collateral, keyed by the digests of their bytes. The digests are computed here, so no piece can have a wrong
/// name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pieces(BTreeMap<Hex32, Vec<u8>>);

/// Reason why a request for pieces, an answer, or a set of pieces is refused.
#[derive(Debug, thiserror::Error)]
pub enum PiecesError {
    /// The request names no piece, too many, or one twice.
    #[error("a question for collateral names 1 to {MAX_PIECES} pieces, each once")]
    Question,
    /// The answer ends early.
    #[error("the answer ends in the middle of a piece of collateral")]
    Short,
    /// The answer goes on after the last piece.
    #[error("the answer goes on behind the last piece of collateral that was asked for")]
    Behind,
    /// A piece does not have the digest by which it was requested.
    #[error(
        "the piece of collateral {asked} came with the digest {found}: it was exchanged or damaged"
    )]
    Exchanged {
        /// Digest that was requested.
        asked: Hex32,
        /// Digest of the received piece.
        found: Hex32,
    },
    /// A piece that the document names is missing.
    #[error("the piece of collateral {0}, which the document names, is missing")]
    Missing(Hex32),
    /// A reference manifest is not UTF-8.
    #[error(
        "the piece of collateral {0} is no text, and the document names it a reference manifest"
    )]
    NoText(Hex32),
    /// The pieces are too long in total, counted in each place where they are named.
    #[error(
        "the pieces of collateral that the document names have {found} bytes in its places, where {MAX_PIECES_LEN} are allowed"
    )]
    TooLong {
        /// Number of bytes in all places, up to the one that exceeds the limit.
        found: usize,
    },
    /// The document is malformed once its pieces are filled in.
    #[error("with the collateral that it names the document is none")]
    Document(#[source] DocumentError),
}

impl PiecesRequest {
    /// Checks that the request names an allowed number of pieces, each once.
    ///
    /// # Errors
    /// [`PiecesError::Question`] otherwise.
    pub fn check(&self) -> Result<(), PiecesError> {
        let names = &self.pieces;
        let bounded = (1..=MAX_PIECES).contains(&names.len());
        let different = || (1..names.len()).all(|at| !names[..at].contains(&names[at]));
        match bounded && different() {
            true => Ok(()),
            false => Err(PiecesError::Question),
        }
    }
}

impl Names {
    /// Returns the digests in their order, each once.
    pub fn listed(&self) -> Vec<Hex32> {
        let mut once = Vec::new();
        for name in self.places() {
            if !once.contains(&name) {
                once.push(name);
            }
        }
        once
    }

    /// Returns the digests in their order. A digest that is named several times is repeated.
    pub(crate) fn places(&self) -> Vec<Hex32> {
        let mut places = Vec::new();
        match &self.collateral {
            Some(Collateral::Tdx { json }) => places.push(*json),
            Some(Collateral::SevSnp { certificates, crl }) => {
                places.extend(certificates.iter().chain(crl));
            }
            None => {}
        }
        if let Some(GpuCollateral { rims, ocsp }) = &self.gpu_collateral {
            places.extend(rims.iter().chain(ocsp));
        }
        places
    }
}

impl Pieces {
    /// Adds a piece and returns its digest.
    pub fn insert(&mut self, piece: Vec<u8>) -> Hex32 {
        let name = Hex32::sha256(&piece);
        self.0.insert(name, piece);
        name
    }

    /// Adds all pieces of `other`.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Returns the piece with that digest.
    pub fn get(&self, name: &Hex32) -> Option<&[u8]> {
        self.0.get(name).map(Vec::as_slice)
    }

    /// Iterates over all pieces with their digests.
    pub fn iter(&self) -> impl Iterator<Item = (&Hex32, &[u8])> {
        self.0.iter().map(|(name, piece)| (name, piece.as_slice()))
    }

    /// Returns the number of pieces.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Returns the total length of all pieces, in bytes.
    pub fn size(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }

    /// Returns the length of the answer to a request for all these pieces, in bytes.
    pub fn encoded_len(&self) -> usize {
        self.size() + 4 * self.count()
    }

    /// Encodes the answer to a request for `asked`. Returns `None` if a piece is missing.
    pub fn encode(&self, asked: &[Hex32]) -> Option<Vec<u8>> {
        let mut answer = Vec::new();
        for name in asked {
            let piece = self.get(name)?;
            answer.extend_from_slice(&u32::try_from(piece.len()).ok()?.to_be_bytes());
            answer.extend_from_slice(piece);
        }
        Some(answer)
    }

    /// Decodes the answer to a request for `asked`.
    ///
    /// # Errors
    /// [`PiecesError`] if a piece does not have the requested digest, or if the answer ends early or goes on after the last
    /// piece.
    pub fn decode(answer: &[u8], asked: &[Hex32]) -> Result<Self, PiecesError> {
        let mut pieces = Self::default();
        let mut rest = answer;
        for name in asked {
            let (length, behind) = rest.split_first_chunk::<4>().ok_or(PiecesError::Short)?;
            let length = usize::try_from(u32::from_be_bytes(*length));
            let split = length
                .ok()
                .and_then(|length| behind.split_at_checked(length));
            let (piece, behind) = split.ok_or(PiecesError::Short)?;
            let found = Hex32::sha256(piece);
            if found != *name {
                let asked = *name;
                return Err(PiecesError::Exchanged { asked, found });
            }
            pieces.0.insert(found, piece.to_vec());
            rest = behind;
        }
        match rest {
            [] => Ok(pieces),
            _ => Err(PiecesError::Behind),
        }
    }
}

#[cfg(test)]
mod tests;
