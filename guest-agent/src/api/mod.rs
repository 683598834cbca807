//! The HTTP API over attested TLS: who may speak, how much, and for how long.
//!
//! Every limit is a field of [`Limits`] and counts before the work that it bounds.

mod activity;
pub mod chat;
mod choices;
mod connection;
pub mod error;
mod event;
mod fields;
mod options;
mod places;
pub mod receipts;
mod reply;
mod routes;
mod schema;
mod steady;
pub mod stream;
mod tools;
mod turns;
mod unread;
mod watched;
mod whole;
pub mod wire;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use activity::Table;
use places::{Place, Places};

use crate::attester::Attester;
use crate::engine::{Bounds, Engine, Patience};
pub use crate::metering::{Counters, Meter};
use crate::tls::AttestedListener;

/// Bounds of the service.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once; one more takes the place of the one that was idle longest, of those that
    /// have not attested where there is one, or is closed unread where none is idle.
    pub connections: u32,
    /// Of them, those that have not attested, handshakes included: however many strangers come, the rest is
    /// for those that have.
    pub strangers: u32,
    /// Requests at once on one connection of HTTP/2.
    pub streams: u32,
    /// Bytes of a chat request.
    pub body: usize,
    /// TLS handshake, and each request's head from its first byte on.
    pub head_time: Duration,
    /// Between two requests of a connection: a person's next line must not cost another attestation.
    pub idle: Duration,
    /// How far a client may be behind with taking an answer: answers that nobody reads must not turn
    /// others away.
    pub unread: Duration,
    /// Bytes in a second: who takes no fewer is never behind.
    pub least_rate: u32,
    /// Each request's body.
    pub body_time: Duration,
    /// From the handshake to a successful attestation; waiting for evidence counts.
    pub attest_time: Duration,
    /// Attestations of one connection. All clients reach the guest through the host's relay, from
    /// one address: the connection is the only source that can be told apart.
    pub attestations: u32,
    /// Age at which a connection takes no more requests.
    pub connection_age: Duration,
    /// What running requests get after that, or after a drain.
    pub grace: Duration,
    /// How long requests wait for generation slots, and how much may wait.
    pub patience: Patience,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // Their product bounds what withheld request bodies can hold: 256 MiB, which the smallest
            // VM of the default model has free.
            connections: 64,
            strangers: 32,
            streams: 4,
            body: 1024 * 1024,
            head_time: Duration::from_secs(10),
            idle: Duration::from_secs(120),
            unread: Duration::from_secs(60),
            // Four events of usual length.
            least_rate: 2048,
            body_time: Duration::from_secs(60),
            attest_time: Duration::from_secs(90),
            attestations: 8,
            connection_age: Duration::from_secs(3600),
            grace: Duration::from_secs(600),
            patience: Patience {
                time: Duration::from_secs(30),
                bounds: Bounds {
                    requests: 64,
                    // Beside the bodies above: what waits with one choice holds no more than its body did.
                    bytes: 32 * 1024 * 1024,
                },
            },
        }
    }
}

/// Everything that a request needs.
pub struct Service {
    /// Gives session documents.
    pub attester: Attester,
    /// Gives answers.
    pub engine: Engine,
    /// Signs receipts.
    pub receipts: receipts::Receipts,
    /// What is counted.
    pub counters: Arc<Counters>,
    /// Bounds.
    pub limits: Limits,
}

/// Serves until `drain` becomes true and every connection has ended, at most [`Limits::grace`] later. Dropping the future
/// cuts every connection, with whatever runs on it.
pub async fn serve(listener: AttestedListener, service: Service, mut drain: watch::Receiver<bool>) {
    let service = Arc::new(service);
    let limits = service.limits;
    let table = Arc::new(Table::default());
    let places = Places::new(&limits);
    let mut connections = JoinSet::new();
    loop {
        // Those that have ended hold nothing any more but their place here.
        while connections.try_join_next().is_some() {}
        let accepted = tokio::select! {
            accepted = listener.tcp.accept() => accepted,
            // An error means that nobody can ask for a drain any more: serve on.
            Ok(_) = drain.wait_for(|drain| *drain) => break,
        };
        let Ok((tcp, _)) = accepted else {
            // Out of descriptors or memory: let others finish first.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let Some(promised) = places.promise(&table) else {
            continue;
        };
        let (service, table, drain) = (Arc::clone(&service), Arc::clone(&table), drain.clone());
        let (places, tls) = (places.clone(), listener.tls.clone());
        connections.spawn(async move {
            let Some(Place { place, share }) = places.take(promised, limits.head_time).await else {
                return;
            };
            service.counters.connected();
            connection::run(tcp, tls, service, &table, share, drain).await;
            drop(place);
        });
    }
    drop(listener);
    service.engine.drain();
    places.all_free(Instant::now() + limits.grace).await;
}
