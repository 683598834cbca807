//! The length of a model's context, from `GET /v1/models`.

use bytes::Bytes;
use http::{Method, StatusCode};
use serde::Deserialize;

use crate::connect::collect;
use crate::error::printable;
use crate::upstreams::{UpstreamError, Upstreams};

/// Longest list of models that is read, in bytes.
const MAX_LIST_LEN: usize = 64 * 1024;

/// Why the length of the context could not be found out.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    /// No verified appliance answered.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// The connection broke during the response.
    #[error("the connection broke in the middle of the list of models")]
    Broken(#[source] hyper::Error),
    /// The appliance answered with an error.
    #[error("the appliance answers a question for its models with status {0}")]
    Refused(u16),
    /// The response is not a list of models, or is longer than [`MAX_LIST_LEN`].
    #[error("the appliance's list of models is not of this API")]
    Malformed,
    /// The list lacks the model or the length of its context.
    #[error("the appliance's list of models does not say how long the context of {0} is")]
    Missing(String),
}

#[derive(Deserialize)]
struct List {
    data: Vec<Model>,
}

#[derive(Deserialize)]
struct Model {
    id: String,
    #[serde(default)]
    context_length: Option<u32>,
}

/// Returns the length of the context of `model` in tokens, as the appliance states it. Nothing
/// depends on its honesty: too high a number causes refusals, and too low a number more requests.
pub(super) async fn length(upstreams: &Upstreams, model: &str) -> Result<u32, ContextError> {
    let response = upstreams
        .request(Method::GET, "/v1/models", Bytes::new())
        .await?;
    let status = response.status();
    if status != StatusCode::OK {
        return Err(ContextError::Refused(status.as_u16()));
    }
    let body = collect(response, MAX_LIST_LEN)
        .await
        .map_err(ContextError::Broken)?
        .ok_or(ContextError::Malformed)?;
    let list: List = serde_json::from_slice(&body).map_err(|_| ContextError::Malformed)?;
    list.data
        .into_iter()
        .find(|one| one.id == model)
        .and_then(|one| one.context_length)
        .ok_or_else(|| ContextError::Missing(printable(model, 100)))
}
