//! Tests of requests that find no free slot: they wait for one in turns, for a bounded time, with all of their choices
//! together.

mod common;
#[path = "connections/framed.rs"]
#[expect(dead_code, reason = "the tests of connections use more of it")]
mod framed;
#[path = "admission/memory.rs"]
mod memory;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use cocoon_guest_agent::api::Limits;
use cocoon_guest_agent::engine::EngineState;
use common::client::{DEADLINE, read, refusal};
use common::{Client, FakeEngine, Machine, impatient, machine};
use framed::Framed;
use hyper::Response;
use hyper::body::Incoming;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, yield_now};
use tokio::time::timeout;

const STREAM: &str = ",\"stream\":true";

/// A machine with `slots` slots. One of them is taken for as long as the returned response lives.
async fn busy(slots: u16, limits: Limits) -> (Machine, Client, Response<Incoming>) {
    let machine = machine(FakeEngine::new().0, slots, limits).await;
    let mut client = Client::attested(machine.address).await;
    let held = client.chat("wait", STREAM).await;
    assert_eq!(held.status(), 200);
    (machine, client, held)
}

fn ask(mut client: Client, extra: &'static str) -> JoinHandle<Response<Incoming>> {
    tokio::spawn(async move { client.chat("hello", extra).await })
}

async fn until_waiting(machine: &Machine, count: usize) {
    let reached = async {
        while machine.engine.waiting() != count {
            yield_now().await;
        }
    };
    timeout(DEADLINE, reached).await.expect("they wait in time");
}

#[tokio::test]
async fn a_request_waits_for_its_slot() {
    let (machine, client, held) = busy(1, Limits::default()).await;
    let waiting = ask(Client::attested(machine.address).await, "");
    until_waiting(&machine, 1).await;
    drop((held, client));
    let answer = timeout(DEADLINE, waiting).await.expect("in time").unwrap();
    assert_eq!(read(answer).await.0, 200);
    assert_eq!(machine.engine.waiting(), 0);
}

#[tokio::test]
async fn it_does_not_wait_for_ever() {
    let mut limits = Limits::default();
    limits.patience.time = Duration::from_millis(300);
    let (machine, _client, _held) = busy(1, limits).await;
    let begun = Instant::now();
    let refused = ask(Client::attested(machine.address).await, "").await;
    let refused = refused.unwrap();
    assert!(begun.elapsed() >= limits.patience.time);
    assert_eq!(refused.headers()["retry-after"], "1");
    let (status, _, code, message) = refusal(refused).await;
    assert_eq!(
        (status, code.as_deref()),
        (429, Some("rate_limit_exceeded"))
    );
    assert_eq!(
        message,
        "All generation slots of this machine are taken: try again."
    );
    assert_eq!(machine.engine.waiting(), 0);
}

#[tokio::test]
async fn a_client_that_leaves_leaves_the_queue() {
    let (machine, _client, held) = busy(1, Limits::default()).await;
    // HTTP/1.1: the connection ends.
    let gone = ask(Client::attested(machine.address).await, "");
    until_waiting(&machine, 1).await;
    gone.abort();
    until_waiting(&machine, 0).await;
    // HTTP/2: the stream is reset, and the connection lives on.
    let mut framed = Framed::attested(machine.address, 0xffff).await;
    let waiting = timeout(Duration::from_millis(100), framed.chat("hello")).await;
    assert!(waiting.is_err(), "there was no slot");
    until_waiting(&machine, 0).await;
    drop(held);
    assert_eq!(framed.chat("hello").await.status(), 200);
}

#[tokio::test]
async fn connections_take_turns() {
    let (machine, client, held) = busy(1, Limits::default()).await;
    let (told, mut order) = mpsc::unbounded_channel();
    let report = move |name: &'static str, answer: Response<Incoming>| {
        assert_eq!(answer.status(), 200);
        // Dropping the answer frees its slot.
        drop((answer, told.send(name)));
    };
    let greedy = Framed::attested(machine.address, 0xffff).await;
    let mut many = Vec::new();
    for count in 1..=3 {
        let (mut greedy, report) = (greedy.again(), report.clone());
        many.push(tokio::spawn(async move {
            report("greedy", greedy.chat("hello").await);
        }));
        until_waiting(&machine, count).await;
    }
    let mut modest = Client::attested(machine.address).await;
    let once = report.clone();
    let modest = tokio::spawn(async move { once("modest", modest.chat("hello", STREAM).await) });
    until_waiting(&machine, 4).await;
    drop((held, client));
    let mut names = Vec::new();
    while names.len() < 4 {
        let name = timeout(DEADLINE, order.recv()).await.expect("in time");
        names.push(name.unwrap());
    }
    assert_eq!(names, ["greedy", "modest", "greedy", "greedy"]);
    for task in many.into_iter().chain([modest]) {
        task.await.unwrap();
    }
}

