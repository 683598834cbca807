//! Tests of how long connections may be idle, how fast a request must come once it has begun, how long an answer waits
//! for its reader, and which connection leaves when there are too many.

mod common;
#[path = "connections/framed.rs"]
#[expect(dead_code, reason = "the tests of admission use more of it")]
mod framed;
#[path = "connections/stalled.rs"]
mod stalled;
#[path = "connections/withheld.rs"]
mod withheld;

use std::time::{Duration, Instant};

use cocoon_guest_agent::api::Limits;
use common::client::{DEADLINE, handshake};
use common::{Client, FakeEngine, impatient, machine};
use framed::Framed;
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A time limit that no test reaches.
const NEVER: Duration = Duration::from_secs(3600);

/// Opens a connection, sends `bytes`, and waits for the connection's end.
async fn cut_after(address: std::net::SocketAddr, bytes: &[u8]) -> Duration {
    let begun = Instant::now();
    let mut stream = handshake(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream.flush().await.unwrap();
    let mut rest = Vec::new();
    // The end comes with or without a TLS close notification.
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
    // By now it has been idle for twice the time of a head.
    assert_eq!(idle.get("/healthz").await.0, 200);
    // The head of a second request gets no more time than that of the first.
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
    // A connection that is being answered is not idle, however long the answer takes.
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
    // What matters is which connection asked last, not which one came first.
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

#[tokio::test]
async fn who_has_attested_is_not_sent_away_for_a_stranger() {
    let limits = Limits {
        connections: 2,
        idle: NEVER,
        ..Limits::default()
    };
    let machine = machine(FakeEngine::new().0, 1, limits).await;
    let mut attested = Client::attested(machine.address).await;
    let mut stranger = Client::connect(machine.address).await;
    assert_eq!(stranger.get("/healthz").await.0, 421);
    // The attested connection has been idle for longer.
    let mut third = Client::attested(machine.address).await;
    stranger.closed().await;
    assert_eq!(attested.get("/healthz").await.0, 200);
    assert_eq!(third.get("/healthz").await.0, 200);
}

#[tokio::test]
async fn answers_without_a_window_are_given_up_and_others_get_theirs() {
    let limits = Limits {
        unread: Duration::from_secs(3),
        idle: NEVER,
        ..impatient()
    };
    let machine = machine(FakeEngine::new().0, 1, limits).await;
    let mut client = Client::attested(machine.address).await;
    let mut hoarders = [
        Framed::attested(machine.address, 0).await,
        Framed::attested(machine.address, 0).await,
    ];
    let begun = Instant::now();
    // As many answers as may be open with one generation slot, half of them on each connection.
    let mut held = Vec::new();
    while held.len() < 4 {
        let answer = hoarders[held.len() / 2].chat("hello").await;
        // The engine may still be writing the last answer.
        if answer.status() == 200 {
            held.push(answer);
        }
        assert!(begun.elapsed() < limits.unread, "too slow a machine");
    }
    assert_eq!(client.chat("hello", "").await.status(), 429);
    // The clients answer pings, which does not save their connections.
    for hoarder in &mut hoarders {
        hoarder.closed().await;
    }
    assert!(begun.elapsed() >= limits.unread);
    let served = async { while client.chat("hello", "").await.status() != 200 {} };
    timeout(DEADLINE, served).await.expect("places are free");
    for answer in held {
        assert!(answer.into_body().collect().await.is_err(), "cut");
    }
}

#[tokio::test]
async fn a_slow_reader_that_reads_is_not_cut() {
    let limits = Limits {
        unread: Duration::from_secs(2),
        least_rate: 500,
        idle: NEVER,
        ..Limits::default()
    };
    let machine = machine(FakeEngine::new().0, 1, limits).await;
    let mut slow = Framed::attested(machine.address, 1024).await;
    let mut answer = slow.chat(&"word ".repeat(10)).await.into_body();
    let begun = Instant::now();
    // This sleep waits for nothing: it makes the reader slow.
    let mut pace = tokio::time::interval(limits.unread / 4);
    let mut text = Vec::new();
    while let Some(frame) = timeout(DEADLINE, answer.frame()).await.unwrap() {
        text.extend_from_slice(frame.unwrap().data_ref().unwrap());
        pace.tick().await;
    }
    assert!(text.ends_with(b"data: [DONE]\n\n"));
    assert!(begun.elapsed() > limits.unread, "{:?}", begun.elapsed());
}

/// The reader takes each piece in time, but at that rate the answer would last as long as the connection.
#[tokio::test]
async fn a_reader_that_takes_a_little_now_and_then_is_cut() {
    let limits = Limits {
        unread: Duration::from_secs(2),
        least_rate: 10_000,
        idle: NEVER,
        ..Limits::default()
    };
    let machine = machine(FakeEngine::new().0, 1, limits).await;
    let mut slow = Framed::attested(machine.address, 1024).await;
    let mut others = slow.again();
    let mut answer = slow.chat(&"word ".repeat(200)).await.into_body();
    let begun = Instant::now();
    let mut pace = tokio::time::interval(limits.unread / 8);
    let cut = async {
        while let Some(Ok(frame)) = answer.frame().await {
            assert!(frame.is_data());
            // What other answers of the same connection deliver does not count for this one.
            let Ok(quick) = others.try_chat("hello").await else {
                return;
            };
            if quick.into_body().collect().await.is_err() {
                return;
            }
            pace.tick().await;
        }
    };
    timeout(DEADLINE, cut).await.expect("cut in time");
    slow.closed().await;
    let lasted = begun.elapsed();
    assert!(lasted >= limits.unread, "{lasted:?}");
}

/// Strangers have a share of their own, from the first byte of their handshakes on.
#[tokio::test]
async fn a_flood_of_handshakes_sends_nobody_away_who_has_attested() {
    let limits = Limits {
        connections: 3,
        strangers: 2,
        head_time: Duration::from_secs(5),
        idle: NEVER,
        ..Limits::default()
    };
    let machine = machine(FakeEngine::new().0, 1, limits).await;
    let mut attested = Client::attested(machine.address).await;
    let mut flood = Vec::new();
    for _ in 0..2 {
        // No byte of a handshake is sent.
        flood.push(TcpStream::connect(machine.address).await.unwrap());
    }
    // They take both places that were left. Further connections are closed unread, and none leaves for them.
    for _ in 0..3 {
        let refused = timeout(DEADLINE, handshake(machine.address)).await;
        assert!(refused.expect("at once").is_err());
    }
    assert_eq!(attested.get("/healthz").await.0, 200);
    // Handshakes that do not come are cut, and the share is free again.
    drop(flood);
    let place = async { while handshake(machine.address).await.is_err() {} };
    timeout(DEADLINE, place).await.expect("a place is free");
    assert_eq!(attested.get("/healthz").await.0, 200);
}

/// The share is only for connections that have not attested: each one that attests makes room for the next.
#[tokio::test]
async fn strangers_become_guests() {
    let limits = Limits {
        connections: 3,
        strangers: 1,
        idle: NEVER,
        ..Limits::default()
    };
    let machine = machine(FakeEngine::new().0, 1, limits).await;
    let mut guests = Vec::new();
    for _ in 0..3 {
        guests.push(Client::attested(machine.address).await);
    }
    for guest in &mut guests {
        assert_eq!(guest.get("/healthz").await.0, 200);
    }
}

#[tokio::test]
async fn a_stranger_leaves_for_the_next_one() {
    let limits = Limits {
        connections: 3,
        strangers: 1,
        idle: NEVER,
        ..Limits::default()
    };
    let machine = machine(FakeEngine::new().0, 1, limits).await;
    let mut first = Client::attested(machine.address).await;
    let mut stranger = Client::connect(machine.address).await;
    assert_eq!(stranger.get("/healthz").await.0, 421);
    let mut second = Client::attested(machine.address).await;
    stranger.closed().await;
    for guest in [&mut first, &mut second] {
        assert_eq!(guest.get("/healthz").await.0, 200);
    }
}

#[tokio::test]
async fn an_answer_on_a_socket_that_takes_nothing_is_given_up() {
    given_up(",\"stream\":true,\"logprobs\":true,\"top_logprobs\":20").await;
}

/// A whole answer does not count as read because it was handed over in one piece.
#[tokio::test]
async fn so_is_a_whole_one() {
    given_up(",\"logprobs\":true,\"top_logprobs\":20").await;
}

async fn given_up(extra: &str) {
    let limits = Limits {
        connections: 1,
        unread: Duration::from_secs(2),
        // Neither idle time nor a new connection ends it.
        head_time: NEVER,
        idle: NEVER,
        ..Limits::default()
    };
    let machine = machine(FakeEngine::new().0, 1, limits).await;
    let mut stalled = Client::attested(machine.address).await;
    // About sixteen megabytes, which is more than all buffers on the way hold.
    let word = format!("{} ", "x".repeat(99));
    let answer = stalled.chat(&word.repeat(1500), extra).await;
    assert_eq!(answer.status(), 200);
    let begun = Instant::now();
    assert!(handshake(machine.address).await.is_err(), "no place");
    let place = async { while handshake(machine.address).await.is_err() {} };
    timeout(DEADLINE, place).await.expect("a place is free");
    assert!(begun.elapsed() >= limits.unread / 2);
    assert!(answer.into_body().collect().await.is_err(), "cut");
}

#[tokio::test]
async fn what_was_not_agreed_on_is_not_spoken() {
    let limits = Limits {
        head_time: NEVER,
        idle: NEVER,
        ..Limits::default()
    };
    let machine = machine(FakeEngine::new().0, 1, limits).await;
    // HTTP/2 over a connection that negotiated HTTP/1.1, whose answers only the socket watches.
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    cut_after(machine.address, preface).await;
}
