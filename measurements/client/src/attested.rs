//! A connection to an appliance that was verified: the only place from which a prompt is sent.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cocoon_measurements::verdict::Verdict;
use cocoon_protocol::binding::Claims;
use cocoon_protocol::openai::ChatRequest;
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;

use crate::address::Address;
use crate::collateral::CollateralUse;
use crate::moment::Moment;
use crate::padding::{PaddingError, padded};
use crate::receipts::Session;

/// Longest life of a connection. After it the connection is cut, whatever runs on it: evidence is
/// about a moment, and an hour is the longest that one moment may count.
pub const MAX_CONNECTION_AGE: Duration = Duration::from_secs(60 * 60);

/// An HTTP connection inside TLS, verified or about to be.
pub(crate) struct Channel {
    pub(crate) sender: SendRequest<Full<Bytes>>,
    pub(crate) authority: String,
}

/// A verified connection. Made by [`Verifier::connect`](crate::Verifier::connect) and by nothing else.
pub struct AttestedConnection {
    channel: Channel,
    address: Address,
    verdict: Verdict,
    claims: Claims,
    session: Arc<Session>,
    collateral: CollateralUse,
    /// Requests that its receipts have counted; `None` when some went out whose receipts nobody saw.
    counted: Option<u64>,
    established: Moment,
}

/// Why a request on a verified connection has no answer.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The connection was closed before the request left: sending it again elsewhere is safe.
    #[error("the connection to {address} was closed before the request was sent")]
    NotSent {
        /// The appliance.
        address: Address,
        /// From the HTTP library.
        #[source]
        source: hyper::Error,
    },
    /// The connection broke when the request was under way: it may have been served and charged.
    #[error("the connection to {address} broke while it held the request")]
    Broken {
        /// The appliance.
        address: Address,
        /// From the HTTP library.
        #[source]
        source: hyper::Error,
    },
    /// The request cannot be encoded.
    #[error("the request cannot be sent")]
    Request(#[source] PaddingError),
}

impl AttestedConnection {
    pub(crate) fn new(
        channel: Channel,
        address: Address,
        verdict: Verdict,
        claims: Claims,
        session: Session,
        collateral: CollateralUse,
        established: Moment,
    ) -> Self {
        Self {
            channel,
            address,
            verdict,
            claims,
            session: Arc::new(session),
            collateral,
            counted: Some(0),
            established,
        }
    }

    /// The appliance.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The verdict that let this connection be.
    pub fn verdict(&self) -> &Verdict {
        &self.verdict
    }

    /// What the evidence committed to.
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// What its receipts are held against.
    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// Where the collateral came from that the verdict rests on.
    pub fn collateral(&self) -> CollateralUse {
        self.collateral
    }

    /// The number of the next receipt, as far as it is known.
    pub(crate) fn next_number(&self) -> Option<u64> {
        self.counted.and_then(|counted| counted.checked_add(1))
    }

    /// A request goes out whose receipt nobody here will see.
    pub(crate) fn uncounted(&mut self) {
        self.counted = None;
    }

    /// A receipt of this number was found good.
    pub(crate) fn counted(&mut self, number: u64) {
        self.counted = Some(number);
    }

    /// How long this connection may still be used.
    pub fn remaining(&self) -> Duration {
        MAX_CONNECTION_AGE.saturating_sub(self.established.age())
    }

    /// Sends a chat request, padded to a size bucket. The answer is OpenAI's: JSON, or server-sent
    /// events when `request.stream` is set; its status may be an error of the appliance. Its receipt is the caller's
    /// to check, as [`Upstreams::generate`](crate::Upstreams::generate) does.
    pub async fn chat(&mut self, request: &ChatRequest) -> Result<Response<Incoming>, SendError> {
        self.uncounted();
        let body = padded(request).map_err(SendError::Request)?;
        self.send(Method::POST, "/v1/chat/completions", body).await
    }

    /// `GET /v1/models`.
    pub async fn models(&mut self) -> Result<Response<Incoming>, SendError> {
        self.send(Method::GET, "/v1/models", Bytes::new()).await
    }

    /// Whether another request can be sent, after the answer before it was read to its end.
    pub(crate) async fn ready(&mut self) -> bool {
        self.channel.sender.ready().await.is_ok()
    }

    pub(crate) async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, SendError> {
        let address = || self.address.clone();
        if let Err(source) = self.channel.sender.ready().await {
            return Err(SendError::NotSent {
                address: address(),
                source,
            });
        }
        let request = self.channel.request(method, path, body);
        self.channel
            .sender
            .try_send_request(request)
            .await
            .map_err(|mut error| {
                let unsent = error.take_message().is_some();
                let source = error.into_error();
                if unsent {
                    SendError::NotSent {
                        address: address(),
                        source,
                    }
                } else {
                    SendError::Broken {
                        address: address(),
                        source,
                    }
                }
            })
    }
}

impl std::fmt::Debug for AttestedConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AttestedConnection")
            .field("address", &self.address)
            .field("class", &self.verdict.class)
            .finish_non_exhaustive()
    }
}

impl Channel {
    /// A request with the same few headers for every client, so that headers tell nobody apart.
    pub(crate) fn request(&self, method: Method, path: &str, body: Bytes) -> Request<Full<Bytes>> {
        let posts = method == Method::POST;
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        // Paths are ours, or were one in the request of an application.
        *request.uri_mut() = path.parse().unwrap_or_default();
        // An authority is a host and a port: always a valid header value.
        if let Ok(host) = HeaderValue::from_str(&self.authority) {
            request.headers_mut().insert(HOST, host);
        }
        if posts {
            request
                .headers_mut()
                .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        request
    }
}
