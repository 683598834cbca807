//! An HTTP client with resumable downloads, proxies from the environment, the system's trust roots, and TLS without C.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ureq::tls::{Certificate, RootCerts, TlsConfig};

use crate::cache::{CacheError, failed};
use crate::report::Task;

/// Number of consecutive attempts without a received byte after which a source is given up.
const ATTEMPTS: u32 = 4;
/// Longest time that the client waits for a response or for one read.
const STALL: Duration = Duration::from_secs(30);

/// A blocking HTTP client.
#[derive(Debug, Clone)]
pub struct Http {
    agent: ureq::Agent,
    pause: Duration,
}

/// Why a transfer failed.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The server answered with a status other than success.
    #[error("{url}: HTTP status {status}")]
    Status {
        /// Requested address.
        url: String,
        /// HTTP status code.
        status: u16,
    },
    /// There was no answer, or the transfer was interrupted, and no attempts are left.
    #[error("{url}: transfer failed")]
    Transfer {
        /// Requested address.
        url: String,
        /// Error of the last attempt.
        #[source]
        source: Box<ureq::Error>,
    },
    /// The server offers a number of bytes other than the expected one.
    #[error("{url}: the server offers {found} bytes, expected {expected}")]
    Length {
        /// Requested address.
        url: String,
        /// Bytes expected; when resuming, the rest of the file.
        expected: u64,
        /// Bytes offered.
        found: u64,
    },
    /// The server sent more bytes than allowed.
    #[error("{url}: more than {cap} bytes")]
    TooLarge {
        /// Requested address.
        url: String,
        /// Bound in bytes.
        cap: u64,
    },
    /// The received bytes could not be stored.
    #[error("cannot store what {url} sent")]
    Store {
        /// Requested address.
        url: String,
        /// Underlying error.
        #[source]
        source: CacheError,
    },
}

/// TLS configuration for a `ureq` client: the system's trust roots (`SSL_CERT_FILE` and `SSL_CERT_DIR` are honoured),
/// and a cryptography provider without C code.
#[must_use]
pub fn tls() -> TlsConfig {
    let roots = rustls_native_certs::load_native_certs().certs;
    let roots = roots
        .iter()
        .map(|root| Certificate::from_der(root).to_owned());
    TlsConfig::builder()
        .unversioned_rustls_crypto_provider(Arc::new(rustls_graviola::default_provider()))
        .root_certs(RootCerts::Specific(Arc::new(roots.collect())))
        .build()
}

