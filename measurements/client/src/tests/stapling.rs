//! The collateral that the test double names in its document and sends on request.

use cocoon_protocol::bytes::{Blob, Hex32};
use cocoon_protocol::document::{Collateral, Document};
use cocoon_protocol::pieces::{MAX_PIECES_LEN, Pieces, PiecesRequest};
use http::{Response, StatusCode};

use super::double::{Body, reply};

/// Collateral that looks like AMD's, and how it is sent.
pub struct Stapled {
    pub certificates: Vec<Vec<u8>>,
    pub hands: Hands,
}

/// The response to a request for pieces.
#[derive(Clone, Copy)]
pub enum Hands {
    Honestly,
    /// With one bit of the first piece flipped.
    Exchanged,
    /// With the last piece first.
    InAnotherOrder,
    /// Without the last byte.
    CutShort,
    /// With an additional byte at the end.
    WithMore,
    With(StatusCode, &'static str),
    WithTooMuch,
    ByHangingUp,
}

impl Stapled {
    pub fn new(certificates: &[&[u8]], hands: Hands) -> Self {
        Self {
            certificates: certificates.iter().map(|der| der.to_vec()).collect(),
            hands,
        }
    }

    pub fn collateral(&self) -> Collateral {
        let (crl, certificates) = self.certificates.split_last().unwrap();
        Collateral::SevSnp {
            certificates: certificates.iter().map(|der| Blob(der.clone())).collect(),
            crl: Some(Blob(crl.clone())),
        }
    }

    pub fn names(&self) -> Vec<Hex32> {
        let digests = self.certificates.iter().map(|der| Hex32::sha256(der));
        digests.collect()
    }

    /// Makes `document` name this collateral.
    pub fn name(&self, document: &mut Document) {
        document.collateral = Some(self.collateral());
        document.name_collateral();
    }

    pub fn hand_out(&self, body: &[u8]) -> Result<Response<Body>, &'static str> {
        let asked: PiecesRequest = serde_json::from_slice(body).unwrap();
        asked.check().unwrap();
        let mut pieces = Pieces::default();
        for der in &self.certificates {
            pieces.insert(der.clone());
        }
        let bytes = |bytes: Vec<u8>| Ok(reply(StatusCode::OK, "application/octet-stream", bytes));
        let mut honest = pieces.encode(&asked.pieces).unwrap();
        match self.hands {
            Hands::Honestly => bytes(honest),
            Hands::Exchanged => {
                honest[4] ^= 1;
                bytes(honest)
            }
            Hands::InAnotherOrder => {
                let order: Vec<_> = asked.pieces.into_iter().rev().collect();
                bytes(pieces.encode(&order).unwrap())
            }
            Hands::CutShort => {
                honest.pop();
                bytes(honest)
            }
            Hands::WithMore => {
                honest.push(0);
                bytes(honest)
            }
            Hands::With(status, body) => Ok(reply(status, "application/json", body)),
            Hands::WithTooMuch => bytes(vec![0; MAX_PIECES_LEN + 1]),
            Hands::ByHangingUp => Err("hangs up"),
        }
    }
}
