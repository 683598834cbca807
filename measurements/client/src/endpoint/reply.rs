//! Answers of the local endpoint itself: OpenAI's error objects.

use bytes::Bytes;
use cocoon_protocol::openai::{ApiError, ErrorBody};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};

/// An appliance's answer as it arrives, or one of our own.
pub(super) type Reply = UnsyncBoxBody<Bytes, hyper::Error>;

/// A refusal before it becomes bytes. Boxed inside: it is the rare case everywhere.
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) error: Box<ApiError>,
}

/// A refusal that is about no single parameter.
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
