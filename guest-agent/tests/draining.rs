//! Tests that a draining guest keeps telling the host that it lives, until its last answers have ended.

mod common;

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use cocoon_guest_agent::api::Limits;
use cocoon_guest_agent::boot::serving;
use cocoon_guest_agent::control::Control;
use cocoon_protocol::bytes::{Blob, Hex32};
use cocoon_protocol::control::{
    Configure, GuestMessage, HostMessage, MAX_GUEST_MESSAGE, MAX_HOST_MESSAGE, Metrics, Phase,
};
use cocoon_protocol::engine::GpuCounts;
use cocoon_protocol::frame::{self, Decoder};
use common::client::DEADLINE;
use common::engine::on_gpus;
use common::{Client, FakeEngine, Parts, parts};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

fn send(host: &mut UnixStream, message: &HostMessage) {
    let bytes = frame::encode(message, MAX_HOST_MESSAGE).unwrap();
    host.write_all(&bytes).unwrap();
}

/// Reads everything as a host, and returns the counters that it receives.
fn listen(mut host: UnixStream) -> watch::Receiver<Vec<Metrics>> {
    let (told, heard) = watch::channel(Vec::new());
    std::thread::spawn(move || {
        let (mut decoder, mut chunk) = (Decoder::new(MAX_GUEST_MESSAGE), [0; 4096]);
        while let Ok(count @ 1..) = host.read(&mut chunk) {
            decoder.push(&chunk[..count]);
            while let Some(message) = decoder.next().unwrap() {
                if let GuestMessage::Metrics(metrics) = message {
                    told.send_modify(|all| all.push(metrics));
                }
            }
        }
    });
    heard
}

/// A control channel in the serving phase, and the host's end of it.
fn channel() -> (Control, UnixStream) {
    let (ours, mut host) = UnixStream::pair().unwrap();
    let control = Control::start(ours.try_clone().unwrap(), ours);
    control.enter(Phase::Configuration);
    let configure = HostMessage::Configure(Configure {
        version: 1,
        address: "10.0.2.15/24".into(),
        config: Blob::default(),
        manifest_id: Hex32::ZERO,
        simulate: None,
        collateral: None,
    });
    send(&mut host, &configure);
    control.configure(DEADLINE).unwrap();
    control.enter(Phase::Serving);
    (control, host)
}

#[tokio::test(flavor = "multi_thread")]
async fn counters_are_told_until_the_last_answer_has_ended() {
    assert_eq!(serving::METRICS, Duration::from_secs(10));
    let mut engine = FakeEngine::new().0;
    let exact = GpuCounts {
        scrubbed_bytes: 0b101_1011,
        residue_bytes: 1,
        ..GpuCounts::default()
    };
    engine.greeting = on_gpus(1, exact);
    let Parts {
        listener, service, ..
    } = parts(engine, 1, Limits::default()).await;
    let (address, engine) = (listener.local_address().unwrap(), service.engine.clone());
    let (control, mut host) = channel();
    let mut heard = listen(host.try_clone().unwrap());
    let every = Duration::from_millis(20);
    let serving =
        tokio::spawn(async move { serving::run(listener, service, &control, every).await });

    let mut client = Client::attested(address).await;
    let answer = client.chat("wait", ",\"stream\":true").await;
    send(&mut host, &HostMessage::Drain);
    let drains = async { while TcpStream::connect(address).await.is_ok() {} };
    timeout(DEADLINE, drains).await.expect("drains in time");

    // More counters than can have been on their way when the drain began.
    let before = heard.borrow().len();
    let more = heard.wait_for(|all| all.len() >= before + 10);
    let all = timeout(DEADLINE, more).await.expect("told in time");
    let last = *all.unwrap().last().unwrap();
    assert_eq!((last.requests, last.attestations), (1, 1));
    // The engine's counts are reported, but not exactly.
    let told = GpuCounts {
        scrubbed_bytes: 0b100_0000,
        ..exact
    };
    assert_eq!(last.gpu, Some(told));
    assert!(!serving.is_finished(), "the answer is still on its way");
    assert!(engine.model().is_some());

    drop((answer, client));
    let ended = timeout(DEADLINE, serving).await.expect("ends in time");
    ended.unwrap().unwrap();
}
