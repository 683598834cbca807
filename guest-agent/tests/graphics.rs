//! Tests of what an engine on GPUs reports of their memory, and who is told.

mod common;

use std::sync::Arc;

use cocoon_guest_agent::api::Limits;
use cocoon_protocol::bytes::Hex;
use cocoon_protocol::engine::{
    Crossings, FromEngine, GpuCounts, StartFailure, StartStep, WEIGHTS_PATH, Weights,
};
use cocoon_protocol::receipt::{Delivery, EngineSection, RECEIPT_HEADER};
use common::client::DEADLINE;
use common::engine::{encode, on_gpus};
use common::{Client, FakeEngine, Machine, machine};
use http_body_util::BodyExt as _;
use hyper::StatusCode;
use tokio::task::yield_now;
use tokio::time::timeout;

const COUNTS: GpuCounts = GpuCounts {
    to_device: Crossings {
        bytes: 270_000_000,
        calls: 310,
    },
    to_host: Crossings {
        bytes: 64,
        calls: 3,
    },
    scrubbed_bytes: 1 << 30,
    residue_bytes: 0,
};

async fn on(counts: Option<GpuCounts>) -> Machine {
    let mut engine = FakeEngine::new().0;
    if let Some(counts) = counts {
        engine.greeting = on_gpus(1, counts);
    }
    machine(engine, 1, Limits::default()).await
}

async fn section(client: &mut Client) -> Option<EngineSection> {
    let response = client.chat("one two three", "").await;
    let text = response.headers()[RECEIPT_HEADER].clone();
    let delivery = Delivery::parse(text.as_bytes()).unwrap();
    delivery.signed.receipt.engine
}

#[tokio::test]
async fn receipts_and_clients_are_told_of_the_weights_and_of_what_is_left() {
    let machine = on(Some(COUNTS)).await;
    let mut client = Client::attested(machine.address).await;
    let expected = EngineSection {
        weights_root: Hex([3; 32]),
        scrubbed_bytes: 1 << 30,
        residue_bytes: 0,
    };
    assert_eq!(section(&mut client).await, Some(expected));
    let (status, body) = client.get(WEIGHTS_PATH).await;
    assert_eq!(status, StatusCode::OK);
    let weights: Weights = serde_json::from_slice(&body).unwrap();
    assert_eq!((weights.root, weights.tensors.len()), (Hex([3; 32]), 2));
    assert_eq!(weights.tensors[1].root, Hex([2; 32]));
    assert_eq!(weights.derived, weights.tensors[..1]);
    assert_eq!(
        machine
            .counters
            .metrics(&machine.engine.state().borrow())
            .gpu,
        Some(COUNTS)
    );
}

#[tokio::test]
async fn an_engine_on_the_processor_has_none_of_it() {
    let machine = on(None).await;
    let mut client = Client::attested(machine.address).await;
    assert_eq!(section(&mut client).await, None);
    assert_eq!(client.get(WEIGHTS_PATH).await.0, StatusCode::NOT_FOUND);
    let metrics = machine.counters.metrics(&machine.engine.state().borrow());
    assert_eq!(metrics.gpu, None);
    // The field is absent, rather than zero.
    let json = serde_json::to_value(metrics).unwrap();
    assert!(json.get("gpu").is_none(), "{json}");
}

#[tokio::test]
async fn counts_are_those_of_all_engines_since_boot() {
    let machine = on(Some(COUNTS)).await;
    let mut client = Client::attested(machine.address).await;
    let mut state = machine.engine.state();
    let answer = client.chat("die halfway", ",\"stream\":true").await;
    timeout(DEADLINE, answer.into_body().collect())
        .await
        .unwrap()
        .unwrap();
    let again = state.wait_for(|state| state.deaths == 1 && state.ready.is_some());
    let total = timeout(DEADLINE, again)
        .await
        .unwrap()
        .unwrap()
        .gpu
        .unwrap();
    assert_eq!(total, COUNTS.plus(&COUNTS));
    assert_eq!(total.to_device.calls, 620);
}

/// An engine whose first scrub finds residue serves nobody. The next one may find none, and receipts must still name it.
#[tokio::test]
async fn what_a_failed_start_has_found_stays_in_receipts() {
    let mut engine = FakeEngine::new().0;
    let found = GpuCounts {
        residue_bytes: 5,
        ..COUNTS
    };
    let failure = StartFailure {
        step: StartStep::Scrubbed,
        driver: None,
        system: None,
    };
    let told = [
        FromEngine::Devices { count: 1 },
        FromEngine::Gpu(found),
        FromEngine::Unable(failure),
    ];
    engine.first = Some(told.iter().flat_map(encode).collect());
    engine.greeting = on_gpus(1, COUNTS);
    let machine = machine(engine, 1, Limits::default()).await;
    assert_eq!(machine.engine.state().borrow().deaths, 1);
    let mut client = Client::attested(machine.address).await;
    let section = section(&mut client).await.unwrap();
    assert_eq!(section.residue_bytes, 5);
}

/// A request that waited for a slot of a dead engine is answered by the next engine, and its receipt describes that one.
#[tokio::test]
async fn receipts_are_about_the_engine_that_answers() {
    let mut engine = FakeEngine::new().0;
    let found = GpuCounts {
        residue_bytes: 5,
        ..COUNTS
    };
    engine.first = Some(on_gpus(1, COUNTS));
    engine.greeting = on_gpus(1, found);
    let dies = Arc::clone(&engine.dies);
    let machine = machine(engine, 1, Limits::default()).await;
    let mut client = Client::attested(machine.address).await;
    let lost = client.chat("wait", ",\"stream\":true").await;
    assert_eq!(lost.status(), StatusCode::OK);
    let mut other = Client::attested(machine.address).await;
    let waiting = tokio::spawn(async move { section(&mut other).await });
    let reached = async {
        while machine.engine.waiting() != 1 {
            yield_now().await;
        }
    };
    timeout(DEADLINE, reached).await.expect("it waits in time");
    dies.notify_one();
    let answered = timeout(DEADLINE, waiting).await.expect("in time");
    assert_eq!(answered.unwrap().unwrap().residue_bytes, 5);
}

#[tokio::test]
async fn an_engine_that_hides_what_is_in_memory_never_serves() {
    // A residue larger than the memory that was scrubbed is impossible.
    let residue = GpuCounts {
        scrubbed_bytes: 1,
        residue_bytes: 2,
        ..COUNTS
    };
    let mut engine = FakeEngine::new().0;
    engine.greeting = on_gpus(1, residue);
    let engine = cocoon_guest_agent::engine::supervisor::start(engine, common::MODEL.into(), 1);
    let mut state = engine.state();
    let dead = state.wait_for(|state| state.deaths > 0);
    let state = timeout(DEADLINE, dead).await.unwrap().unwrap().clone();
    assert_eq!((state.ready, state.gpu), (None, None));
}

#[tokio::test]
async fn an_engine_that_cannot_start_says_why_and_no_more() {
    let failure = StartFailure {
        step: StartStep::Driver,
        driver: Some(304),
        system: None,
    };
    let mut engine = FakeEngine::new().0;
    engine.greeting = encode(&FromEngine::Unable(failure));
    let engine = cocoon_guest_agent::engine::supervisor::start(engine, common::MODEL.into(), 1);
    let mut state = engine.state();
    let dead = state.wait_for(|state| state.deaths > 0);
    let state = timeout(DEADLINE, dead).await.unwrap().unwrap().clone();
    assert_eq!((state.ready, state.unable), (None, Some(failure)));
}
