//! A TCP connection by name: each of its addresses in turn, none of which can use up the time of the others.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpStream, lookup_host};
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout, timeout_at};

/// The first of the addresses of `host` that takes a connection, all within `limit`; `Elapsed` where time alone was lacking.
pub(crate) async fn dial(
    host: &str,
    port: u16,
    limit: Duration,
) -> Result<io::Result<TcpStream>, Elapsed> {
    let until = Instant::now() + limit;
    match timeout_at(until, lookup_host((host, port))).await? {
        Ok(addresses) => first(addresses.collect(), until, TcpStream::connect).await,
        Err(error) => Ok(Err(error)),
    }
}

/// Each gets an equal share of the time that is left: one that swallows packets, as IPv6 does on many a network, leaves
/// some for those behind it.
async fn first<T>(
    addresses: Vec<SocketAddr>,
    until: Instant,
    connect: impl AsyncFn(SocketAddr) -> io::Result<T>,
) -> Result<io::Result<T>, Elapsed> {
    let (mut refused, mut late) = (None, None);
    for (address, behind) in addresses.iter().zip((0..addresses.len()).rev()) {
        let left = until.saturating_duration_since(Instant::now());
        // A resolver gives far fewer than 2^32.
        let share = left / u32::try_from(behind + 1).unwrap_or(u32::MAX);
        match timeout(share, connect(*address)).await {
            Ok(Ok(connection)) => return Ok(Ok(connection)),
            Ok(Err(error)) => refused = Some(error),
            Err(elapsed) => late = Some(elapsed),
        }
    }
    // That one address refuses says more than that another is silent.
    match (refused, late) {
        (None, Some(elapsed)) => Err(elapsed),
        (Some(error), _) => Ok(Err(error)),
        (None, None) => Ok(Err(io::Error::new(
            io::ErrorKind::NotFound,
            "the name has no address",
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    /// What each address does, by its port: silent, refusing, answering. On a clock that stands still while it is not waited.
    async fn tried(ports: &[u16]) -> (Result<Result<u16, io::ErrorKind>, ()>, Duration) {
        let begun = Instant::now();
        let addresses = ports.iter().map(|port| ([127, 0, 0, 1], *port).into());
        let connect = async |address: SocketAddr| match address.port() {
            SILENT => std::future::pending().await,
            REFUSING => Err(io::ErrorKind::ConnectionRefused.into()),
            port => Ok(port),
        };
        let found = first(addresses.collect(), begun + LIMIT, connect).await;
        let found = found.map(|found| found.map_err(|error| error.kind()));
        (found.map_err(drop), begun.elapsed())
    }

    const SILENT: u16 = 1;
    const REFUSING: u16 = 2;
    const ANSWERING: u16 = 3;

    #[tokio::test(start_paused = true)]
    async fn a_silent_address_leaves_time_for_the_others() {
        let answered = Ok(Ok(ANSWERING));
        let (found, waited) = tried(&[SILENT, ANSWERING]).await;
        assert_eq!(found, answered);
        assert!(waited <= LIMIT / 2 + MOMENT, "{waited:?}");
        let (found, waited) = tried(&[SILENT, REFUSING, SILENT, SILENT, ANSWERING]).await;
        assert_eq!(found, answered);
        assert!(waited < LIMIT, "{waited:?}");
        // Whoever refuses at once leaves all of it to the next.
        let (found, waited) = tried(&[REFUSING, SILENT]).await;
        assert_eq!(found, Ok(Err(io::ErrorKind::ConnectionRefused)));
        assert!(waited >= LIMIT, "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn silence_alone_is_a_matter_of_time_and_no_address_is_none() {
        let (found, waited) = tried(&[SILENT, SILENT]).await;
        assert_eq!(found, Err(()));
        assert!(waited <= LIMIT + MOMENT, "{waited:?}");
        assert_eq!(tried(&[]).await.0, Ok(Err(io::ErrorKind::NotFound)));
    }

    /// Timers are as coarse.
    const MOMENT: Duration = Duration::from_millis(10);
}
