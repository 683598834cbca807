//! Tests that sessions that wait for evidence share one call of the TEE, and nothing else.

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use cocoon_guest_agent::api::Limits;
use cocoon_guest_agent::attester::{AttestError, Attester, Identity, QUEUE, Shown};
use cocoon_guest_agent::keys::Keys;
use cocoon_guest_agent::tee::Tee;
use cocoon_protocol::batch::{self, MAX_LEAVES};
use cocoon_protocol::binding::{self, Freshness};
use cocoon_protocol::bytes::{Hex, Hex64};
use cocoon_protocol::document::{Document, Evidence, MAX_DOCUMENT_LEN};
use common::client::DEADLINE;
use common::{Client, FakeEngine, FakeTee, identity, machine};
use tokio::sync::watch;
use tokio::task::{JoinHandle, yield_now};
use tokio::time::timeout;

type Answer = JoinHandle<Result<Shown, AttestError>>;

/// An attester whose TEE blocks its calls.
struct Bench {
    tee: Arc<FakeTee>,
    identity: Identity,
    attester: Attester,
}

fn fresh(number: usize) -> Freshness {
    let number = u8::try_from(number).unwrap();
    Freshness {
        nonce: Hex([number; 32]),
        exporter: Hex([0x80 ^ number; 32]),
    }
}

impl Bench {
    fn new() -> Self {
        let tee = Arc::new(FakeTee::new());
        tee.gate.set(true);
        let identity = identity(&Keys::generate().unwrap(), &tee.config);
        let (_collateral, stapled) = watch::channel(None);
        let attester = Attester::start(Arc::clone(&tee) as Arc<dyn Tee>, identity.clone(), stapled);
        Self {
            tee,
            identity,
            attester,
        }
    }

    fn calls(&self) -> u64 {
        self.tee.calls.load(Ordering::Relaxed)
    }

    fn ask(&self, number: usize) -> Answer {
        let attester = self.attester.clone();
        tokio::spawn(async move { attester.session(fresh(number)).await })
    }

    /// Leaves one session alone in a call of the TEE, with `behind` sessions waiting for the next call.
    async fn hold(&self, behind: usize) -> (Answer, Vec<Answer>) {
        let first = self.ask(0);
        self.until(|bench| bench.calls() == 1).await;
        let others: Vec<_> = (1..=behind).map(|number| self.ask(number)).collect();
        self.until(|bench| bench.attester.waiting() == behind).await;
        (first, others)
    }

    async fn until(&self, reached: impl Fn(&Self) -> bool) {
        let wait = async {
            while !reached(self) {
                yield_now().await;
            }
        };
        timeout(DEADLINE, wait).await.expect("in time");
    }

    fn binding(&self, number: usize) -> [u8; binding::BINDING_LEN] {
        binding::session(&self.identity.claims, &fresh(number))
    }
}

async fn document(answer: Answer) -> Document {
    let shown = timeout(DEADLINE, answer).await.expect("in time");
    Document::parse(&shown.unwrap().unwrap().document, MAX_DOCUMENT_LEN).unwrap()
}

fn signed(document: &Document) -> Hex64 {
    let Evidence::Tdx { quote, .. } = &document.evidence else {
        panic!("not TDX")
    };
    Hex(quote.0[568..632].try_into().unwrap())
}

#[tokio::test]
async fn sessions_that_wait_cost_one_call() {
    let bench = Bench::new();
    let (first, others) = bench.hold(MAX_LEAVES).await;
    bench.tee.gate.set(false);
    let first = document(first).await;
    assert_eq!(first.batch, None);
    assert_eq!(signed(&first), binding::report_data(&bench.binding(0)));
    for (number, answer) in (1..).zip(others) {
        let document = document(answer).await;
        assert_eq!(document.nonce, fresh(number).nonce);
        let place = document.batch.as_ref().unwrap();
        let data = place.report_data(&bench.binding(number)).unwrap();
        assert_eq!(signed(&document), data, "session {number}");
    }
    assert_eq!(bench.calls(), 2);
}

