//! Tests of what the host is told about the use of GPUs: numbers, and nothing where they are unknown.

use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cocoon_guest_agent::api::Limits;
use cocoon_guest_agent::attester::Attester;
use cocoon_guest_agent::boot::serving;
use cocoon_guest_agent::tee::Tee;
use cocoon_protocol::control::{GuestMessage, MAX_GUEST_MESSAGE};
use cocoon_protocol::frame::Decoder;
use cocoon_protocol::gpu::GpuMetrics;
use tokio::sync::watch;

use crate::bench::Bench;
use crate::channel;
use crate::common::client::DEADLINE;
use crate::common::{FakeEngine, Parts, parts};

/// The numbers of every GPU are sent as often as the counters, for as long as the guest serves.
#[tokio::test(flavor = "multi_thread")]
async fn how_the_gpus_are_used_is_told_to_the_host() {
    let bench = Bench::new(&["1001", "1002"]);
    let gate = Arc::new(bench.open().unwrap());
    let Parts {
        listener,
        mut service,
        tee,
        identity,
    } = parts(FakeEngine::new().0, 1, Limits::default()).await;
    let (_collateral, stapled) = watch::channel(None);
    let tee = tee as Arc<dyn Tee>;
    service.attester = Attester::with_gpus(tee, Some(Arc::clone(&gate)), identity, stapled);
    let (control, mut host) = channel();
    let every = Duration::from_millis(20);
    let serving =
        tokio::spawn(async move { serving::run(listener, service, &control, every).await });
    host.set_read_timeout(Some(DEADLINE)).unwrap();
    let told = tokio::task::spawn_blocking(move || {
        let (mut decoder, mut chunk) = (Decoder::new(MAX_GUEST_MESSAGE), [0; 4096]);
        let mut told = Vec::new();
        while told.len() < 3 {
            let count = host.read(&mut chunk).unwrap();
            decoder.push(&chunk[..count]);
            while let Some(message) = decoder.next().unwrap() {
                if let GuestMessage::GpuMetrics { gpus } = message {
                    told.push(gpus);
                }
            }
        }
        // Dropping the host's end would end the guest.
        (told, host)
    });
    let used = GpuMetrics {
        memory_bytes: Some(80 << 30),
        memory_used_bytes: Some(7 << 30),
        temperature_celsius: None,
    };
    let (told, _host) = told.await.unwrap();
    for gpus in told {
        assert_eq!(gpus, [used; 2]);
    }
    assert!(!serving.is_finished());
    // Unknown numbers are not sent, and this alone does not end the service.
    bench.lost.store(true, Ordering::Relaxed);
    assert_eq!(gate.metrics(), []);
    assert!(gate.failed().borrow().is_none());
}
