//! Limits how many connections one client may hold. Clients are told apart by address, since nothing else is known of
//! them before they have sent anything.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// Open connections by client, and the limit for each. Clones share the counts.
#[derive(Debug, Clone)]
pub struct Places {
    counts: Arc<Mutex<HashMap<IpAddr, usize>>>,
    of_one: usize,
    /// Whether the limit also applies to loopback addresses.
    strict: bool,
}

impl Places {
    /// Allows `of_one` connections for each IPv4 address or IPv6 /64 network, all of whose addresses one client may
    /// have. Loopback is not limited: a local proxy connects on behalf of many clients.
    #[must_use]
    pub fn new(of_one: usize) -> Self {
        Self {
            counts: Arc::default(),
            of_one,
            strict: false,
        }
    }

    /// Applies the limit to loopback too, the only address that tests have.
    #[cfg(test)]
    pub fn strict(self) -> Self {
        Self {
            strict: true,
            ..self
        }
    }

    /// Takes a place for a connection from `from`, or returns `None` if that client has none left.
    #[must_use]
    pub fn take(&self, from: IpAddr) -> Option<Place> {
        // On an IPv6 listener, IPv4 clients appear with IPv4-mapped addresses.
        let from = from.to_canonical();
        let (free, from) = (from.is_loopback() && !self.strict, client(from));
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(from).or_insert(0);
        if *count >= self.of_one && !free {
            return None;
        }
        *count += 1;
        let all = Arc::clone(&self.counts);
        Some(Place { from, all })
    }
}

/// The place of one connection, given back when dropped.
#[derive(Debug)]
pub struct Place {
    from: IpAddr,
    all: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.from) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.from);
            }
        }
    }
}

/// Returns the key under which a client is counted: the IPv4 address, or the IPv6 /64 network, the least that a client
/// is given (RFC 6177).
fn client(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => {
            let network = address.to_bits() & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from_bits(network))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OF_ONE: usize = 32;

    #[test]
    fn one_address_has_its_share_and_gives_it_back() {
        let all = Places::new(OF_ONE);
        let (one, other): (IpAddr, IpAddr) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        let held: Vec<_> = (0..OF_ONE).map(|_| all.take(one).unwrap()).collect();
        assert!(all.take(one).is_none());
        assert!(all.take(other).is_some());
        drop(held);
        assert!(all.take(one).is_some());
        assert!(all.counts.lock().unwrap().is_empty());
    }

    /// An IPv6 /64 network gets no more places than an IPv4 address, and loopback is unlimited in each notation.
    #[test]
    fn places_are_counted_by_client() {
        let all = Places::new(OF_ONE);
        let held = |from: &dyn Fn(usize) -> String| {
            let places = (0..=OF_ONE).map(|number| all.take(from(number).parse().unwrap()));
            places.map_while(|place| place).collect::<Vec<_>>()
        };
        let network = held(&|number| format!("2001:db8:1:2::{number:x}"));
        assert_eq!(network.len(), OF_ONE);
        let other: IpAddr = "2001:db8:1:3::1".parse().unwrap();
        assert!(all.take(other).is_some());
        let mapped = held(&|_| "::ffff:192.0.2.1".to_owned());
        assert_eq!(mapped.len(), OF_ONE);
        assert!(all.take("192.0.2.1".parse().unwrap()).is_none());
        assert!(all.take("::ffff:192.0.2.2".parse().unwrap()).is_some());
        for local in ["127.0.0.1", "::ffff:127.0.0.1", "::1"] {
            assert_eq!(held(&|_| local.to_owned()).len(), OF_ONE + 1, "{local}");
        }
        drop((network, mapped));
        assert!(all.counts.lock().unwrap().is_empty());
    }
}
