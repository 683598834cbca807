//! The client of the daemon's local API, used by the commands.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::config::DEFAULT_STATE;
use crate::daemon::SOCKET;
use crate::daemon::api::{Code, Problem, Refusal};
use crate::state;

/// How long the daemon may take to answer a question.
const PATIENCE: Duration = Duration::from_secs(10);
/// Maximum length of an answer in bytes.
const MAX_ANSWER: usize = 16 << 20;
/// Maximum length of a line of a stream in bytes.
const MAX_LINE: usize = 64 * 1024;

/// Why the daemon gave no usable answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nothing listens on the socket.
    #[error("no daemon listens on {path:?}: start one with `cocoon-host serve`")]
    NotRunning {
        /// Path of the socket.
        path: PathBuf,
        /// The error of the system.
        #[source]
        source: io::Error,
    },
    /// This user may not connect to the socket.
    #[error(
        "the daemon's state in {state:?} is not open to this user: run the command as root or as the daemon's user, or set COCOON_STATE to a folder of your own to do without that daemon"
    )]
    Denied {
        /// The daemon's state folder.
        state: PathBuf,
        /// The error of the system.
        #[source]
        source: io::Error,
    },
    /// The connection to the daemon failed.
    #[error("the connection to the daemon failed")]
    Connection(#[from] hyper::Error),
    /// The daemon did not answer in time.
    #[error("the daemon did not answer within {} seconds", PATIENCE.as_secs())]
    Late,
    /// The daemon refused the request.
    #[error("{}", .0.message)]
    Refused(Problem),
    /// The answer cannot be parsed.
    #[error("the daemon's answer is not understood: is it of another release?")]
    Shape,
}

/// A daemon, identified by its socket.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// Returns a client of the daemon with this state folder.
    #[must_use]
    pub fn of(root: &Path) -> Self {
        let socket = root.join(SOCKET);
        Self { socket }
    }

    /// The daemon's state folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.socket.parent().unwrap_or(Path::new("/"))
    }

    /// Finds the running daemon: that of the user's own state folder or, unless `COCOON_STATE` names it, that of the machine.
    /// Returns `None` if neither runs.
    ///
    /// # Errors
    /// Fails with [`ClientError::Denied`] if none was found but one may run that this user may not ask.
    pub async fn find() -> Result<Option<Self>, ClientError> {
        let own = state::root().ok();
        let named = std::env::var_os("COCOON_STATE").is_some_and(|value| !value.is_empty());
        let machine = (!named).then(|| PathBuf::from(DEFAULT_STATE));
        let mut denied = None;
        for root in [own, machine].into_iter().flatten() {
            let client = Self::of(&root);
            match client.connect().await {
                Ok(_) => return Ok(Some(client)),
                Err(error @ ClientError::Denied { .. }) => denied = denied.or(Some(error)),
                Err(_) => {}
            }
        }
        denied.map_or(Ok(None), Err)
    }

    async fn connect(&self) -> Result<UnixStream, ClientError> {
        let stream = UnixStream::connect(&self.socket).await;
        stream.map_err(|source| match source.kind() {
            io::ErrorKind::PermissionDenied => ClientError::Denied {
                state: self.root().to_owned(),
                source,
            },
            _ => ClientError::NotRunning {
                path: self.socket.clone(),
                source,
            },
        })
    }

    /// Sends GET `path` and parses the answer, which must come within ten seconds.
    ///
    /// # Errors
    /// Fails with [`ClientError`] if the daemon cannot be reached, is late, refuses, or its answer cannot be parsed.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let asked = async { whole(self.send(Method::GET, path).await?).await };
        timeout(PATIENCE, asked)
            .await
            .map_err(|_| ClientError::Late)?
    }

    /// Sends POST `path` and parses the answer. Sets no deadline.
    ///
    /// # Errors
    /// As [`Self::get`], but never late.
    pub async fn post<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        whole(self.send(Method::POST, path).await?).await
    }

    /// Sends POST `path` with `body` as JSON, and parses the answer. Sets no deadline.
    ///
    /// # Errors
    /// As [`Self::post`].
    pub async fn post_with<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|_| ClientError::Shape)?;
        whole(self.send_with(Method::POST, path, body.into()).await?).await
    }

    /// Reads the lines of `path` until the stream ends or `take` returns false.
    ///
    /// # Errors
    /// Fails with [`ClientError`] if the daemon cannot be reached or refuses, or if a line is too long or no UTF-8.
    pub async fn lines(
        &self,
        path: &str,
        mut take: impl FnMut(&str) -> bool,
    ) -> Result<(), ClientError> {
        let mut response = self.send(Method::GET, path).await?;
        if response.status() != StatusCode::OK {
            return whole::<()>(response).await;
        }
        let mut rest = Vec::new();
        while let Some(frame) = response.body_mut().frame().await {
            let Ok(data) = frame?.into_data() else {
                continue;
            };
            rest.extend_from_slice(&data);
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                let line = std::str::from_utf8(&line[..end]).map_err(|_| ClientError::Shape)?;
                if !take(line) {
                    return Ok(());
                }
            }
            if rest.len() > MAX_LINE {
                return Err(ClientError::Shape);
            }
        }
        Ok(())
    }

    async fn send(&self, method: Method, path: &str) -> Result<Response<Incoming>, ClientError> {
        self.send_with(method, path, Bytes::new()).await
    }

    async fn send_with(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, ClientError> {
        let stream = self.connect().await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Ends with the answer; the request reports its errors.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "localhost")
            .body(Full::new(body))
            .map_err(|_| ClientError::Shape)?;
        Ok(sender.send_request(request).await?)
    }
}

impl ClientError {
    /// Returns the daemon's error code, if it refused.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Refused(problem) => Some(problem.code),
            _ => None,
        }
    }
}

async fn whole<T: DeserializeOwned>(response: Response<Incoming>) -> Result<T, ClientError> {
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_ANSWER)
        .collect()
        .await;
    let bytes = body.map_err(|_| ClientError::Shape)?.to_bytes();
    if status == StatusCode::OK {
        return serde_json::from_slice(&bytes).map_err(|_| ClientError::Shape);
    }
    match serde_json::from_slice::<Refusal>(&bytes) {
        Ok(refusal) => Err(ClientError::Refused(refusal.error)),
        Err(_) => Err(ClientError::Shape),
    }
}
