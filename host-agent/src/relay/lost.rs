//! Connections that come to nothing here: whoever makes them learns no reason, and whoever keeps the VM would not know of
//! them.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// Between two lines of one kind: whoever knocks without end must not fill the log.
const PAUSE: Duration = Duration::from_secs(600);

/// Counts them, and says so once in a while.
pub(super) struct Lost<F> {
    guest: SocketAddr,
    of_one: usize,
    say: F,
    refused: Untold,
    unreached: Untold,
}

/// Those of one kind of which nothing has been said.
#[derive(Default)]
struct Untold {
    count: u64,
    said: Option<Instant>,
}

impl<F: Fn(String)> Lost<F> {
    /// On the way to `guest`, where one address has so many.
    pub(super) fn new(guest: SocketAddr, of_one: usize, say: F) -> Self {
        Self {
            guest,
            of_one,
            say,
            refused: Untold::default(),
            unreached: Untold::default(),
        }
    }

    /// One more that was closed at once because its address has had its share.
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

    /// One more that was closed because the guest does not answer.
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
    /// One more; what to say of all of them, when it is time.
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
