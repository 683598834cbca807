//! The collateral of a session. The session document names each piece by its digest; pieces that
//! are not in this client's cache are fetched over the same connection. The whole document is
//! appraised, wherever a piece came from.
//!
//! An appliance gains nothing by withholding or replacing a piece: digests are compared, and a
//! document that lacks a piece is refused. Nor does it gain by naming an old piece that this client
//! still has: dates and revocation are judged by the clock, not by when a piece was fetched. A
//! server does learn which pieces this client lacks, and so whether it connected before.

mod cache;

use bytes::Bytes;
use cocoon_protocol::bytes::Hex32;
use cocoon_protocol::document::Document;
use cocoon_protocol::pieces::{COLLATERAL_PATH, MAX_PIECES_LEN, Pieces, PiecesRequest};
use http::{Method, StatusCode};
use serde::Serialize;

pub use cache::{CacheError, CollateralCache, MAX_CACHED_BYTES, MAX_CACHED_PIECES, MAX_UNUSED};

use crate::address::Address;
use crate::attested::Channel;
use crate::connect::{MAX_ERROR_LEN, collect, refusal_text};
use crate::error::ConnectError;
use crate::verifier::Verifier;

/// Origin of the collateral of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CollateralUse {
    /// Number of pieces that the document names; 0 if it contains its collateral itself.
    pub pieces: usize,
    /// Total size of the pieces, in bytes.
    pub bytes: usize,
    /// Number of pieces that came from the cache.
    pub cached_pieces: usize,
    /// Size of the pieces from the cache, in bytes.
    pub cached_bytes: usize,
}

impl std::fmt::Display for CollateralUse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            pieces,
            bytes,
            cached_pieces,
            cached_bytes,
        } = self;
        match pieces {
            0 => f.write_str("in the document itself"),
            _ => write!(
                f,
                "{pieces} {}, {bytes} bytes: {cached_pieces} from the cache, {} fetched ({} bytes)",
                if *pieces == 1 { "piece" } else { "pieces" },
                pieces - cached_pieces,
                bytes - cached_bytes
            ),
        }
    }
}

/// The pieces with which a document was completed.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    /// All pieces that the document names.
    pub(crate) pieces: Pieces,
    /// Pieces that are not in the cache yet.
    fetched: Pieces,
    pub(crate) used: CollateralUse,
}

impl Verifier {
    /// Fills in the collateral that `document` names. The caller sets the deadline.
    pub(crate) async fn complete(
        &self,
        channel: &mut Channel,
        address: &Address,
        document: &mut Document,
    ) -> Result<Gathered, ConnectError> {
        let names = document.names();
        let mut pieces = self.kept(&names).await;
        let (cached_pieces, cached_bytes) = (pieces.count(), pieces.size());
        let lacking: Vec<_> = names
            .into_iter()
            .filter(|name| pieces.get(name).is_none())
            .collect();
        let mut fetched = Pieces::default();
        if !lacking.is_empty() {
            fetched = fetch(channel, address, lacking).await?;
            pieces.extend(fetched.clone());
        }
        let filled = document.fill(&pieces);
        filled.map_err(|source| ConnectError::Collateral {
            address: address.clone(),
            source,
        })?;
        let used = CollateralUse {
            pieces: pieces.count(),
            bytes: pieces.size(),
            cached_pieces,
            cached_bytes,
        };
        Ok(Gathered {
            pieces,
            fetched,
            used,
        })
    }

    /// Caches what was fetched for an accepted document, and returns all of its pieces. File access
    /// runs on a blocking thread.
    pub(crate) async fn keep(&self, gathered: Gathered) -> Pieces {
        let Gathered {
            pieces, fetched, ..
        } = gathered;
        if let Some(cache) = self.cache.clone()
            && fetched.count() > 0
        {
            // A failure only means that less is cached: this connection does not depend on it.
            let _ = tokio::task::spawn_blocking(move || cache.keep(&fetched)).await;
        }
        pieces
    }

    async fn kept(&self, names: &[Hex32]) -> Pieces {
        let Some(cache) = self.cache.clone() else {
            return Pieces::default();
        };
        let names = names.to_vec();
        let found = tokio::task::spawn_blocking(move || cache.find(&names)).await;
        // A failure only costs another round trip.
        found.unwrap_or_default()
    }
}

async fn fetch(
    channel: &mut Channel,
    address: &Address,
    names: Vec<Hex32>,
) -> Result<Pieces, ConnectError> {
    let broken = |source| ConnectError::Broken {
        address: address.clone(),
        source,
    };
    let asked = PiecesRequest { pieces: names };
    // A struct of hexadecimal strings: serialisation cannot fail.
    let body = serde_json::to_vec(&asked).unwrap_or_default();
    let request = channel.request(Method::POST, COLLATERAL_PATH, Bytes::from(body));
    channel.sender.ready().await.map_err(broken)?;
    let response = channel.sender.send_request(request).await.map_err(broken)?;
    let status = response.status();
    if status != StatusCode::OK {
        let body = collect(response, MAX_ERROR_LEN).await.map_err(broken)?;
        return Err(ConnectError::NoCollateral {
            address: address.clone(),
            status: status.as_u16(),
            message: refusal_text(&body.unwrap_or_default()),
        });
    }
    let body = collect(response, MAX_PIECES_LEN).await.map_err(broken)?;
    let body = body.ok_or_else(|| ConnectError::CollateralTooLong {
        address: address.clone(),
    })?;
    Pieces::decode(&body, &asked.pieces).map_err(|source| ConnectError::Collateral {
        address: address.clone(),
        source,
    })
}
