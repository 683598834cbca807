//! What the tests' own appliance names in its document, and what it hands out for it.

use cocoon_protocol::bytes::{Blob, Hex32};
use cocoon_protocol::document::{Collateral, Document};
use cocoon_protocol::pieces::{MAX_PIECES_LEN, Pieces, PiecesRequest};
use http::{Response, StatusCode};

use super::double::{Body, reply};

/// Collateral that looks like AMD's, and how it is handed out.
pub struct Stapled {
    pub certificates: Vec<Vec<u8>>,
    pub hands: Hands,
}

/// How a question for pieces is answered.
#[derive(Clone, Copy)]
pub enum Hands {
    Honestly,
    /// One bit of the first piece is turned.
    Exchanged,
    /// The pieces, the last one first.
    InAnotherOrder,
    /// All but the last byte.
    CutShort,
    /// And one byte more.
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

    /// Names it in `document`.
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
