//! The routes of the local endpoint: forwards requests that pass the guard to an attested
//! appliance, padded, and streams the response back as it arrives.

use std::time::Duration;

use bytes::Bytes;
use cocoon_measurements::verdict::Class;
use cocoon_protocol::engine::WEIGHTS_PATH;
use cocoon_protocol::receipt::RECEIPT_HEADER;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::guard::Guard;
use super::receipted;
use super::reply::{Refusal, Reply, refusal};
use crate::error::chain;
use crate::padding::{MAX_BODY_LEN, PaddingError, padded_object};
use crate::upstreams::{Answer, UpstreamError, Upstreams};

/// How long an application may take to send a request's body.
const BODY_LIMIT: Duration = Duration::from_secs(30);
/// Routes named in error messages.
const PATHS: &str =
    "POST /v1/chat/completions, POST /v1/completions, GET /v1/models, GET /v1/models/ID";
/// Header that tells the application the class of the verdict.
const VERDICT: HeaderName = HeaderName::from_static("x-cocoon-verdict");

pub(super) struct Api {
    pub(super) guard: Guard,
    pub(super) upstreams: Upstreams,
}

impl Api {
    /// Answers a request; a refusal becomes a response with an error object.
    pub(super) async fn answer(&self, request: Request<Incoming>) -> Response<Reply> {
        match self.route(request).await {
            Ok(response) => response,
            Err(refusal) => {
                let method_refused = refusal.status == StatusCode::METHOD_NOT_ALLOWED;
                let mut response = refusal.into_response();
                if method_refused {
                    response
                        .headers_mut()
                        .insert(ALLOW, HeaderValue::from_static("GET, POST"));
                }
                response
            }
        }
    }

    async fn route(&self, request: Request<Incoming>) -> Result<Response<Reply>, Refusal> {
        self.guard.check(request.headers())?;
        let path = request.uri().path().to_owned();
        let is_model = path
            .strip_prefix("/v1/models/")
            .is_some_and(|id| !id.is_empty());
        let (method, body) = match (request.method().as_str(), path.as_str()) {
            ("POST", "/v1/chat/completions" | "/v1/completions") => {
                (Method::POST, padded_body(request).await?)
            }
            ("GET", "/v1/models" | WEIGHTS_PATH) => (Method::GET, Bytes::new()),
            ("GET", _) if is_model => (Method::GET, Bytes::new()),
            (_, "/v1/chat/completions" | "/v1/completions" | "/v1/models") => {
                let message = format!("this path takes another method: {PATHS}");
                return Err(refusal(
                    StatusCode::METHOD_NOT_ALLOWED,
                    "invalid_request_error",
                    "method_not_allowed",
                    message,
                ));
            }
            _ => {
                let message = format!("this endpoint has {PATHS}");
                return Err(refusal(
                    StatusCode::NOT_FOUND,
                    "invalid_request_error",
                    "unknown_url",
                    message,
                ));
            }
        };
        if method == Method::POST {
            let response = self.upstreams.generate(&path, body).await;
            let response = response.map_err(bad_gateway)?;
            let class = class(response.body().answer());
            return Ok(forwarded(receipted::checked(response).await?, class));
        }
        let response = self.upstreams.request(method, &path, body).await;
        let response = response.map_err(bad_gateway)?;
        let class = class(response.body());
        Ok(forwarded(response.map(BodyExt::boxed_unsync), class))
    }
}

/// Reads and pads the body of an application's request. The appliance validates its fields.
async fn padded_body(request: Request<Incoming>) -> Result<Bytes, Refusal> {
    let body = timeout(BODY_LIMIT, read(request.into_body()))
        .await
        .map_err(|_| {
            let message = format!("the request's body did not arrive within {BODY_LIMIT:?}");
            refusal(
                StatusCode::REQUEST_TIMEOUT,
                "invalid_request_error",
                "request_timeout",
                message,
            )
        })??;
    padded_object(&body).map_err(|error| match error {
        PaddingError::TooLong(_) => too_long(),
        PaddingError::NotAnObject { .. } | PaddingError::Encode(_) => refusal(
            StatusCode::BAD_REQUEST,
            "invalid_request_error",
            "invalid_json",
            error.to_string(),
        ),
    })
}

async fn read(mut body: Incoming) -> Result<Zeroizing<Vec<u8>>, Refusal> {
    let limit = MAX_BODY_LEN as u64;
    if body.size_hint().lower() > limit {
        return Err(too_long());
    }
    // Allocated at once: a vector that grows would leave copies behind that are not wiped.
    let room = usize::try_from(body.size_hint().exact().unwrap_or(limit)).unwrap_or(MAX_BODY_LEN);
    let mut bytes = Zeroizing::new(Vec::with_capacity(room));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| {
            let message = "the request's body broke off".to_owned();
            refusal(
                StatusCode::BAD_REQUEST,
                "invalid_request_error",
                "incomplete_body",
                message,
            )
        })?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if bytes.len() + data.len() > MAX_BODY_LEN {
            return Err(too_long());
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

fn too_long() -> Refusal {
    let message = format!(
        "the request exceeds {MAX_BODY_LEN} bytes with its padding: shorten the conversation"
    );
    refusal(
        StatusCode::PAYLOAD_TOO_LARGE,
        "invalid_request_error",
        "request_too_large",
        message,
    )
}

fn bad_gateway(error: UpstreamError) -> Refusal {
    let text = chain(&error);
    let (code, message) = match &error {
        UpstreamError::Broken(_) => ("appliance_failed", text),
        _ if error.is_rejection() => (
            "attestation_rejected",
            format!("{text}; no prompt was sent"),
        ),
        UpstreamError::NoneUsable(_) => {
            ("no_appliance_usable", format!("{text}; no prompt was sent"))
        }
    };
    refusal(StatusCode::BAD_GATEWAY, "upstream_error", code, message)
}

/// Returns the class of the verdict on the answering appliance.
fn class(answer: &Answer) -> HeaderValue {
    let class = answer
        .connection()
        .map(|connection| connection.verdict().class);
    HeaderValue::from_static(match class {
        Some(Class::Confidential) => "confidential",
        Some(Class::Simulated) => "simulated",
        // Impossible: nothing is sent over a rejected connection.
        Some(Class::Rejected) | None => "rejected",
    })
}

/// Builds the response for the application: forwards status, content type, receipt and
/// `Retry-After`, and drops all other headers of the appliance. OpenAI's clients wait for as long
/// as `Retry-After` says; no appliance sends the other headers that they know (`retry-after-ms`,
/// `x-should-retry`, `x-request-id`).
fn forwarded(response: Response<Reply>, class: HeaderValue) -> Response<Reply> {
    let (parts, body) = response.into_parts();
    let mut forwarded = Response::new(body);
    *forwarded.status_mut() = parts.status;
    let headers = forwarded.headers_mut();
    let receipt = HeaderName::from_static(RECEIPT_HEADER);
    for name in [CONTENT_TYPE, receipt, RETRY_AFTER] {
        if let Some(value) = parts.headers.get(&name) {
            headers.insert(name, value.clone());
        }
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(VERDICT, class);
    forwarded
}
