//! Responses of the local endpoint itself: OpenAI's error objects.

use bytes::Bytes;
use cocoon_protocol::openai::{ApiError, ErrorBody};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};

/// Body of a response: an appliance's answer as it arrives, or one made here.
pub(super) type Reply = UnsyncBoxBody<Bytes, hyper::Error>;

/// A refusal before it is serialised. The error is boxed because refusals are rare and results
/// should stay small.
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) error: Box<ApiError>,
}

/// Makes a refusal that does not concern a single parameter.
pub(super) fn refusal(status: StatusCode, kind: &str, code: &str, message: String) -> Refusal {
    let error = ApiError {
        message,
        kind: kind.to_owned(),
        param: None,
        code: Some(code.to_owned()),
    };
    Refusal {
        status,
        error: Box::new(error),
    }
}

impl Refusal {
    pub(super) fn into_response(self) -> Response<Reply> {
        // Strings and options: serialisation cannot fail.
        let body = serde_json::to_vec(&ErrorBody { error: *self.error }).unwrap_or_default();
        let body = Full::new(Bytes::from(body)).map_err(|never| match never {});
        let mut response = Response::new(body.boxed_unsync());
        *response.status_mut() = self.status;
        response
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
            .headers_mut()
            .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}
