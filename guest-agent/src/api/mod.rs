//! The HTTP API over attested TLS, and the limits on who may use it, how much, and for how long.
//!
//! Every limit is a field of [`Limits`] and is checked before the work that it bounds.

mod activity;
mod bodies;
pub mod chat;
mod choices;
mod connection;
pub mod error;
mod event;
mod fields;
mod limits;
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
pub use limits::Limits;
use places::{Place, Places};

use crate::attester::Attester;
use crate::engine::Engine;
pub use crate::metering::{Counters, Meter};
use crate::tls::AttestedListener;

/// Everything that requests need.
pub struct Service {
    /// Produces session documents.
    pub attester: Attester,
    /// Generates answers.
    pub engine: Engine,
    /// Signs receipts.
    pub receipts: receipts::Receipts,
    /// Counts connections, requests and tokens.
    pub counters: Arc<Counters>,
    /// Limits on connections and requests.
    pub limits: Limits,
}

/// Serves until `drain` becomes true and every connection has ended, at most [`Limits::grace`] later. Dropping the
/// future cuts every connection and cancels its requests.
pub async fn serve(listener: AttestedListener, service: Service, mut drain: watch::Receiver<bool>) {
    let service = Arc::new(service);
    let limits = service.limits;
    let table = Arc::new(Table::default());
    let places = Places::new(&limits);
    let mut connections = JoinSet::new();
    loop {
        // Connections that have ended hold nothing but their entry in this set.
        while connections.try_join_next().is_some() {}
        let accepted = tokio::select! {
            accepted = listener.tcp.accept() => accepted,
            // An error means that the sender is gone and nobody can ask for a drain any more, so serving goes on.
            Ok(_) = drain.wait_for(|drain| *drain) => break,
        };
        let Ok((tcp, _)) = accepted else {
            // Out of file descriptors or memory: wait until other connections have finished.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let Some(promised) = places.promise(&table) else {
            continue;
        };
        let (service, table, drain) = (Arc::clone(&service), Arc::clone(&table), drain.clone());
        let (places, tls) = (places.clone(), listener.tls.clone());
        connections.spawn(async move {
            // A connection that was asked to make room has `head_time` to close by itself and is cut then.
            let within = limits.head_time * 2;
            let Some(Place { place, share }) = places.take(promised, within).await else {
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