impl Http {
    /// Creates a client with the system's trust roots ([`tls`]) and the proxies named by `HTTPS_PROXY`, `HTTP_PROXY`,
    /// `ALL_PROXY` and `NO_PROXY`.
    #[must_use]
    pub fn new() -> Self {
        let config = ureq::Agent::config_builder()
            .tls_config(tls())
            .http_status_as_error(false)
            .max_redirects(5)
            .user_agent(concat!("cocoon-inputs/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(Duration::from_secs(15)))
            .timeout_recv_response(Some(STALL))
            .timeout_per_read(Some(STALL))
            .build();
        Self {
            agent: config.new_agent(),
            pause: Duration::from_millis(500),
        }
    }

    /// Creates a client that does not pause between attempts, for tests.
    #[cfg(test)]
    pub(crate) fn impatient() -> Self {
        Self {
            pause: Duration::ZERO,
            ..Self::new()
        }
    }

    /// Fetches a small document of at most `cap` bytes.
    ///
    /// # Errors
    /// [`HttpError`] if the document is too large or refused, or after a bounded number of attempts.
    pub fn get(&self, url: &str, cap: u64) -> Result<Vec<u8>, HttpError> {
        self.retrying(url, || {
            let response = self.agent.get(url).call().map_err(Step::again)?;
            refuse_status(url, response.status().as_u16())?;
            let mut bytes = Vec::new();
            let mut body = response
                .into_body()
                .into_reader()
                .take(cap.saturating_add(1));
            body.read_to_end(&mut bytes)
                .map_err(|error| Step::again(error.into()))?;
            if bytes.len() as u64 > cap {
                return Err(Step::Stop(HttpError::TooLarge {
                    url: url.to_owned(),
                    cap,
                }));
            }
            Ok(bytes)
        })
    }

    /// Downloads into `part` until it has exactly `size` bytes; resumes at its present end.
    ///
    /// # Errors
    /// [`HttpError`] if the download fails. The bytes received so far stay in `part` for the next attempt, unless the
    /// server turns out to have another file.
    pub fn download(
        &self,
        url: &str,
        size: u64,
        part: &Path,
        task: &dyn Task,
    ) -> Result<(), HttpError> {
        self.retrying(url, || self.download_once(url, size, part, task))
    }

    fn download_once(
        &self,
        url: &str,
        size: u64,
        part: &Path,
        task: &dyn Task,
    ) -> Result<(), Step> {
        let store = |error| {
            Step::Stop(HttpError::Store {
                url: url.to_owned(),
                source: failed("write", part, size)(error),
            })
        };
        let mut file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(part)
            .map_err(store)?;
        let mut have = file.metadata().map_err(store)?.len();
        if have > size {
            file.set_len(0).map_err(store)?;
            have = 0;
        }
        if have == size {
            return Ok(());
        }
        let mut request = self.agent.get(url);
        if have > 0 {
            request = request.header("range", format!("bytes={have}-"));
        }
        let response = request.call().map_err(Step::again)?;
        let status = response.status().as_u16();
        let header = |name| {
            response
                .headers()
                .get(name)
                .and_then(|value| value.to_str().ok())
        };
        let resumed = have > 0
            && status == 206
            && header("content-range") == Some(&format!("bytes {have}-{}/{size}", size - 1));
        // Any other status says nothing about the file, so the bytes received so far are kept.
        if have > 0 && !resumed && matches!(status, 200 | 206 | 416) {
            // The server ignores ranges or has another file, so the download starts from the beginning.
            file.set_len(0).map_err(store)?;
            have = 0;
            if status != 200 {
                return Err(Step::Again {
                    gained: false,
                    error: ureq::Error::StatusCode(status),
                });
            }
        }
        refuse_status(url, if resumed { 200 } else { status })?;
        let offered = header("content-length").and_then(|text| text.parse::<u64>().ok());
        if let Some(found) = offered.filter(|length| *length != size - have) {
            return Err(Step::Stop(HttpError::Length {
                url: url.to_owned(),
                expected: size - have,
                found,
            }));
        }
        file.seek(SeekFrom::Start(have)).map_err(store)?;
        let (mut body, before) = (response.into_body().into_reader(), have);
        let mut buffer = vec![0; 64 << 10];
        loop {
            task.position(have);
            let count = match body.read(&mut buffer) {
                Ok(0) if have == size => return Ok(()),
                Ok(0) => {
                    return Err(Step::Again {
                        gained: have > before,
                        error: std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into(),
                    });
                }
                Ok(count) => count,
                Err(error) => {
                    return Err(Step::Again {
                        gained: have > before,
                        error: error.into(),
                    });
                }
            };
            if count as u64 > size - have {
                return Err(Step::Stop(HttpError::TooLarge {
                    url: url.to_owned(),
                    cap: size,
                }));
            }
            file.write_all(&buffer[..count]).map_err(store)?;
            have += count as u64;
        }
    }

    fn retrying<T>(
        &self,
        url: &str,
        mut once: impl FnMut() -> Result<T, Step>,
    ) -> Result<T, HttpError> {
        let mut futile = 0;
        loop {
            match once() {
                Ok(value) => return Ok(value),
                Err(Step::Stop(error)) => return Err(error),
                Err(Step::Again { gained, error }) => {
                    futile = if gained { 0 } else { futile + 1 };
                    if futile == ATTEMPTS || is_final(&error) {
                        return Err(match error {
                            ureq::Error::StatusCode(status) => HttpError::Status {
                                url: url.to_owned(),
                                status,
                            },
                            error => HttpError::Transfer {
                                url: url.to_owned(),
                                source: Box::new(error),
                            },
                        });
                    }
                    std::thread::sleep(self.pause * futile.max(1));
                }
            }
        }
    }
}

impl Default for Http {
    fn default() -> Self {
        Self::new()
    }
}

/// How an attempt failed: worth repeating, or final.
enum Step {
    Again { gained: bool, error: ureq::Error },
    Stop(HttpError),
}

impl Step {
    fn again(error: ureq::Error) -> Self {
        Self::Again {
            gained: false,
            error,
        }
    }
}

fn refuse_status(url: &str, status: u16) -> Result<(), Step> {
    match status {
        200 => Ok(()),
        408 | 429 | 500..=599 => Err(Step::again(ureq::Error::StatusCode(status))),
        _ => Err(Step::Stop(HttpError::Status {
            url: url.to_owned(),
            status,
        })),
    }
}

/// Whether another attempt would fail in the same way.
fn is_final(error: &ureq::Error) -> bool {
    matches!(
        error,
        ureq::Error::BadUri(_)
            | ureq::Error::HostNotFound
            | ureq::Error::InvalidProxyUrl
            | ureq::Error::Rustls(_)
    )
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
