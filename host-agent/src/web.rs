//! An HTTP server with a table of routes, for what the host shows to the public. It serves HTTPS or, on loopback only, HTTP
//! for a reverse proxy on the same machine.
//!
//! ```text
//! Web::bind(settings) ──▶ run(routes) ──▶ TLS (tls.rs) ──▶ HTTP/1.1 ──▶ the first route that fits ──▶ Page (page.rs)
//! ```
//!
//! Only GET and HEAD are answered, and requests have no body. Total connections, connections per address, the time for a
//! request's head and the life of a connection are bounded. Pages say how long they may be cached, and cacheable ones carry
//! an `ETag`, so that unchanged bytes are not sent again.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::{Body as _, Incoming};
use hyper::http::request::Parts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

mod page;
mod tls;

pub use page::{Body, Cache, Page};
pub use tls::TlsError;

use tls::Tls;

use crate::places::Places;

/// Connections at once. Further clients wait in the system's queue.
const CONNECTIONS: usize = 256;
/// Connections at once from one IPv4 address or IPv6 /64 network.
const OF_ONE: usize = 32;
/// How long a handshake or a request's head may take, and how long a kept connection may wait for the next request.
const HEAD: Duration = Duration::from_secs(20);
/// Longest life of a connection, whatever it carries. Clients that follow a stream reconnect.
const LIFE: Duration = Duration::from_secs(900);
/// Pause after a failed accept.
const RETRY: Duration = Duration::from_millis(100);

/// Settings of the server: its address and its certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebSettings {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// PEM files of certificate chain and key; without them, the server speaks HTTP on a loopback address.
    pub tls: Option<TlsFiles>,
}

/// PEM files of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificate chain: the server's certificate, then the intermediate ones.
    pub certificate: PathBuf,
    /// Private key in PKCS#8, PKCS#1 or SEC1.
    pub key: PathBuf,
}

/// Why the server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum WebError {
    /// The address cannot be bound.
    #[error("cannot listen on {address}: choose another address, or stop the program that has it")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The certificate or its key cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// A pending page.
pub type Answer = Pin<Box<dyn Future<Output = Page> + Send>>;
type Maker = Arc<dyn Fn(Parts) -> Answer + Send + Sync>;

/// Requests that are answered, and how.
#[derive(Clone)]
pub struct Route {
    path: String,
    below: bool,
    answer: Maker,
}

impl Route {
    /// Answers requests for exactly `path`. The query is left to `answer`.
    pub fn exact<F>(path: &str, answer: impl Fn(Parts) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Page> + Send + 'static,
    {
        Self::new(path, false, answer)
    }

    /// Answers requests for everything below `folder`, which ends with a slash.
    pub fn below<F>(folder: &str, answer: impl Fn(Parts) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Page> + Send + 'static,
    {
        Self::new(folder, true, answer)
    }

    fn new<F>(path: &str, below: bool, answer: impl Fn(Parts) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Page> + Send + 'static,
    {
        Self {
            path: path.to_owned(),
            below,
            answer: Arc::new(move |parts| Box::pin(answer(parts))),
        }
    }

    fn fits(&self, path: &str) -> bool {
        match self.below {
            true => path.len() > self.path.len() && path.starts_with(&self.path),
            false => path == self.path,
        }
    }
}

/// A bound listener, which answers nothing before [`Web::run`].
pub struct Web {
    listener: TcpListener,
    tls: Option<Tls>,
    note: Note,
}

/// A callback that tells the operator what is wrong.
type Note = Box<dyn Fn(&str) + Send + Sync>;

impl Web {
    /// Binds the address and reads the certificate. Needs a Tokio runtime.
    ///
    /// # Errors
    /// [`WebError`] if the address cannot be bound or the certificate cannot be used.
    pub fn bind(settings: &WebSettings) -> Result<Self, WebError> {
        let tls = settings.tls.as_ref().map(Tls::load).transpose()?;
        let address = settings.listen;
        let listen = || {
            let listener = std::net::TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            TcpListener::from_std(listener)
        };
        let listener = listen().map_err(|source| WebError::Listen { address, source })?;
        let note: Note = Box::new(|_| {});
        Ok(Self {
            listener,
            tls,
            note,
        })
    }

    /// Reports problems to `note` while the server runs.
    #[must_use]
    pub fn noting(self, note: impl Fn(&str) + Send + Sync + 'static) -> Self {
        let note = Box::new(note);
        Self { note, ..self }
    }

    /// Returns the address, with the actual port if the system chose it.
    ///
    /// # Errors
    /// The system's error.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers requests until dropped, each by the first route that fits.
    pub async fn run(mut self, routes: Vec<Route>) {
        let routes: Arc<[Route]> = routes.into();
        let permits = Arc::new(Semaphore::new(CONNECTIONS));
        let places = Places::new(OF_ONE);
        let mut connections = JoinSet::new();
        loop {
            // The semaphore is never closed, so acquiring a permit cannot fail.
            let permit = Arc::clone(&permits).acquire_owned().await.ok();
            tokio::select! {
                accepted = self.listener.accept() => {
                    let Ok((stream, from)) = accepted else {
                        tokio::time::sleep(RETRY).await;
                        continue;
                    };
                    let Some(place) = places.take(from.ip()) else { continue };
                    let (routes, tls) = (Arc::clone(&routes), self.tls.as_mut().map(|tls| tls.acceptor(&self.note)));
                    connections.spawn(async move {
                        let _held = (permit, place);
                        // An error on a connection concerns only its client, which notices it itself.
                        let _ = timeout(LIFE, connection(stream, tls, routes)).await;
                    });
                }
                Some(_) = connections.join_next() => {}
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    tls: Option<tokio_rustls::TlsAcceptor>,
    routes: Arc<[Route]>,
) {
    let _ = stream.set_nodelay(true);
    match tls {
        None => speak(stream, routes).await,
        Some(tls) => {
            if let Ok(Ok(stream)) = timeout(HEAD, tls.accept(stream)).await {
                speak(stream, routes).await;
            }
        }
    }
}

async fn speak(stream: impl AsyncRead + AsyncWrite + Unpin, routes: Arc<[Route]>) {
    let service = service_fn(move |request| {
        let routes = Arc::clone(&routes);
        async move { Ok::<_, Infallible>(answer(&routes, request).await) }
    });
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer(routes: &[Route], request: Request<Incoming>) -> Response<Body> {
    let empty = request.body().is_end_stream();
    let (parts, _) = request.into_parts();
    let head = parts.method == Method::HEAD;
    if !head && parts.method != Method::GET {
        let page = Page::text(
            StatusCode::METHOD_NOT_ALLOWED,
            "only GET and HEAD are answered\n",
        );
        return page.with("allow", "GET, HEAD").response(None, head);
    }
    if !empty {
        let page = Page::text(
            StatusCode::BAD_REQUEST,
            "requests have no body: leave it out\n",
        );
        return page.response(None, head);
    }
    let known = parts.headers.get(hyper::header::IF_NONE_MATCH).cloned();
    let route = routes.iter().find(|route| route.fits(parts.uri.path()));
    let page = match route {
        Some(route) => (route.answer)(parts).await,
        None => Page::missing(),
    };
    page.response(known.as_ref(), head)
}

#[cfg(test)]
mod tests;
