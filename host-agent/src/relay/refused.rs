//! Connections that are closed because their address has its share: who is turned away learns no reason, and whoever keeps
//! the VM would not know that anybody is.

use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Between two lines: whoever knocks without end must not fill the log.
const PAUSE: Duration = Duration::from_secs(600);

/// Counts them, and says so once in a while.
pub(super) struct Refused<F> {
    of_one: usize,
    say: F,
    /// Of which nothing has been said.
    count: u64,
    said: Option<Instant>,
}

impl<F: Fn(String)> Refused<F> {
    /// Where one address has so many.
    pub(super) fn new(of_one: usize, say: F) -> Self {
        Self {
            of_one,
            say,
            count: 0,
            said: None,
        }
    }

    /// One more, from there.
    pub(super) fn add(&mut self, from: IpAddr, now: Instant) {
        self.count += 1;
        if (self.said).is_some_and(|said| now.duration_since(said) < PAUSE) {
            return;
        }
        let closed = match self.count {
            1 => "a connection was closed at once".to_owned(),
            count => format!("{count} connections were closed at once, the last of them"),
        };
        (self.say)(format!(
            "{closed} because {} has {} already, as many as one address may: --connections-per-address, or `connections_per_address` in the file, allows more",
            from.to_canonical(),
            self.of_one
        ));
        (self.count, self.said) = (0, Some(now));
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn many_are_told_in_one_line() {
        let said = RefCell::new(Vec::new());
        let mut refused = Refused::new(16, |line| said.borrow_mut().push(line));
        let (one, other) = ("192.0.2.1", "::ffff:192.0.2.2");
        let now = Instant::now();
        let late = now + PAUSE;
        for (from, at) in [(one, now), (other, now), (one, now), (other, late)] {
            refused.add(from.parse().unwrap(), at);
        }
        let rest = "already, as many as one address may: --connections-per-address, or `connections_per_address` in the file, allows more";
        let expected = [
            format!("a connection was closed at once because 192.0.2.1 has 16 {rest}"),
            format!(
                "3 connections were closed at once, the last of them because 192.0.2.2 has 16 {rest}"
            ),
        ];
        assert_eq!(*said.borrow(), expected);
    }
}
