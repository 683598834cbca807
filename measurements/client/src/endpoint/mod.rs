//! The local endpoint: serves OpenAI's API on this machine and forwards every request over attested
//! TLS.
//!
//! There is no encryption between application and endpoint. Therefore it listens on loopback only,
//! requires a bearer token, and refuses requests that a web page could have caused.

mod api;
mod guard;
mod receipted;
mod reply;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

pub use guard::{Token, TokenError};

use crate::upstreams::Upstreams;
use api::Api;
use guard::Guard;

/// Largest number of simultaneous connections of applications; more wait in the system's queue.
const MAX_CONNECTIONS: usize = 64;
/// How long an application may take to send a request's headers.
const HEADER_LIMIT: Duration = Duration::from_secs(10);
/// How long running answers may go on after the shutdown was requested.
const GRACE: Duration = Duration::from_secs(5);
/// Pause after `accept` failed, for example because no file descriptors are left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Options of a local endpoint.
#[derive(Debug)]
pub struct EndpointOptions {
    /// Loopback address to listen on; port 0 for any free port.
    pub listen: SocketAddr,
    /// Bearer token that applications must send.
    pub token: Token,
}

/// A local endpoint that has bound its port but does not serve yet.
pub struct Endpoint {
    listener: TcpListener,
    address: SocketAddr,
    api: Arc<Api>,
}

/// Why the endpoint cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// The address is not a loopback address: others could read the traffic.
    #[error(
        "{0} is not a loopback address: applications talk to this endpoint unencrypted, so it listens on 127.0.0.1 or [::1] only"
    )]
    NotLoopback(SocketAddr),
    /// The port is in use.
    #[error("port {} on {} is in use: stop the program that holds it, or choose another with --listen", .0.port(), .0.ip())]
    InUse(SocketAddr),
    /// The system refused the address for another reason.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address that was asked for.
        address: SocketAddr,
        /// Error of the operating system.
        #[source]
        source: io::Error,
    },
}

/// A bound port on this machine, for an endpoint that is made later.
#[derive(Debug)]
pub struct LocalPort {
    listener: TcpListener,
    address: SocketAddr,
}

impl LocalPort {
    /// Binds the port of a loopback address; port 0 for any free port.
    pub async fn take(listen: SocketAddr) -> Result<Self, EndpointError> {
        if !listen.ip().is_loopback() {
            return Err(EndpointError::NotLoopback(listen));
        }
        let refuse = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => EndpointError::InUse(listen),
            _ => EndpointError::Listen {
                address: listen,
                source,
            },
        };
        let listener = TcpListener::bind(listen).await.map_err(refuse)?;
        let address = listener.local_addr().map_err(refuse)?;
        Ok(Self { listener, address })
    }
}

impl Endpoint {
    /// Binds the port and makes the endpoint.
    pub async fn bind(
        upstreams: Upstreams,
        options: EndpointOptions,
    ) -> Result<Self, EndpointError> {
        let EndpointOptions { listen, token } = options;
        Ok(Self::on(LocalPort::take(listen).await?, upstreams, token))
    }

    /// Makes the endpoint on a port that was bound before `upstreams` were known.
    #[must_use]
    pub fn on(port: LocalPort, upstreams: Upstreams, token: Token) -> Self {
        let LocalPort { listener, address } = port;
        let api = Arc::new(Api {
            guard: Guard::new(address, token),
            upstreams,
        });
        Self {
            listener,
            address,
            api,
        }
    }

    /// Returns the base URL to configure in applications.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Serves until `shutdown` completes. Answers in progress then have five seconds to finish.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) {
        let graceful = GracefulShutdown::new();
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut tasks = JoinSet::new();
        tokio::pin!(shutdown);
        loop {
            let accepted = async {
                // The semaphore is never closed.
                let place = places.clone().acquire_owned().await;
                (place, self.listener.accept().await)
            };
            tokio::select! {
                () = &mut shutdown => break,
                Some(_) = tasks.join_next() => {}
                (place, accepted) = accepted => match accepted {
                    Ok((stream, _)) => {
                        let connection = graceful.watch(connection(stream, self.api.clone()));
                        tasks.spawn(async move {
                            // Errors concern only the application and its socket: there is nothing
                            // to report.
                            let _ = connection.await;
                            drop(place);
                        });
                    }
                    Err(_) => sleep(ACCEPT_PAUSE).await,
                },
            }
        }
        drop(self.listener);
        let _ = timeout(GRACE, graceful.shutdown()).await;
        tasks.shutdown().await;
    }
}

fn connection(
    stream: TcpStream,
    api: Arc<Api>,
) -> http1::Connection<
    TokioIo<TcpStream>,
    impl hyper::service::HttpService<
        hyper::body::Incoming,
        ResBody = reply::Reply,
        Error = std::convert::Infallible,
        Future: Send,
    >,
> {
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let api = api.clone();
        async move { Ok(api.answer(request).await) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_LIMIT)
        .serve_connection(TokioIo::new(stream), service)
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}
