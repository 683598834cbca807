//! What this host shows to anybody who asks: routes given as a table, over HTTPS or, on the loopback interface alone,
//! over HTTP for a reverse proxy of this machine.
//!
//! ```text
//! Web::bind(settings) ──▶ run(routes) ──▶ TLS (tls.rs) ──▶ HTTP/1.1 ──▶ the first route that fits ──▶ Page (page.rs)
//! ```
//!
//! Only GET and HEAD are answered, and requests have no body. Connections, connections from one address, the time for a
//! request's head and the life of a connection are bounded; pages say how long they may be kept, and those that may carry
//! an `ETag` that spares a client what it has.

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

/// Connections at once; more wait in the system's queue.
const CONNECTIONS: usize = 256;
/// Connections at once from one address.
const OF_ONE: usize = 32;
/// How long a handshake, or a request's head, may take; a connection that is kept waits as long for the next request.
const HEAD: Duration = Duration::from_secs(20);
/// How long a connection may live, whatever it carries: whoever follows something connects again.
const LIFE: Duration = Duration::from_secs(900);
/// How long to leave a system alone that cannot accept a connection.
const RETRY: Duration = Duration::from_millis(100);

/// Where to listen, and with which certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebSettings {
    /// The address.
    pub listen: SocketAddr,
    /// Certificate chain and key, PEM files; without them it is HTTP, on a loopback address.
    pub tls: Option<TlsFiles>,
}

/// PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, then those between it and the root.
    pub certificate: PathBuf,
    /// Its private key: PKCS#8, PKCS#1 or SEC1.
    pub key: PathBuf,
}

/// Why nothing is shown.
#[derive(Debug, thiserror::Error)]
pub enum WebError {
    /// The address.
    #[error("cannot listen on {address}: choose another address, or stop the program that has it")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The certificate or its key.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// A page to come.
pub type Answer = Pin<Box<dyn Future<Output = Page> + Send>>;
type Maker = Arc<dyn Fn(Parts) -> Answer + Send + Sync>;

/// Which requests are answered, and with what.
#[derive(Clone)]
pub struct Route {
    path: String,
    below: bool,
    answer: Maker,
}

impl Route {
    /// Answers requests for exactly `path`. The query is for `answer` to read.
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

/// A listener that nobody is answered on before it runs.
pub struct Web {
    listener: TcpListener,
    tls: Option<Tls>,
    note: Note,
}

/// Tells whoever runs this what is wrong with it.
type Note = Box<dyn Fn(&str) + Send + Sync>;

impl Web {
    /// Takes the address and reads the certificate. Needs a runtime.
    ///
    /// # Errors
    /// [`WebError`].
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

    /// Tells `note` what goes wrong while it runs.
    #[must_use]
    pub fn noting(self, note: impl Fn(&str) + Send + Sync + 'static) -> Self {
        let note = Box::new(note);
        Self { note, ..self }
    }

    /// The address, also where the system chose the port.
    ///
    /// # Errors
    /// From the system.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until dropped. The first route that fits answers.
    pub async fn run(mut self, routes: Vec<Route>) {
        let routes: Arc<[Route]> = routes.into();
        let permits = Arc::new(Semaphore::new(CONNECTIONS));
        let places = Places::new(OF_ONE);
        let mut connections = JoinSet::new();
        loop {
            // Never closed: acquiring fails only after `close`.
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
                        // A broken connection concerns its client, who notices.
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
