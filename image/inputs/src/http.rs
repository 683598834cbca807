//! The HTTP client: proxies from the environment, roots from the system, TLS in Rust, resumable downloads.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ureq::tls::{Certificate, RootCerts, TlsConfig};

use crate::cache::{CacheError, failed};
use crate::report::Task;

/// Attempts in a row that gain no byte before a source is given up.
const ATTEMPTS: u32 = 4;
/// Longest silence of a server between two reads.
const STALL: Duration = Duration::from_secs(30);

/// A blocking client.
#[derive(Debug, Clone)]
pub struct Http {
    agent: ureq::Agent,
    pause: Duration,
}

/// Why a transfer failed.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The server does not have it.
    #[error("{url}: HTTP status {status}")]
    Status {
        /// Address.
        url: String,
        /// HTTP status code.
        status: u16,
    },
    /// No answer, or the transfer broke, more often than we try.
    #[error("{url}: transfer failed")]
    Transfer {
        /// Address.
        url: String,
        /// Cause of the last attempt.
        #[source]
        source: Box<ureq::Error>,
    },
    /// The server sent another size than the expected one.
    #[error("{url}: the server offers {found} bytes, expected {expected}")]
    Length {
        /// Address.
        url: String,
        /// Size expected.
        expected: u64,
        /// Size offered.
        found: u64,
    },
    /// More than the bound for this document.
    #[error("{url}: more than {cap} bytes")]
    TooLarge {
        /// Address.
        url: String,
        /// Bound in bytes.
        cap: u64,
    },
    /// The bytes could not be stored.
    #[error("cannot store what {url} sent")]
    Store {
        /// Address.
        url: String,
        /// Cause.
        #[source]
        source: CacheError,
    },
}

/// TLS for a client of `ureq`: the system's trust roots (`SSL_CERT_FILE` and `SSL_CERT_DIR` are honoured), and no C.
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
    /// A client with the system's trust roots ([`tls`]) and the proxy that `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and
    /// `NO_PROXY` name.
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

    /// The same without pauses between attempts, for tests.
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
    /// [`HttpError`], after a bounded number of attempts.
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

    /// Grows `part` to exactly `size` bytes, resuming where it ends.
    ///
    /// # Errors
    /// [`HttpError`]; what arrived stays in `part` for the next try.
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
        // Any other status says nothing of the file, and what arrived stays.
        if have > 0 && !resumed && matches!(status, 200 | 206 | 416) {
            // The server ignores ranges, or what it has is another file: from the start.
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

/// How one attempt ended badly.
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

/// Errors that another attempt cannot mend.
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
