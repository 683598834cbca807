//! How long connections may be idle, how fast a request must come once it has begun, and who leaves when
//! there are too many.

mod common;

use std::time::{Duration, Instant};

use cocoon_guest_agent::api::Limits;
use common::client::{DEADLINE, handshake};
use common::{Client, FakeEngine, machine};
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

/// Nobody waits for it.
const NEVER: Duration = Duration::from_secs(3600);

/// Waits for the end of a connection that was begun with some bytes.
async fn cut_after(address: std::net::SocketAddr, bytes: &[u8]) -> Duration {
    let begun = Instant::now();
    let mut stream = handshake(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream.flush().await.unwrap();
    let mut rest = Vec::new();
    // Cut: with or without a farewell.
    let _ = timeout(DEADLINE, stream.read_to_end(&mut rest))
        .await
        .expect("cut in time");
    assert_eq!(rest, b"");
    begun.elapsed()
}

#[tokio::test]
async fn a_started_request_is_short_and_an_idle_connection_outlives_it() {
    let limits = Limits {
        head_time: Duration::from_secs(1),
        idle: NEVER,
        ..Limits::default()
    };
    let machine = machine(FakeEngine::new().0, 1, limits).await;
    let mut idle = Client::attested(machine.address).await;
    for bytes in [&b""[..], b"GET /healthz HTTP/1.1\r\nhost: coc"] {
        let lasted = cut_after(machine.address, bytes).await;
        assert!(lasted >= limits.head_time, "{lasted:?}");
    }
    // Idle for twice the time of a head by now.
    assert_eq!(idle.get("/healthz").await.0, 200);
    // A second request's head is no longer than the first one's.
    let mut stream = handshake(machine.address).await.unwrap();
    let whole = b"GET /nowhere HTTP/1.1\r\nhost: cocoon\r\n\r\n";
    stream.write_all(whole).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"}}") {
        assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0);
    }
    assert!(answer.starts_with(b"HTTP/1.1 421 "));
    stream.write_all(&whole[..9]).await.unwrap();
    stream.flush().await.unwrap();
    let end = timeout(DEADLINE, stream.read_to_end(&mut answer)).await;
    assert!(end.is_ok(), "the second head was waited for");
}

#[tokio::test]
async fn an_idle_connection_ends() {
    let limits = Limits {
        idle: Duration::from_secs(1),
        ..Limits::default()
    };
    let machine = machine(FakeEngine::new().0, 1, limits).await;
    let mut idle = Client::attested(machine.address).await;
    let since = Instant::now();
    // One that is answered is not idle, however long it takes.
    let mut busy = Client::attested(machine.address).await;
    let mut answer = busy.chat("wait", ",\"stream\":true").await.into_body();
    idle.closed().await;
    assert!(since.elapsed() >= limits.idle / 2);
    let first = timeout(DEADLINE, answer.frame()).await;
    assert!(first.unwrap().unwrap().is_ok());
}

#[tokio::test]
async fn a_full_table_sends_away_the_one_that_was_idle_longest() {
    let limits = Limits {
        connections: 3,
        idle: NEVER,
        ..Limits::default()
    };
    let machine = machine(FakeEngine::new().0, 1, limits).await;
    let mut busy = Client::attested(machine.address).await;
    let mut answer = busy.chat("wait", ",\"stream\":true").await.into_body();
    let mut first = Client::attested(machine.address).await;
    let mut second = Client::attested(machine.address).await;
    // Which one came first does not matter, but which one asked last.
    assert_eq!(first.get("/healthz").await.0, 200);
    let mut third = Client::attested(machine.address).await;
    second.closed().await;
    assert_eq!(first.get("/healthz").await.0, 200);
    assert_eq!(third.get("/healthz").await.0, 200);
    let frame = timeout(DEADLINE, answer.frame()).await;
    assert!(frame.unwrap().unwrap().is_ok(), "the busy one goes on");
}

#[tokio::test]
async fn a_table_full_of_answers_turns_newcomers_away() {
    let limits = Limits {
        connections: 1,
        idle: NEVER,
        ..Limits::default()
    };
    let machine = machine(FakeEngine::new().0, 1, limits).await;
    let mut busy = Client::attested(machine.address).await;
    let answer = busy.chat("wait", ",\"stream\":true").await;
    let refused = timeout(DEADLINE, handshake(machine.address)).await;
    assert!(refused.expect("at once").is_err());
    drop(answer);
}
