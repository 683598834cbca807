//! Refusals in the form of OpenAI's error objects. A message never repeats what the client sent, apart from the name of
//! a field.

use cocoon_protocol::engine::EngineFailure;
use cocoon_protocol::openai::{ApiError, ErrorBody};
use hyper::StatusCode;

use super::wire::Kind;
use crate::attester::AttestError;
use crate::engine::{Failure, Unavailable};
use crate::gpu::GateError;

/// A refusal: an HTTP status and the contents of OpenAI's error object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status.
    pub status: StatusCode,
    /// Seconds after which another attempt is worthwhile (`Retry-After`).
    pub retry_after: Option<u32>,
    /// Methods that the path supports, for status 405 (`Allow`).
    pub allow: Option<&'static str>,
    /// Message for people.
    pub message: String,
    /// OpenAI's error type.
    pub kind: &'static str,
    /// Name of the field at fault.
    pub param: Option<String>,
    /// Error code for programs.
    pub code: Option<&'static str>,
}

impl Refusal {
    fn new(
        status: StatusCode,
        kind: &'static str,
        code: Option<&'static str>,
        message: impl Into<String>,
    ) -> Self {
        Self {
            status,
            retry_after: None,
            allow: None,
            message: message.into(),
            kind,
            param: None,
            code,
        }
    }

    /// Returns the body of the response.
    pub fn to_body(&self) -> ErrorBody {
        let Self {
            message,
            kind,
            param,
            code,
            ..
        } = self;
        let (message, kind) = (message.clone(), (*kind).to_owned());
        ErrorBody {
            error: ApiError {
                message,
                kind,
                param: param.clone(),
                code: code.map(str::to_owned),
            },
        }
    }

    /// 400: one field is invalid.
    pub fn field(param: impl Into<String>, message: impl Into<String>) -> Self {
        let mut refusal = Self::new(
            StatusCode::BAD_REQUEST,
            "invalid_request_error",
            None,
            message,
        );
        refusal.param = Some(param.into());
        refusal
    }

    /// 400: OpenAI's API has this field or value, and this API does not.
    pub fn unsupported(param: &str, message: impl Into<String>) -> Self {
        let mut refusal = Self::field(param, message);
        refusal.code = Some("unsupported_parameter");
        refusal
    }

    /// 400: the field is unknown, to OpenAI's API too.
    pub fn unknown(param: &str) -> Self {
        let message = format!("`{param}` is not known: leave it out.");
        let mut refusal = Self::field(param, message);
        refusal.code = Some("unknown_parameter");
        refusal
    }

    /// 400: the body as a whole is invalid.
    pub fn body(message: impl Into<String>) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "invalid_request_error",
            None,
            message,
        )
    }

    /// 421: the connection has not been attested.
    pub fn unattested() -> Self {
        Self::new(
            StatusCode::MISDIRECTED_REQUEST,
            "attestation_required",
            Some("attestation_required"),
            format!(
                "The first request on every connection must be POST {} with a nonce: use a client that verifies this machine.",
                cocoon_protocol::document::ATTEST_PATH
            ),
        )
    }

    /// 404: the path does not exist.
    pub fn not_found() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "invalid_request_error",
            Some("unknown_url"),
            "Unknown URL.",
        )
    }

    /// 404: the last document of this connection does not name the collateral, or it was fetched already.
    pub fn no_collateral() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "invalid_request_error",
            Some("unknown_collateral"),
            format!(
                "Collateral is handed out once for each document, and only what that document names: POST {} again.",
                cocoon_protocol::document::ATTEST_PATH
            ),
        )
    }

    /// 405: the path exists for other methods.
    pub fn method(allow: &'static str) -> Self {
        let message = format!("This URL takes {allow} only.");
        let mut refusal = Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "invalid_request_error",
            Some("method_not_supported"),
            message,
        );
        refusal.allow = Some(allow);
        refusal
    }

    /// 413: the body is too long.
    pub fn too_large(limit: usize) -> Self {
        let message = format!("The request body exceeds the limit of {limit} bytes.");
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "invalid_request_error",
            Some("request_too_large"),
            message,
        )
    }

    /// 408: the body did not arrive in time.
    pub fn slow() -> Self {
        Self::late("The request body did not arrive in time.")
    }

    /// 408: other bodies of the same connection left no room for this one, for all or most of its time.
    pub fn crowded() -> Self {
        Self::late(
            "This request waited for the bodies of others of its connection, and its time is over: send those to their end sooner, or use another connection.",
        )
    }

    fn late(message: &str) -> Self {
        Self::new(
            StatusCode::REQUEST_TIMEOUT,
            "invalid_request_error",
            Some("request_timeout"),
            message,
        )
    }

    /// 404: the request names another model than the one served.
    pub fn unknown_model() -> Self {
        let message = "The requested model does not exist on this machine: see /v1/models.";
        let mut refusal = Self::new(
            StatusCode::NOT_FOUND,
            "invalid_request_error",
            Some("model_not_found"),
            message,
        );
        refusal.param = Some("model".to_owned());
        refusal
    }

    /// 429: too many connections, requests or attempts.
    pub fn rate_limit(message: &str) -> Self {
        let mut refusal = Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            "rate_limit_error",
            Some("rate_limit_exceeded"),
            message,
        );
        refusal.retry_after = Some(1);
        refusal
    }

    /// Sets the seconds after which another attempt is worthwhile.
    fn after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// 503: this machine cannot serve the request now.
    pub fn unavailable(code: &'static str, message: &str) -> Self {
        let mut refusal = Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "server_error",
            Some(code),
            message,
        );
        refusal.retry_after = Some(5);
        refusal
    }
}

