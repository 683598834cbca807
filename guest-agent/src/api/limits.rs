//! Limits on how much the service accepts at once, derived from the memory that the VM has left.

use std::time::Duration;

use crate::engine::{Bounds, Patience};

/// Connections of the smallest VM. With [`BODY`] and [`WINDOW`], withheld request bodies can hold 80 MiB, which a VM of
/// 1 GiB with the default model has free beside its answers.
const LEAST: u32 = 64;
/// Connections of the largest VM: each of them also takes a file descriptor, buffers and a task.
const MOST: u32 = 4096;
/// Bytes of memory for each connection, out of what the loaded model leaves. About a thirteenth of it can be taken by
/// withheld requests, and a thirty-second by requests that wait for the engine.
const EACH: u64 = 16 << 20;
/// Concurrent requests on one HTTP/2 connection.
const STREAMS: u32 = 4;
/// Most bytes of a chat request, and of all bodies that one connection sends at the same time.
const BODY: usize = 1024 * 1024;
/// Bytes of an HTTP/2 stream that were received and not read yet.
pub(super) const WINDOW: u32 = 64 * 1024;
/// Bytes of requests that wait for the engine, for each request that may wait.
const WAITING: usize = 512 * 1024;

/// Limits of the service.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Concurrent connections. A further one takes the place of the connection that has been idle longest, preferably
    /// of one that has not attested. If none is idle, the new connection is closed unread.
    pub connections: u32,
    /// Concurrent connections that have not attested, including those in their handshake. However many strangers
    /// connect, the rest of `connections` stays available to attested clients.
    pub strangers: u32,
    /// Concurrent requests on one HTTP/2 connection.
    pub streams: u32,
    /// Most bytes of a chat request, and of all bodies that are read at once on one connection.
    pub body: usize,
    /// Time for the TLS handshake, and for the head of each request from its first byte on.
    pub head_time: Duration,
    /// Time that a connection may be idle between two requests: the next message of a person must not cost another attestation.
    pub idle: Duration,
    /// How far a client may fall behind in taking an answer: answers that nobody reads must not keep other clients out.
    pub unread: Duration,
    /// Bytes per second. A client that takes at least so many never falls behind.
    pub least_rate: u32,
    /// Time for the body of each request.
    pub body_time: Duration,
    /// Time from the start of the connection to a successful attestation, including the wait for evidence.
    pub attest_time: Duration,
    /// Attestations of one connection. All clients reach the guest through the host's relay, from one address, so that
    /// connections are the only sources that can be told apart.
    pub attestations: u32,
    /// Age at which a connection takes no more requests.
    pub connection_age: Duration,
    /// Time that running requests get once their connection has reached that age, or a drain has begun.
    pub grace: Duration,
    /// How long requests may wait for generation slots, and how many may wait.
    pub patience: Patience,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: LEAST,
            strangers: LEAST / 2,
            streams: STREAMS,
            body: BODY,
            head_time: Duration::from_secs(10),
            idle: Duration::from_secs(120),
            unread: Duration::from_secs(60),
            // The bytes of four usual events.
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
                    // In addition to the bodies above: a waiting request with one choice holds no more than its body did.
                    bytes: WAITING * 64,
                },
            },
        }
    }
}

impl Limits {
    /// Bytes that clients can make this machine hold without being answered: on each connection one body, and the
    /// unread data of each stream.
    #[must_use]
    pub fn withheld(&self) -> u64 {
        let unread = u64::from(self.streams) * u64::from(WINDOW);
        let each = unread.saturating_add(self.body as u64);
        each.saturating_mul(self.connections.into())
    }

    /// Limits of a VM that has `available` bytes of memory left with its model loaded. Allows one connection for each
    /// [`EACH`] bytes, because the memory of the engine grows with what it serves.
    #[must_use]
    pub fn within(available: u64) -> Self {
        let connections = u32::try_from(available / EACH).unwrap_or(MOST);
        let connections = connections.clamp(LEAST, MOST);
        let waiting = usize::try_from(connections).unwrap_or(usize::MAX);
        let default = Self::default();
        let bounds = Bounds {
            requests: waiting,
            bytes: WAITING.saturating_mul(waiting),
        };
        Self {
            connections,
            strangers: connections / 2,
            patience: Patience {
                bounds,
                ..default.patience
            },
            ..default
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn larger_machines_take_more_connections_and_no_machine_more_than_it_can_hold() {
        const GIB: u64 = 1 << 30;
        let of = |available| Limits::within(available);
        for small in [0, GIB / 2, GIB] {
            assert_eq!(of(small).connections, LEAST);
            assert_eq!(of(small).patience.bounds.requests, 64);
            assert_eq!(of(small).patience.bounds.bytes, 32 << 20);
        }
        assert_eq!(of(16 * GIB).connections, 1024);
        assert_eq!(of(16 * GIB).strangers, 512);
        assert_eq!(of(u64::MAX).connections, MOST);
        for available in [2 * GIB, 7 * GIB, 31 * GIB] {
            let limits = of(available);
            assert!(limits.withheld() <= available / 12);
            assert!(limits.patience.bounds.bytes as u64 <= available / 32);
        }
    }
}
