//! Tests of clients that do nothing for a while, and do not even answer pings.

use std::time::Duration;

use cocoon_guest_agent::api::Limits;
use tokio::runtime::{Builder, Runtime};

use crate::NEVER;
use crate::common::{Client, FakeEngine, Machine, machine};
use crate::framed::Framed;

/// Starts a service, and creates a runtime for a client that runs only inside `block_on`.
fn begin(limits: Limits) -> (Runtime, Machine, Runtime) {
    let service = Runtime::new().unwrap();
    let machine = service.block_on(machine(FakeEngine::new().0, 1, limits));
    let client = Builder::new_current_thread().enable_all().build().unwrap();
    (service, machine, client)
}

fn limits() -> Limits {
    Limits {
        head_time: Duration::from_secs(1),
        idle: NEVER,
        ..Limits::default()
    }
}

#[test]
fn whoever_answers_a_ping_as_late_as_it_may_take_an_answer_is_not_cut() {
    let limits = limits();
    let (_service, machine, client) = begin(limits);
    let mut slow = client.block_on(Framed::attested(machine.address, 65_535));
    // This sleep makes the client slow. A ping comes after three times `head_time`.
    std::thread::sleep(limits.head_time * 5);
    let answer = client.block_on(slow.try_chat("hello"));
    assert_eq!(answer.unwrap().status(), 200);
}

#[test]
fn a_newcomer_gets_the_place_of_an_idle_one_that_does_not_go_by_itself() {
    let (service, machine, client) = begin(Limits {
        connections: 1,
        ..limits()
    });
    let _idle = client.block_on(Framed::attested(machine.address, 65_535));
    service.block_on(async {
        let mut newcomer = Client::attested(machine.address).await;
        assert_eq!(newcomer.get("/healthz").await.0, 200);
    });
}
