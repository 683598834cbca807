//! One question to a vendor's service: bounded in size and time, never repeated here. When to ask again, others know.

use std::io::Read as _;
use std::time::Duration;

use cocoon_inputs::tls;

/// How long one question may take in all.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);

/// A blocking client.
#[derive(Debug, Clone)]
pub struct Client {
    agent: ureq::Agent,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The service refuses.
    #[error("{url}: HTTP status {status}")]
    Status {
        /// Address.
        url: String,
        /// HTTP status code.
        status: u16,
    },
    /// No answer, or not all of it, or not in time.
    #[error(
        "{url}: no answer; check the network, HTTPS_PROXY and the trusted roots, or name a mirror in the file of COCOON_SERVICES"
    )]
    Transfer {
        /// Address.
        url: String,
        /// Why.
        #[source]
        source: Box<ureq::Error>,
    },
    /// More than the bound for this document.
    #[error("{url}: more than {limit} bytes")]
    TooLarge {
        /// Address.
        url: String,
        /// Bound in bytes.
        limit: usize,
    },
    /// A header that has to be there.
    #[error("{url}: the answer has no header {name}, or one that is no text")]
    Header {
        /// Address.
        url: String,
        /// Name.
        name: &'static str,
    },
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    url: String,
    headers: ureq::http::HeaderMap,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The first of these headers that is there.
    ///
    /// # Errors
    /// [`HttpError::Header`] with the last name when none is.
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
    /// A client with the system's trust roots and proxies that asks for at most so long.
    #[must_use]
    pub fn with_patience(patience: Duration) -> Self {
        let config = ureq::Agent::config_builder()
            .tls_config(tls())
            .http_status_as_error(false)
            // Vendors' documents lie where they say: elsewhere is a portal's page.
            .max_redirects(0)
            .user_agent(concat!("cocoon-host/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(CONNECT.min(patience)))
            .timeout_global(Some(patience))
            .build();
        Self {
            agent: config.new_agent(),
        }
    }

    /// Asks for a document of at most `limit` bytes; `key` is sent as a bearer token.
    ///
    /// # Errors
    /// [`HttpError`].
    pub fn get(&self, url: &str, limit: usize, key: Option<&str>) -> Result<Answer, HttpError> {
        let mut request = self.agent.get(url);
        if let Some(key) = key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        answer(url, limit, request.call())
    }

    /// Asks with a body of a kind.
    ///
    /// # Errors
    /// [`HttpError`].
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
