//! One HTTP request to a vendor's service, bounded in size and time. This module never retries; `schedule` says when to
//! request again.

use std::io::Read as _;
use std::time::Duration;

use cocoon_inputs::tls;

/// Timeout of a whole request.
const PATIENCE: Duration = Duration::from_secs(60);
/// Timeout of connecting.
const CONNECT: Duration = Duration::from_secs(10);

/// A blocking HTTP client.
#[derive(Debug, Clone)]
pub struct Client {
    agent: ureq::Agent,
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The service answered with an error status.
    #[error("{url}: HTTP status {status}")]
    Status {
        /// Address that was requested.
        url: String,
        /// HTTP status code.
        status: u16,
    },
    /// There was no answer, or only a part, within the timeout.
    #[error(
        "{url}: no answer; check the network, HTTPS_PROXY and the trusted roots, or name a mirror in the file of COCOON_SERVICES"
    )]
    Transfer {
        /// Address that was requested.
        url: String,
        /// The underlying error.
        #[source]
        source: Box<ureq::Error>,
    },
    /// The answer exceeds the limit.
    #[error("{url}: more than {limit} bytes")]
    TooLarge {
        /// Address that was requested.
        url: String,
        /// Limit in bytes.
        limit: usize,
    },
    /// The answer lacks a required header.
    #[error("{url}: the answer has no header {name}, or one that is no text")]
    Header {
        /// Address that was requested.
        url: String,
        /// Name of the header.
        name: &'static str,
    },
}

/// A successful answer (HTTP status 200).
#[derive(Debug)]
pub struct Answer {
    url: String,
    headers: ureq::http::HeaderMap,
    /// Body of the answer.
    pub body: Vec<u8>,
}

impl Answer {
    /// Returns the first of these headers that is present.
    ///
    /// # Errors
    /// Fails with [`HttpError::Header`], which names the last header, if none is present.
    pub fn header(&self, names: &[&'static str]) -> Result<&str, HttpError> {
        let found = names
            .iter()
            .find_map(|name| self.headers.get(*name)?.to_str().ok());
        found.ok_or_else(|| HttpError::Header {
            url: self.url.clone(),
            name: names.last().copied().unwrap_or_default(),
        })
    }
}

impl Default for Client {
    fn default() -> Self {
        Self::with_patience(PATIENCE)
    }
}

impl Client {
    /// Creates a client that uses the system's trust roots and proxies; `patience` bounds each request.
    #[must_use]
    pub fn with_patience(patience: Duration) -> Self {
        let config = ureq::Agent::config_builder()
            .tls_config(tls())
            .http_status_as_error(false)
            // The vendors' services do not redirect; a redirect usually leads to a captive portal's page.
            .max_redirects(0)
            .user_agent(concat!("cocoon-host/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(CONNECT.min(patience)))
            .timeout_global(Some(patience))
            .build();
        Self {
            agent: config.new_agent(),
        }
    }

    /// Sends a GET request for a document of at most `limit` bytes; `key` is sent as a bearer token.
    ///
    /// # Errors
    /// Fails with [`HttpError`] if there is no answer of status 200 within the limits.
    pub fn get(&self, url: &str, limit: usize, key: Option<&str>) -> Result<Answer, HttpError> {
        let mut request = self.agent.get(url);
        if let Some(key) = key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        answer(url, limit, request.call())
    }

    /// Sends a POST request with a body of content type `kind`; the answer has at most `limit` bytes.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn post(
        &self,
        url: &str,
        limit: usize,
        kind: &str,
        body: &[u8],
    ) -> Result<Answer, HttpError> {
        let request = self.agent.post(url).header("content-type", kind);
        answer(url, limit, request.send(body))
    }
}

fn answer(
    url: &str,
    limit: usize,
    response: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
) -> Result<Answer, HttpError> {
    let failed = |source: ureq::Error| HttpError::Transfer {
        url: url.to_owned(),
        source: Box::new(source),
    };
    let (parts, body) = response.map_err(failed)?.into_parts();
    let status = parts.status.as_u16();
    if status != 200 {
        return Err(HttpError::Status {
            url: url.to_owned(),
            status,
        });
    }
    let mut bytes = Vec::new();
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    let mut reader = body.into_reader().take(most);
    reader
        .read_to_end(&mut bytes)
        .map_err(|error| failed(error.into()))?;
    if bytes.len() > limit {
        return Err(HttpError::TooLarge {
            url: url.to_owned(),
            limit,
        });
    }
    Ok(Answer {
        url: url.to_owned(),
        headers: parts.headers,
        body: bytes,
    })
}
