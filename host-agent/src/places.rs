//! Who has how many connections: no client more than its share. By address, since nothing else is known of a client
//! before it has spoken.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// Connections by client, and how many one may have. Clones count together.
#[derive(Debug, Clone)]
pub struct Places {
    counts: Arc<Mutex<HashMap<IpAddr, usize>>>,
    of_one: usize,
    /// Whether the loopback interface has a share like everybody.
    strict: bool,
}

impl Places {
    /// So many for one address, or one network of IPv6 (/64), all of which one client may have. The loopback interface has
    /// as many as it wants: it is a proxy of this machine, behind which are many.
    #[must_use]
    pub fn new(of_one: usize) -> Self {
        Self {
            counts: Arc::default(),
            of_one,
            strict: false,
        }
    }

    /// The same without an exception: tests have no other address than loopback's.
    #[cfg(test)]
    pub fn strict(self) -> Self {
        Self {
            strict: true,
            ..self
        }
    }

    /// A connection's place, where `from` has one left.
    #[must_use]
    pub fn take(&self, from: IpAddr) -> Option<Place> {
        // A listener of IPv6 sees IPv4 in its clothes.
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

/// One connection of a client, until dropped.
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

/// What one client has at least of the addresses: of IPv6, a network of 64 bits (RFC 6177).
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

    /// Whoever has a network has no more places than who has an address, and the loopback interface has all, also as IPv6.
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
