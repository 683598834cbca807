//! The local endpoint: OpenAI's API on this machine, every request sent on over attested TLS.
//!
//! Between application and endpoint there is no encryption: it listens on loopback only, asks for a
//! bearer token, and refuses requests that a web page could have provoked.

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

/// Connections of applications at once; more wait in the system's queue.
const MAX_CONNECTIONS: usize = 64;
/// How long an application may take for a request's headers.
const HEADER_LIMIT: Duration = Duration::from_secs(10);
/// How long running answers may go on after the end was asked for.
const GRACE: Duration = Duration::from_secs(5);
/// Pause after the system refused a connection (no file descriptors left, say).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a local endpoint is made of.
#[derive(Debug)]
pub struct EndpointOptions {
    /// Where to listen: a loopback address, port 0 for any free one.
    pub listen: SocketAddr,
    /// What applications must show.
    pub token: Token,
}

/// A local endpoint that holds its port and serves nothing yet.
pub struct Endpoint {
    listener: TcpListener,
    address: SocketAddr,
    api: Arc<Api>,
}

/// Why there is no endpoint.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// Others could listen in.
    #[error(
        "{0} is not a loopback address: applications talk to this endpoint unencrypted, so it listens on 127.0.0.1 or [::1] only"
    )]
    NotLoopback(SocketAddr),
    /// The port is taken.
    #[error("port {} on {} is in use: stop the program that holds it, or choose another with --listen", .0.port(), .0.ip())]
    InUse(SocketAddr),
    /// The system refused the address for another reason.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// From the operating system.
        #[source]
        source: io::Error,
    },
}

/// A port on this machine that is taken, for an endpoint to come.
#[derive(Debug)]
pub struct LocalPort {
    listener: TcpListener,
    address: SocketAddr,
}

impl LocalPort {
    /// Takes the port of a loopback address; 0 for any free one.
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
    /// Takes the port.
    pub async fn bind(
        upstreams: Upstreams,
        options: EndpointOptions,
    ) -> Result<Self, EndpointError> {
        let EndpointOptions { listen, token } = options;
        Ok(Self::on(LocalPort::take(listen).await?, upstreams, token))
    }

    /// On a port that was taken before `upstreams` were known.
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

    /// What applications take as their base URL.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Serves until `shutdown` is done; answers that run then have five seconds to end.
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
                            // What went wrong is between the application and its socket: nothing to add.
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