/// Four slots have sixteen places for answers, of which one connection may hold eight. A connection that takes its
/// answers as slowly as it may delays only itself.
#[tokio::test]
async fn who_holds_half_of_all_answers_waits_for_itself() {
    let mut limits = Limits::default();
    limits.patience.time = Duration::from_secs(3600);
    let machine = machine(FakeEngine::new().0, 4, limits).await;
    let mut slow = Framed::attested(machine.address, 0xffff).await;
    // For the engine they have ended long before their second event.
    let mut held = Vec::new();
    for _ in 0..2 {
        let answer = slow.slowly("hello", 4).await;
        assert_eq!(answer.status(), 200);
        held.push(answer);
    }
    let mut third = slow.again();
    let third = tokio::spawn(async move { third.slowly("hello", 1).await });
    until_waiting(&machine, 1).await;
    // All slots are free again, and other requests pass.
    let mut other = Client::attested(machine.address).await;
    for _ in 0..3 {
        let answer = other.chat("hello", ",\"n\":4").await;
        assert_eq!(read(answer).await.0, 200);
    }
    assert_eq!(machine.engine.waiting(), 1);
    assert!(!third.is_finished());
    // Giving up one answer makes room for the next of the same connection.
    held.pop();
    let third = timeout(DEADLINE, third).await.expect("in time").unwrap();
    assert_eq!(third.status(), 200);
    assert_eq!(machine.engine.waiting(), 0);
}

/// Refusals tell which connection is the reason that a request found no place.
#[tokio::test]
async fn half_of_all_answers_is_no_reason_to_refuse_others() {
    let machine = machine(FakeEngine::new().0, 4, impatient()).await;
    let mut slow = [
        Framed::attested(machine.address, 0xffff).await,
        Framed::attested(machine.address, 0xffff).await,
    ];
    let mut other = Client::attested(machine.address).await;
    let mut held = Vec::new();
    for slow in &mut slow {
        for _ in 0..2 {
            // The engine may still be writing the last answer.
            let begins = async {
                loop {
                    let answer = slow.slowly("hello", 4).await;
                    if answer.status() == 200 {
                        break answer;
                    }
                }
            };
            held.push(timeout(DEADLINE, begins).await.expect("slots are free"));
        }
        if held.len() == 2 {
            let slots =
                async { while read(other.chat("hello", ",\"n\":4").await).await.0 != 200 {} };
            timeout(DEADLINE, slots).await.expect("slots are free");
            let refused = slow.slowly("hello", 1).await;
            let own = "This connection holds half of all answers that may be open at once: read some to their end, or leave them.";
            assert_eq!(refused_with(refused).await, own);
        }
    }
    // Two connections together hold all places.
    let everything = "Too many answers of this machine are still being read: try again.";
    let refused = async {
        loop {
            let message = refused_with(other.chat("hello", "").await).await;
            // The engine may still be writing the last answer.
            if message != "All generation slots of this machine are taken: try again." {
                break message;
            }
        }
    };
    let message = timeout(DEADLINE, refused).await.expect("slots are free");
    assert_eq!(message, everything);
}

/// Checks a refusal for lack of room, and returns its message.
async fn refused_with(refused: Response<Incoming>) -> String {
    let after = refused.headers()["retry-after"].to_str().unwrap();
    assert_eq!(after, "1");
    let (status, param, code, message) = refusal(refused).await;
    let code = code.as_deref();
    assert_eq!(
        (status, param, code),
        (429, None, Some("rate_limit_exceeded"))
    );
    message
}

#[tokio::test]
async fn a_full_queue_is_for_those_who_have_least_in_it() {
    let mut limits = Limits::default();
    limits.patience.bounds.requests = 2;
    let (machine, _client, _held) = busy(1, limits).await;
    let greedy = Framed::attested(machine.address, 0xffff).await;
    let mut waiting = Vec::new();
    for count in 1..=2 {
        let mut greedy = greedy.again();
        waiting.push(tokio::spawn(async move { greedy.chat("hello").await }));
        until_waiting(&machine, count).await;
    }
    assert_eq!(greedy.again().chat("hello").await.status(), 429);
    let modest = ask(Client::attested(machine.address).await, "");
    let gave_way = waiting.pop().unwrap();
    let gave_way = timeout(DEADLINE, gave_way).await.expect("in time").unwrap();
    assert_eq!(gave_way.status(), 429);
    assert_eq!(machine.engine.waiting(), 2);
    let mut third = Client::attested(machine.address).await;
    assert_eq!(third.chat("hello", "").await.status(), 429);
    drop((modest, waiting));
}

