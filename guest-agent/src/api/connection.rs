//! Serves one TLS connection: handshake, exporter, attestation, requests and shutdown.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use cocoon_protocol::binding::EXPORTER_LABEL;
use cocoon_protocol::bytes::{Hex, Hex32};
use cocoon_protocol::pieces::Pieces;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::TcpStream;
use tokio::sync::{Notify, OwnedSemaphorePermit, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;

use super::activity::{Activity, Due, Table};
use super::bodies::Bodies;
use super::limits::WINDOW;
use super::receipts::Session;
use super::unread::Unread;
use super::watched::{Asked, Watched};
use super::{Service, routes};
use crate::engine::Source;

/// State that the requests of one connection share.
pub(super) struct Connection {
    /// Secret exported from the TLS session, which binds evidence to this connection.
    pub exporter: Hex32,
    /// Source of this connection's requests in the queue for the engine, where sources take turns.
    pub source: Source,
    pub service: Arc<Service>,
    activity: Arc<Activity>,
    newly_attested: Notify,
    attempts: AtomicU32,
    /// Its permit in the share of connections that have not attested.
    stranger: Mutex<Option<OwnedSemaphorePermit>>,
    session: Mutex<Option<Session>>,
    /// Collateral that the last document names, until the client fetches it.
    collateral: Mutex<Option<Arc<Pieces>>>,
    generated: AtomicU64,
    /// Memory for the bodies of its requests.
    pub bodies: Bodies,
}

impl Connection {
    /// Returns whether evidence bound to this session was handed out.
    pub fn is_attested(&self) -> bool {
        self.activity.is_attested()
    }

    /// Records that evidence bound to this session is being handed out, which names `collateral`. The connection no
    /// longer counts as a stranger.
    pub fn attested(&self, session: Session, collateral: Arc<Pieces>) {
        *self
            .collateral
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(collateral);
        drop(
            self.stranger
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        *self.session.lock().unwrap_or_else(PoisonError::into_inner) = Some(session);
        self.activity.attested();
        self.newly_attested.notify_one();
    }

    /// The session data of the last attestation.
    pub fn session(&self) -> Option<Session> {
        *self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the collateral that the last document names, which is handed out once. Nothing older is kept: a client
    /// that needs it attests again, and attestations are bounded.
    pub fn take_collateral(&self) -> Option<Arc<Pieces>> {
        let mut held = self
            .collateral
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        held.take()
    }

    /// Counts a request that reached the engine. Returns its number on this connection.
    pub fn number(&self) -> u64 {
        self.generated.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Counts an attempt to attest; returns false past the limit.
    pub fn may_attest(&self) -> bool {
        self.attempts.fetch_add(1, Ordering::Relaxed) < self.service.limits.attestations
    }
}

/// Serves a connection to its end. Errors are left to the client to notice: nothing is logged.
pub(super) async fn run(
    tcp: TcpStream,
    tls: TlsAcceptor,
    service: Arc<Service>,
    table: &Table,
    stranger: OwnedSemaphorePermit,
    mut drain: watch::Receiver<bool>,
) {
    let limits = service.limits;
    let born = Instant::now();
    // Small events must not wait for each other. A socket that refuses this option still works.
    let _ = tcp.set_nodelay(true);
    let unread = Arc::new(Unread::new(limits.least_rate));
    let tcp = Watched {
        stream: tcp,
        watcher: Arc::clone(&unread),
    };
    let Ok(Ok(tls)) = timeout(limits.head_time, tls.accept(tcp)).await else {
        return;
    };
    let Ok(exporter) = tls
        .get_ref()
        .1
        .export_keying_material([0; 32], EXPORTER_LABEL, None)
    else {
        return;
    };
    let framed = tls.get_ref().1.alpn_protocol() == Some(b"h2");
    let activity = Arc::new(Activity::new(framed, unread));
    table.add(&activity);
    let connection = Arc::new(Connection {
        exporter: Hex(exporter),
        source: service.engine.source(),
        bodies: Bodies::new(limits.body),
        service,
        activity: Arc::clone(&activity),
        newly_attested: Notify::new(),
        attempts: AtomicU32::new(0),
        stranger: Mutex::new(Some(stranger)),
        session: Mutex::default(),
        collateral: Mutex::default(),
        generated: AtomicU64::new(0),
    });
    let (shared, doing) = (Arc::clone(&connection), Arc::clone(&activity));
    let handler = service_fn(move |request| {
        let asked = Asked::begin(&doing);
        let answer = routes::answer(Arc::clone(&shared), request);
        async move {
            let response = answer.await;
            response.map(|response| response.map(|reply| asked.until_sent(reply)))
        }
    });
    // Only the protocol agreed by ALPN is accepted, because `framed` determines how the connection is watched.
    let builder = match framed {
        true => builder(&limits).http2_only(),
        false => builder(&limits).http1_only(),
    };
    let stream = Watched {
        stream: tls,
        watcher: Arc::clone(&activity),
    };
    let serving = builder.serve_connection(TokioIo::new(stream), handler);
    tokio::pin!(serving);

    let mut attest_by = Some(born + limits.attest_time);
    let mut last = born + limits.connection_age;
    let mut ending = false;
    loop {
        let (at, ends) = match activity.due(&limits, ending) {
            Due::Cut(at) if at <= Instant::now() => return,
            Due::Cut(at) | Due::Look(at) => (at, false),
            Due::End(at) => (at, true),
        };
        let over = tokio::select! {
            _ = serving.as_mut() => return,
            () = connection.newly_attested.notified(), if attest_by.is_some() => {
                attest_by = None;
                false
            }
            () = sleep_until(attest_by.unwrap_or(last)), if attest_by.is_some() => return,
            () = sleep_until(last), if ending => return,
            () = sleep_until(last), if !ending => true,
            () = sleep_until(at) => ends,
            Ok(_) = drain.wait_for(|drain| *drain), if !ending => true,
            () = activity.changed() => false,
        };
        if over && !ending {
            ending = true;
            last = Instant::now() + limits.grace;
            activity.leave();
            serving.as_mut().graceful_shutdown();
        }
    }
}

fn builder(limits: &super::Limits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        // hyper's timeout would count idle time too; `Activity` limits the head instead.
        .header_read_timeout(None)
        .max_buf_size(64 * 1024)
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        // Bytes that were received and not read yet. Each stream has its own window, so that none waits for another.
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW.saturating_mul(limits.streams))
        .max_header_list_size(16 * 1024)
        .max_send_buf_size(64 * 1024)
        .keep_alive_interval(limits.head_time * 3)
        // The answer to a ping is queued after data that the client has not taken yet, so it gets as much time as that data.
        .keep_alive_timeout(limits.unread);
    builder
}
