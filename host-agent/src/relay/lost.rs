//! Reports connections that the relay closed. The client learns no reason, and without these notes the operator would
//! not notice.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// Least time between two notes of one kind, so that a persistent client cannot fill the log.
const PAUSE: Duration = Duration::from_secs(600);

/// Counts closed connections and reports them from time to time.
pub(super) struct Lost<F> {
    guest: SocketAddr,
    of_one: usize,
    say: F,
    refused: Untold,
    unreached: Untold,
}

/// Closed connections of one kind that have not been reported yet.
#[derive(Default)]
struct Untold {
    count: u64,
    said: Option<Instant>,
}

impl<F: Fn(String)> Lost<F> {
    /// Reports connections on the way to `guest`, with a limit of `of_one` per address.
    pub(super) fn new(guest: SocketAddr, of_one: usize, say: F) -> Self {
        Self {
            guest,
            of_one,
            say,
            refused: Untold::default(),
            unreached: Untold::default(),
        }
    }

    /// Records a connection that was closed because its address has reached the limit.
    pub(super) fn refused(&mut self, from: IpAddr, now: Instant) {
        let Some(closed) = self.refused.add("closed at once", now) else {
            return;
        };
        (self.say)(format!(
            "{closed} because {} has {} already, as many as one address may: --connections-per-address, or `connections_per_address` in the file, allows more",
            from.to_canonical(),
            self.of_one
        ));
    }

    /// Records a connection that was closed because the guest does not answer.
    pub(super) fn unreached(&mut self, error: &io::Error, now: Instant) {
        let Some(closed) = self.unreached.add("closed", now) else {
            return;
        };
        (self.say)(format!(
            "{closed} because the guest cannot be reached at {}: {error}; it serves, so look at its network (`network` in the file)",
            self.guest
        ));
    }
}

impl Untold {
    /// Counts one more connection. Returns the beginning of a note about all unreported ones if a note is due.
    fn add(&mut self, ended: &str, now: Instant) -> Option<String> {
        self.count += 1;
        if (self.said).is_some_and(|said| now.duration_since(said) < PAUSE) {
            return None;
        }
        self.said = Some(now);
        Some(match std::mem::take(&mut self.count) {
            1 => format!("a connection was {ended}"),
            count => format!("{count} connections were {ended}, the last of them"),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn many_are_told_in_one_line_of_each_kind() {
        let said = RefCell::new(Vec::new());
        let guest = "127.0.0.1:18443".parse().unwrap();
        let mut lost = Lost::new(guest, 16, |line| said.borrow_mut().push(line));
        let (one, other) = ("192.0.2.1", "::ffff:192.0.2.2");
        let now = Instant::now();
        let late = now + PAUSE;
        for (from, at) in [(one, now), (other, now), (one, now), (other, late)] {
            lost.refused(from.parse().unwrap(), at);
        }
        let error = io::Error::from(io::ErrorKind::ConnectionRefused);
        for at in [now, now, late] {
            lost.unreached(&error, at);
        }
        let share = "already, as many as one address may: --connections-per-address, or `connections_per_address` in the file, allows more";
        let network = "because the guest cannot be reached at 127.0.0.1:18443: connection refused; it serves, so look at its network (`network` in the file)";
        let expected = [
            format!("a connection was closed at once because 192.0.2.1 has 16 {share}"),
            format!(
                "3 connections were closed at once, the last of them because 192.0.2.2 has 16 {share}"
            ),
            format!("a connection was closed {network}"),
            format!("2 connections were closed, the last of them {network}"),
        ];
        assert_eq!(*said.borrow(), expected);
    }
}
