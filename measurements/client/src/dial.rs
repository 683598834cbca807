//! TCP connections by host name. Each address of the host is tried in turn and gets a share of the
//! time limit. TCP itself detects a peer that has gone away.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout, timeout_at};

/// Idle time after which TCP sends a keepalive probe. Same values as in the host agent's relay
/// (`host-agent/src/relay.rs`).
const ASKED_AFTER: Duration = Duration::from_secs(60);
/// Interval between keepalive probes.
const ASKED_AGAIN: Duration = Duration::from_secs(15);
/// Unanswered probes after which the peer counts as gone: two minutes in all.
const QUESTIONS: u32 = 4;
/// How long sent data may remain unacknowledged before the peer counts as gone, in milliseconds.
/// TCP sends no keepalive probes while data is in flight.
const UNTAKEN_MS: u32 = 120_000;

/// Connects to the first address of `host` that accepts, all within `limit`. Returns `Elapsed` if
/// no address refused and the time ran out.
pub(crate) async fn dial(
    host: &str,
    port: u16,
    limit: Duration,
) -> Result<io::Result<TcpStream>, Elapsed> {
    let until = Instant::now() + limit;
    let dialled = match timeout_at(until, lookup_host((host, port))).await? {
        Ok(addresses) => first(addresses.collect(), until, TcpStream::connect).await?,
        Err(error) => Err(error),
    };
    Ok(dialled.and_then(|tcp| {
        prepare(&tcp)?;
        Ok(tcp)
    }))
}

/// Sets the socket options: no delay for tokens, which are small and awaited by a person; keepalive
/// for a peer that disappears silently, which would otherwise go unnoticed for the life of the
/// connection.
fn prepare(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    sockopt::set_tcp_keepidle(tcp, ASKED_AFTER)?;
    sockopt::set_tcp_keepintvl(tcp, ASKED_AGAIN)?;
    sockopt::set_tcp_keepcnt(tcp, QUESTIONS)?;
    sockopt::set_tcp_user_timeout(tcp, UNTAKEN_MS)?;
    Ok(sockopt::set_socket_keepalive(tcp, true)?)
}

/// Tries each address with an equal share of the remaining time, so that one that drops packets, as
/// IPv6 does in many networks, leaves time for the next.
async fn first<T>(
    addresses: Vec<SocketAddr>,
    until: Instant,
    connect: impl AsyncFn(SocketAddr) -> io::Result<T>,
) -> Result<io::Result<T>, Elapsed> {
    let (mut refused, mut late) = (None, None);
    for (address, behind) in addresses.iter().zip((0..addresses.len()).rev()) {
        let left = until.saturating_duration_since(Instant::now());
        // Resolvers return far fewer than 2^32 addresses.
        let share = left / u32::try_from(behind + 1).unwrap_or(u32::MAX);
        match timeout(share, connect(*address)).await {
            Ok(Ok(connection)) => return Ok(Ok(connection)),
            Ok(Err(error)) => refused = Some(error),
            Err(elapsed) => late = Some(elapsed),
        }
    }
    // A refusal says more than a timeout.
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

    /// Dials addresses whose port says how they behave: silent, refusing or answering. Uses a
    /// paused clock.
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
        // An address that refuses at once leaves its time to the next.
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

    /// Resolution of the timers.
    const MOMENT: Duration = Duration::from_millis(10);

    #[tokio::test]
    async fn an_end_that_goes_away_without_a_word_is_noticed() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let tcp = dial("127.0.0.1", port, LIMIT).await.unwrap().unwrap();
        assert!(tcp.nodelay().unwrap());
        assert!(sockopt::socket_keepalive(&tcp).unwrap());
        let asked = sockopt::tcp_keepidle(&tcp).unwrap();
        let again = sockopt::tcp_keepintvl(&tcp).unwrap();
        let gone = asked + again * sockopt::tcp_keepcnt(&tcp).unwrap();
        assert_eq!(gone, Duration::from_secs(120));
        assert_eq!(sockopt::tcp_user_timeout(&tcp).unwrap(), 120_000);
    }
}