impl From<Unavailable> for Refusal {
    fn from(reason: Unavailable) -> Self {
        match reason {
            Unavailable::Busy { retry_after } => {
                Self::rate_limit("All generation slots of this machine are taken: try again.")
                    .after(retry_after)
            }
            Unavailable::Memory { retry_after } => Self::rate_limit(
                "The answers that run, or are not read to their end yet, take all of this machine's memory: try again, read yours, or ask for fewer tokens.",
            )
            .after(retry_after),
            Unavailable::TooMany => {
                let mut refusal = Self::field(
                    "n",
                    "This machine has no memory for `n` answers of that length: ask for fewer, or for fewer tokens.",
                );
                refusal.code = Some("context_length_exceeded");
                refusal
            }
            Unavailable::Unread { retry_after } => Self::rate_limit(
                "Too many answers of this machine are still being read: try again.",
            )
            .after(retry_after),
            Unavailable::OwnUnread { retry_after } => Self::rate_limit(
                "This connection holds half of all answers that may be open at once: read some to their end, or leave them.",
            )
            .after(retry_after),
            Unavailable::Draining => Self::unavailable(
                "draining",
                "This machine finishes its last answers and takes no new requests: use another.",
            ),
            Unavailable::NotReady => {
                Self::unavailable("engine_not_ready", "The engine is loading: try again.")
            }
        }
    }
}

impl Refusal {
    /// Refuses a request of `kind` because the engine failed with `failure`.
    pub(super) fn failed(failure: Failure, kind: Kind) -> Self {
        let (prompt, param) = match kind {
            Kind::Chat => ("conversation", "messages"),
            Kind::Completion => ("prompt", "prompt"),
        };
        let invalid = |code, message: &str| {
            let mut refusal = Self::new(
                StatusCode::BAD_REQUEST,
                "invalid_request_error",
                code,
                message,
            );
            refusal.param = Some(param.to_owned());
            refusal
        };
        match failure {
            Failure::TooLong { most } => invalid(
                Some("context_length_exceeded"),
                &format!(
                    "The {prompt} has more tokens than the {most} that there is room for: shorten it."
                ),
            ),
            Failure::Engine(EngineFailure::Template) if kind == Kind::Chat => invalid(
                Some("invalid_conversation"),
                "The model does not allow these roles in this order: alternate user and assistant.",
            ),
            Failure::Engine(EngineFailure::Grammar) => {
                let mut refusal = invalid(
                    Some("invalid_schema"),
                    "The JSON schema of the answer, or of a tool's parameters, is not one that an answer can be held to.",
                );
                refusal.param = None;
                refusal
            }
            Failure::Engine(EngineFailure::GrammarLimit) => {
                let mut refusal = invalid(
                    Some("schema_too_complex"),
                    "The JSON schema became too complex while the answer was written: simplify it, or leave `logit_bias` out.",
                );
                refusal.param = None;
                refusal
            }
            Failure::Engine(EngineFailure::Busy) => Self::unavailable(
                "schema_busy",
                "The JSON schema of another answer is being made ready: try again.",
            ),
            // A completion prompt has no roles, so a template error is the engine's own.
            Failure::Engine(
                EngineFailure::Internal | EngineFailure::ContextLength | EngineFailure::Template,
            ) => Self::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "server_error",
                Some("engine_error"),
                "The engine failed on this request.",
            ),
            Failure::Died => Self::unavailable(
                "engine_died",
                "The engine died and is being started again: repeat the request.",
            ),
        }
    }
}

impl From<AttestError> for Refusal {
    fn from(error: AttestError) -> Self {
        match error {
            AttestError::Busy => {
                Self::rate_limit("Too many connections are waiting for evidence: try again.")
            }
            AttestError::Late => {
                Self::unavailable("evidence_timeout", "Evidence took too long: try again.")
            }
            AttestError::Gpus(GateError::Lapsed(_)) => Self::unavailable(
                "gpu_collateral_lapsed",
                "NVIDIA's word on this machine's GPUs is missing or over its time: its host has to fetch it anew; use another \
                 machine meanwhile.",
            ),
            AttestError::Tee(_) | AttestError::Gpus(_) | AttestError::Configuration => {
                Self::unavailable(
                    "evidence_unavailable",
                    "This machine cannot produce evidence now.",
                )
            }
            AttestError::TooLong { .. } => Self::unavailable(
                "evidence_too_large",
                "This machine's evidence is larger than clients read: its operator has to look after it.",
            ),
            AttestError::Collateral { .. } => Self::unavailable(
                "collateral_too_large",
                "The vendors' answers that this machine's host hands over are larger than clients fetch: its operator has \
                 to look after them.",
            ),
        }
    }
}