/// The root covers exactly the waiting sessions, in their order. Their documents differ only in nonce and place.
#[tokio::test]
async fn cocoon_batch_5() {
    let bench = Bench::new();
    let (_first, others) = bench.hold(5).await;
    bench.tee.gate.set(false);
    let bindings: Vec<_> = (1..=5).map(|number| bench.binding(number)).collect();
    let expected = batch::share(&bindings).unwrap();
    let mut common = None;
    for (answer, place) in others.into_iter().zip(expected.places) {
        let mut document = document(answer).await;
        assert_eq!(signed(&document), expected.report_data);
        assert_eq!(document.batch.take(), place);
        document.nonce = Hex::ZERO;
        assert_eq!(*common.get_or_insert_with(|| document.clone()), document);
    }
}

#[tokio::test]
async fn who_has_gone_takes_no_part() {
    let bench = Bench::new();
    let (first, mut others) = bench.hold(3).await;
    let stays = others.remove(1);
    for gone in others {
        gone.abort();
        assert!(gone.await.unwrap_err().is_cancelled());
    }
    bench.tee.gate.set(false);
    document(first).await;
    assert_eq!(document(stays).await.batch, None, "it is the only one left");
    assert_eq!(bench.calls(), 2);
    // If no session is left, the TEE is not called.
    bench.tee.gate.set(true);
    let first = bench.ask(0);
    bench.until(|bench| bench.calls() == 3).await;
    let gone = bench.ask(1);
    bench.until(|bench| bench.attester.waiting() == 1).await;
    gone.abort();
    assert!(gone.await.unwrap_err().is_cancelled());
    bench.tee.gate.set(false);
    document(first).await;
    bench.until(|bench| bench.attester.waiting() == 0).await;
    document(bench.ask(2)).await;
    assert_eq!(bench.calls(), 4);
}

#[tokio::test]
async fn a_failure_is_everybodys() {
    let bench = Bench::new();
    let (first, others) = bench.hold(4).await;
    bench.tee.broken.store(true, Ordering::Relaxed);
    bench.tee.gate.set(false);
    for answer in std::iter::once(first).chain(others) {
        let error = timeout(DEADLINE, answer)
            .await
            .unwrap()
            .unwrap()
            .unwrap_err();
        let AttestError::Tee(source) = &error else {
            panic!("{error}")
        };
        assert_eq!(
            source.to_string(),
            "report was made 3 generations away from ours: somebody else uses configfs-tsm"
        );
    }
    assert_eq!(bench.calls(), 2);
}

#[tokio::test]
async fn the_queue_is_bounded() {
    let bench = Bench::new();
    let (_first, others) = bench.hold(QUEUE).await;
    let refused = bench.attester.session(fresh(99)).await.unwrap_err();
    assert_eq!(refused.to_string(), "32 sessions are waiting for evidence");
    bench.tee.gate.set(false);
    for answer in others {
        assert!(document(answer).await.batch.is_some());
    }
}

/// Over real TLS, each client recognises its own session in shared evidence.
#[tokio::test(flavor = "multi_thread")]
async fn clients_share_evidence() {
    let machine = machine(FakeEngine::new().0, 1, Limits::default()).await;
    let before = machine.tee.calls.load(Ordering::Relaxed);
    machine.tee.gate.set(true);
    let mut clients = Vec::new();
    for number in 0..8 {
        let mut client = Client::connect(machine.address).await;
        clients.push(tokio::spawn(async move {
            let nonce = Hex([number; 32]);
            let document = client.attest(nonce).await;
            let fresh = Freshness {
                nonce,
                exporter: client.exporter,
            };
            (document, fresh)
        }));
        // The first session is in the TEE before the others ask.
        let reached = async {
            while machine.tee.calls.load(Ordering::Relaxed) == before
                || machine.attester.waiting() < usize::from(number)
            {
                yield_now().await;
            }
        };
        timeout(DEADLINE, reached).await.expect("in time");
    }
    machine.tee.gate.set(false);
    let mut batched = 0;
    for client in clients {
        let (document, fresh) = timeout(DEADLINE, client).await.unwrap().unwrap();
        let own = binding::session(&document.claims, &fresh);
        let data = match &document.batch {
            Some(place) => place.report_data(&own).unwrap(),
            None => binding::report_data(&own),
        };
        assert_eq!(signed(&document), data);
        batched += usize::from(document.batch.is_some());
    }
    assert_eq!(batched, 7);
    assert_eq!(machine.tee.calls.load(Ordering::Relaxed), before + 2);
}
