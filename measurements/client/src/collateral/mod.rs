//! The collateral of a session: its document names each piece by digest, and what this client has not kept from another time
//! is fetched over the same connection. What is judged is the whole document, the same wherever a piece came from.
//!
//! Nothing is gained by withholding or exchanging a piece: its digest is compared, and a document without one of its pieces
//! is refused. Nor by naming an old one that this client still has: dates and revocation are judged by the clock, not by
//! when a piece was fetched. What a server does learn is which pieces this client lacks, hence whether it was here before.

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

/// Where the collateral of a connection came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CollateralUse {
    /// Pieces that the document names; 0 where it holds its collateral itself.
    pub pieces: usize,
    /// Their bytes.
    pub bytes: usize,
    /// Those that were kept from another time.
    pub cached_pieces: usize,
    /// Their bytes.
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

/// The pieces of a document that is whole now.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    /// All of them.
    pub(crate) pieces: Pieces,
    /// Those that are not kept yet.
    fetched: Pieces,
    pub(crate) used: CollateralUse,
}

impl Verifier {
    /// Makes a document whole. There is no deadline of its own.
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

    /// Keeps what was fetched of a document that was accepted, and gives all of its pieces. Files are for other threads.
    pub(crate) async fn keep(&self, gathered: Gathered) -> Pieces {
        let Gathered {
            pieces, fetched, ..
        } = gathered;
        if let Some(cache) = self.cache.clone()
            && fetched.count() > 0
        {
            // Less is kept then: nothing that this connection is worse for.
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
        // Whatever goes wrong with files only costs a round.
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