#[tokio::test]
async fn what_waits_is_bounded_in_bytes() {
    let mut limits = Limits::default();
    limits.patience.bounds.bytes = 600;
    let (machine, _client, _held) = busy(4, limits).await;
    let large = "x".repeat(100);
    let (mut one, mut other) = (
        Client::attested(machine.address).await,
        Client::attested(machine.address).await,
    );
    // Each of the four choices takes about two hundred bytes.
    assert_eq!(one.chat(&large, ",\"n\":4").await.status(), 429);
    let waiting = tokio::spawn(async move { one.chat("hello", ",\"n\":4").await });
    until_waiting(&machine, 1).await;
    // A slot is free, but it is not this request's turn, and there is no room for it to wait.
    assert_eq!(other.chat(&large, ",\"n\":2").await.status(), 429);
    waiting.abort();
}

#[tokio::test]
async fn a_large_request_gets_all_of_its_slots_in_the_end() {
    let (machine, client, held) = busy(2, Limits::default()).await;
    let large = ask(Client::attested(machine.address).await, ",\"n\":2");
    until_waiting(&machine, 1).await;
    // A slot is free, and no other request gets it.
    let small = ask(Client::attested(machine.address).await, "");
    until_waiting(&machine, 2).await;
    assert_eq!(
        machine.counters.metrics(&EngineState::default()).requests,
        1
    );
    drop((held, client));
    let large = timeout(DEADLINE, large).await.expect("in time").unwrap();
    let (status, body) = read(large).await;
    let answer: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(status, 200);
    assert_eq!(answer["choices"].as_array().unwrap().len(), 2);
    let small = timeout(DEADLINE, small).await.expect("in time").unwrap();
    assert_eq!(read(small).await.0, 200);
}

#[tokio::test]
async fn a_drain_answers_who_waits() {
    let (machine, client, held) = busy(1, Limits::default()).await;
    let waiting = ask(Client::attested(machine.address).await, "");
    until_waiting(&machine, 1).await;
    machine.drain.send_replace(true);
    let refused = timeout(DEADLINE, waiting).await.expect("in time").unwrap();
    let (status, _, code, message) = refusal(refused).await;
    assert_eq!((status, code.as_deref()), (503, Some("draining")));
    assert_eq!(
        message,
        "This machine finishes its last answers and takes no new requests: use another."
    );
    assert!(!machine.server.is_finished(), "what runs goes on");
    drop((held, client));
    timeout(DEADLINE, machine.server)
        .await
        .expect("drained in time")
        .unwrap();
}

/// An engine that dies costs the answers that it works on, but not the requests that only wait.
#[tokio::test]
async fn who_waits_is_served_by_the_next_engine() {
    let (engine, _cancelled) = FakeEngine::new();
    let (dies, launches) = (Arc::clone(&engine.dies), Arc::clone(&engine.launches));
    let machine = machine(engine, 1, Limits::default()).await;
    let mut client = Client::attested(machine.address).await;
    let lost = client.chat("wait", STREAM).await;
    assert_eq!(lost.status(), 200);
    let waiting: Vec<_> = [
        Client::attested(machine.address).await,
        Client::attested(machine.address).await,
    ]
    .map(|client| ask(client, ""))
    .into();
    until_waiting(&machine, 2).await;
    dies.notify_one();
    let (_, told) = timeout(DEADLINE, read(lost)).await.expect("in time");
    assert!(told.windows(7).any(|word| word == b"\"error\""));
    for waiting in waiting {
        let answer = timeout(DEADLINE, waiting).await.expect("in time").unwrap();
        assert_eq!(read(answer).await.0, 200);
    }
    assert_eq!(launches.load(Ordering::Relaxed), 2);
}

/// A prompt is read in one step that cannot be interrupted. A client that asks and leaves again and again has no more
/// prompts read than there are slots, and delays others no longer than the engine takes.
#[tokio::test]
async fn who_leaves_gives_its_slot_back_when_the_engine_lets_go() {
    let (engine, mut cancelled) = FakeEngine::new();
    let (lets_go, mut held) = (engine.lets_go.clone(), engine.held.subscribe());
    lets_go.send_replace(false);
    let machine = machine(engine, 2, impatient()).await;
    let mut greedy = Framed::attested(machine.address, 0xffff).await;
    let mut begun = 0;
    for _ in 0..20 {
        let answer = greedy.chat("read for ever").await;
        if answer.status() == 200 {
            begun += 1;
            drop(answer);
            let gone = timeout(DEADLINE, cancelled.recv()).await;
            assert!(gone.expect("in time").is_some());
        } else {
            let message = refused_with(answer).await;
            assert_eq!(
                message,
                "All generation slots of this machine are taken: try again."
            );
        }
    }
    assert_eq!((begun, *held.borrow_and_update()), (2, (2, 2)));
    let mut other = Client::attested(machine.address).await;
    assert_eq!(other.chat("hello", "").await.status(), 429);
    lets_go.send_replace(true);
    let free = held.wait_for(|(now, _)| *now == 0);
    drop(timeout(DEADLINE, free).await.expect("in time").unwrap());
    let served = async { while read(other.chat("hello", ",\"n\":2").await).await.0 != 200 {} };
    timeout(DEADLINE, served).await.expect("slots are free");
    assert_eq!(*held.borrow(), (0, 2));
}
