//! Collateral by name (SPEC.md §3.1): the document of a session names each piece by its digest, and a client fetches those
//! pieces that it has not kept from another time.
//!
//! ```text
//! size         field
//! each piece that was asked for, in the order of the question:
//!            4 bytes of the piece, big-endian
//!   as many    the piece
//! ```

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::bytes::Hex32;
use crate::document::{Collateral, DocumentError, MAX_DOCUMENT_LEN};
use crate::gpu::{GpuCollateral, MAX_OCSP_RESPONSES, MAX_RIMS};

/// Path of the question for pieces, on the connection whose document names them.
pub const COLLATERAL_PATH: &str = "/.well-known/cocoon/collateral";
/// Most certificates of a CPU's chain that a document names.
pub const MAX_CERTIFICATES: usize = 8;
/// Most pieces that a document names: a chain and its revocation list, and what travels of GPUs.
pub const MAX_PIECES: usize = MAX_CERTIFICATES + 1 + MAX_RIMS + MAX_OCSP_RESPONSES;
/// Longest answer, in bytes.
pub const MAX_PIECES_LEN: usize = MAX_DOCUMENT_LEN;
/// Longest question, in bytes: as many digests in hexadecimal, and some white space.
pub const MAX_PIECES_REQUEST: usize = 16 * 1024;

/// Body of `POST /.well-known/cocoon/collateral`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PiecesRequest {
    /// SHA-256 of each piece that is asked for: 1 to [`MAX_PIECES`], each once.
    pub pieces: Vec<Hex32>,
}

/// Collateral by the SHA-256 digests of its pieces, in the shapes of the collateral itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Names {
    /// Of the CPU's vendor: at most [`MAX_CERTIFICATES`] certificates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collateral: Option<Collateral<Hex32>>,
    /// Of the GPUs': at most [`MAX_RIMS`] manifests and [`MAX_OCSP_RESPONSES`] responses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_collateral: Option<GpuCollateral<Hex32, Hex32>>,
}

/// Pieces of collateral by the digests of their bytes, which are computed here: none can stand under a foreign name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pieces(BTreeMap<Hex32, Vec<u8>>);

/// Why pieces are not what a document names.
#[derive(Debug, thiserror::Error)]
pub enum PiecesError {
    /// A question for none, too many, or one twice.
    #[error("a question for collateral names 1 to {MAX_PIECES} pieces, each once")]
    Question,
    /// An answer that is cut short.
    #[error("the answer ends in the middle of a piece of collateral")]
    Short,
    /// An answer with more in it.
    #[error("the answer goes on behind the last piece of collateral that was asked for")]
    Behind,
    /// Other bytes than those that were named.
    #[error(
        "the piece of collateral {asked} came with the digest {found}: it was exchanged or damaged"
    )]
    Exchanged {
        /// The digest that the document names.
        asked: Hex32,
        /// The digest of what came.
        found: Hex32,
    },
    /// A piece that nobody has.
    #[error("the piece of collateral {0}, which the document names, is missing")]
    Missing(Hex32),
    /// A reference manifest that is no text.
    #[error(
        "the piece of collateral {0} is no text, and the document names it a reference manifest"
    )]
    NoText(Hex32),
    /// More than a document holds, though each piece travelled once.
    #[error(
        "the pieces of collateral that the document names have {found} bytes in its places, where {MAX_PIECES_LEN} are allowed"
    )]
    TooLong {
        /// Bytes in all places, up to the one that is too much.
        found: usize,
    },
    /// With its pieces the document has no form.
    #[error("with the collateral that it names the document is none")]
    Document(#[source] DocumentError),
}

impl PiecesRequest {
    /// Checks number and difference of the names.
    ///
    /// # Errors
    /// [`PiecesError::Question`].
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
    /// The digests in the order in which they stand, each once.
    pub fn listed(&self) -> Vec<Hex32> {
        let mut once = Vec::new();
        for name in self.places() {
            if !once.contains(&name) {
                once.push(name);
            }
        }
        once
    }

    /// The digests as they stand: one that has several places is there as often.
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
    /// Adds a piece, and gives its name.
    pub fn insert(&mut self, piece: Vec<u8>) -> Hex32 {
        let name = Hex32::sha256(&piece);
        self.0.insert(name, piece);
        name
    }

    /// Adds all of another's.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// The piece of that name.
    pub fn get(&self, name: &Hex32) -> Option<&[u8]> {
        self.0.get(name).map(Vec::as_slice)
    }

    /// All of them, with their names.
    pub fn iter(&self) -> impl Iterator<Item = (&Hex32, &[u8])> {
        self.0.iter().map(|(name, piece)| (name, piece.as_slice()))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Bytes in all of them.
    pub fn size(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }

    /// The longest answer to a question for these, in bytes.
    pub fn encoded_len(&self) -> usize {
        self.size() + 4 * self.count()
    }

    /// The answer to a question for `asked`; `None` if one of them is not here.
    pub fn encode(&self, asked: &[Hex32]) -> Option<Vec<u8>> {
        let mut answer = Vec::new();
        for name in asked {
            let piece = self.get(name)?;
            answer.extend_from_slice(&u32::try_from(piece.len()).ok()?.to_be_bytes());
            answer.extend_from_slice(piece);
        }
        Some(answer)
    }

    /// Reads the answer to a question for `asked`.
    ///
    /// # Errors
    /// [`PiecesError`]: it holds other pieces, fewer or more.
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
