//! A verified connection to an appliance: the only type from which a prompt is sent.

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

/// Longest life of a connection. After it the connection is cut, even in the middle of an answer:
/// evidence describes one moment, and may count for an hour at most.
pub const MAX_CONNECTION_AGE: Duration = Duration::from_secs(60 * 60);

/// An HTTP connection inside TLS, before or after verification.
pub(crate) struct Channel {
    pub(crate) sender: SendRequest<Full<Bytes>>,
    pub(crate) authority: String,
}

/// A verified connection. Only [`Verifier::connect`](crate::Verifier::connect) makes one.
pub struct AttestedConnection {
    channel: Channel,
    address: Address,
    verdict: Verdict,
    claims: Claims,
    session: Arc<Session>,
    collateral: CollateralUse,
    /// Number of the last receipt that was checked, 0 before the first; `None` after a request
    /// whose receipt this client does not check.
    counted: Option<u64>,
    established: Moment,
}

/// Why a request on a verified connection got no response.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The connection was closed before the request was sent, so it is safe to send it again
    /// elsewhere.
    #[error("the connection to {address} was closed before the request was sent")]
    NotSent {
        /// Address of the appliance.
        address: Address,
        /// Error of the HTTP library.
        #[source]
        source: hyper::Error,
    },
    /// The connection broke after the request was sent: it may have been served and charged.
    #[error("the connection to {address} broke while it held the request")]
    Broken {
        /// Address of the appliance.
        address: Address,
        /// Error of the HTTP library.
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

    /// Returns the address of the appliance.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Returns the verdict by which this connection was accepted.
    pub fn verdict(&self) -> &Verdict {
        &self.verdict
    }

    /// Returns the claims to which the evidence commits.
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// Returns the session against which the receipts of this connection are checked.
    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// Returns the origin of the collateral behind the verdict: the cache or the appliance.
    pub fn collateral(&self) -> CollateralUse {
        self.collateral
    }

    /// Returns the number that the next receipt must have, or `None` if it is not known.
    pub(crate) fn next_number(&self) -> Option<u64> {
        self.counted.and_then(|counted| counted.checked_add(1))
    }

    /// Records that a request is sent whose receipt this client does not check.
    pub(crate) fn uncounted(&mut self) {
        self.counted = None;
    }

    /// Records the number of a receipt that passed its checks.
    pub(crate) fn counted(&mut self, number: u64) {
        self.counted = Some(number);
    }

    /// Returns the time for which this connection may still be used.
    pub fn remaining(&self) -> Duration {
        MAX_CONNECTION_AGE.saturating_sub(self.established.age())
    }

    /// Sends a chat request, padded to a size bucket. The response follows OpenAI's API: JSON, or
    /// server-sent events if `request.stream` is set. Its status may be an error of the appliance.
    /// The caller has to check the receipt, as [`Upstreams::generate`](crate::Upstreams::generate)
    /// does.
    pub async fn chat(&mut self, request: &ChatRequest) -> Result<Response<Incoming>, SendError> {
        self.uncounted();
        let body = padded(request).map_err(SendError::Request)?;
        self.send(Method::POST, "/v1/chat/completions", body).await
    }

    /// Sends `GET /v1/models`.
    pub async fn models(&mut self) -> Result<Response<Incoming>, SendError> {
        self.send(Method::GET, "/v1/models", Bytes::new()).await
    }

    /// Waits until another request can be sent; the body of the previous response must have been
    /// read to its end. Returns false if the connection is closed.
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
    /// Builds a request. All clients send the same few headers, so that headers cannot identify a
    /// client.
    pub(crate) fn request(&self, method: Method, path: &str, body: Bytes) -> Request<Full<Bytes>> {
        let posts = method == Method::POST;
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        // Paths are constants of this crate, or were parsed as the path of an application's
        // request.
        *request.uri_mut() = path.parse().unwrap_or_default();
        // A host and a port: always a valid header value.
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
