//! How much the service takes on at once, by the memory that the VM has left.

use std::time::Duration;

use crate::engine::{Bounds, Patience};

/// Connections of the smallest VM: with [`BODY`] and [`WINDOW`], withheld request bodies can hold 80 MiB, which a VM of
/// 1 GiB with the default model has free beside its answers.
const LEAST: u32 = 64;
/// Connections of the largest VM: each also takes a descriptor, buffers and a task.
const MOST: u32 = 4096;
/// Bytes of memory for each connection, of what the loaded model leaves: about a thirteenth of it can be withheld, and a
/// thirty-second wait.
const EACH: u64 = 16 << 20;
/// Requests at once on one connection of HTTP/2.
const STREAMS: u32 = 4;
/// Bytes of a chat request, and of all that one connection has under way.
const BODY: usize = 1024 * 1024;
/// Bytes of a stream of HTTP/2 that have come and are not read yet.
pub(super) const WINDOW: u32 = 64 * 1024;
/// Bytes of requests that wait for the engine, for each request that may wait.
const WAITING: usize = 512 * 1024;

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
    /// Bytes of a chat request, and of all that are read at once on one connection.
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
            connections: LEAST,
            strangers: LEAST / 2,
            streams: STREAMS,
            body: BODY,
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
                    bytes: WAITING * 64,
                },
            },
        }
    }
}

impl Limits {
    /// Bytes that clients can have this machine hold without being answered: on each connection a body, and what is not
    /// read yet of each stream.
    #[must_use]
    pub fn withheld(&self) -> u64 {
        let unread = u64::from(self.streams) * u64::from(WINDOW);
        let each = unread.saturating_add(self.body as u64);
        each.saturating_mul(self.connections.into())
    }

    /// Those of a VM that has so many bytes of memory left, with its model loaded: a connection for each [`EACH`] of them,
    /// because the engine's own need grows with what it serves.
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
