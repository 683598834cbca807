//! Tests that GPUs prove their state before they work and while the guest serves, and that otherwise the guest does not
//! serve.

#[path = "gpus/bench.rs"]
mod bench;
mod common;
#[path = "gpus/lapses.rs"]
mod lapses;
#[path = "gpus/storms.rs"]
mod storms;
#[path = "gpus/used.rs"]
mod used;

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bench::{Bench, NONCE, simulator, words};

use cocoon_guest_agent::api::Limits;
use cocoon_guest_agent::attester::Attester;
use cocoon_guest_agent::boot::serving;
use cocoon_guest_agent::control::Control;
use cocoon_guest_agent::gpu::gate::{Gate, Setup};
use cocoon_guest_agent::gpu::judge::Roots;
use cocoon_guest_agent::gpu::wanted::Wanted;
use cocoon_guest_agent::gpu::{GpuSource, Happened};
use cocoon_guest_agent::tee::Tee;
use cocoon_protocol::binding::{self, Freshness};
use cocoon_protocol::bytes::{Blob, Hex, Hex32};
use cocoon_protocol::control::{Configure, HostMessage, MAX_HOST_MESSAGE, Phase};
use cocoon_protocol::engine::GpuCounts;
use cocoon_protocol::frame;
use cocoon_simulator::nvidia::Fault;
use common::client::{DEADLINE, read};
use common::{Client, FakeEngine, Parts, parts};
use tokio::sync::watch;
use tokio::time::timeout;

#[test]
fn good_gpus_are_verified_and_then_let_to_work() {
    let bench = Bench::new(&["1001", "1002"]);
    let gate = bench.open().unwrap();
    assert_eq!(bench.did(), ["collect", "ask", "ready"]);
    assert_eq!(gate.needs().len(), 2);
    assert_eq!(gate.needs()[0].driver_rim, "NV_GPU_DRIVER_GH100_550.144.03");
    let proven = gate.evidence(&Hex([8; 32])).unwrap();
    assert_eq!(
        (proven.section.functions, proven.section.gpus.len()),
        (2, 2)
    );
    assert_eq!(proven.collateral.unwrap().rims.len(), 2);
    assert!(gate.failed().borrow().is_none());
    // Simulated GPUs compute nothing, so the engine must use none.
    assert!(gate.check_engine(0).is_ok());
    assert_eq!(
        gate.check_engine(2).unwrap_err().to_string(),
        "the engine works on 2 GPUs, and the guest counts 0: boot again; if that does not help, this image's engine does not fit this machine"
    );
}

/// A GPU whose evidence is refused at boot is never set ready.
#[test]
fn gpus_that_prove_something_else_never_work() {
    for (fault, text) in [
        (
            Fault::WrongNonce,
            "the evidence of the GPUs was refused by gpu.nonce: gpu.nonce: GPU 0: nonce of the report: the report answers another \
             question: an old one, or somebody else's",
        ),
        (
            Fault::OtherVbios,
            "the evidence of the GPUs was refused by gpu.measurement, gpu.measurements: gpu.measurement: ",
        ),
        (
            Fault::DeveloperMode,
            "the evidence of the GPUs was refused by gpu.developer_mode: gpu.developer_mode: GPU 0: developer mode: developer mode: \
             debuggers and profilers can read everything",
        ),
        (
            Fault::Missing,
            "the evidence of the GPUs was refused by gpu.count: gpu.count: number of GPUs: a GPU without evidence could do \
             anything with what it is given",
        ),
        (
            Fault::Revoked,
            "the evidence of the GPUs was refused by gpu.revocation: gpu.revocation: GPU 0: revocation of GH100 A01 GSP BROM: \
             NVIDIA revoked it at ",
        ),
    ] {
        let bench = Bench::faulty(fault);
        let said = words(&bench.open().err().unwrap());
        assert!(said.starts_with(text), "{fault:?}: {said}");
        assert_eq!(bench.did(), ["collect", "ask"], "{fault:?}");
    }
    let bench = Bench::new(&[]);
    assert_eq!(
        words(&bench.open().err().unwrap()),
        "this image works on a GPU, and the machine has none: pass one through to the VM"
    );
    let bench = Bench::new(&["1001"]);
    bench.silent.store(1, Ordering::Relaxed);
    assert_eq!(
        words(&bench.open().err().unwrap()),
        "there is no evidence of the GPUs: the driver is busy"
    );
    // Lapsed collateral is left to clients, because the host cannot change their clocks.
    assert!(Bench::faulty(Fault::Expired).open().is_ok());
}

/// In a TEE only NVIDIA's roots count, and simulated GPUs cannot be requested.
#[test]
fn cocoon_gpu_22() {
    let bench = Bench::new(&["1001"]);
    let said = words(&bench.open_as(Roots::Vendor).err().unwrap());
    let text = "the evidence of the GPUs was refused by gpu.root: gpu.root: root of the GPU's certificates: development root not \
                named: this comes from a simulated GPU, and no development root for it was named (found: development root, \
                key with SHA-384 ";
    assert!(said.starts_with(text), "{said}");
    assert_eq!(bench.did(), ["collect", "ask"]);
    let wanted = Wanted::from_cmdline("quiet cocoon.gpu=simulated:2").unwrap();
    assert_eq!(
        wanted.roots(false).unwrap(),
        Some((Roots::Development, Some(2)))
    );
    assert_eq!(
        wanted.roots(true).unwrap_err().to_string(),
        "this image asks for simulated GPUs, and this machine is a TEE: it runs only where everything is simulated"
    );
    for in_tee in [false, true] {
        let wanted = Wanted::from_cmdline("cocoon.gpu=nvidia").unwrap();
        assert_eq!(wanted.roots(in_tee).unwrap(), Some((Roots::Vendor, None)));
    }
}

#[test]
fn what_changes_while_the_guest_serves_ends_it() {
    const SWAPPED: &str = "the evidence of the GPUs was refused by gpu.keys: gpu.keys: another GPU than at boot, or one with other \
                           firmware: it was exchanged or reset";
    // Another genuine GPU that answers the same nonce.
    let bench = Bench::new(&["1001"]);
    let (host, collateral) = watch::channel(Some(bench.collateral()));
    let setup = Setup {
        source: Arc::clone(&bench) as Arc<dyn GpuSource>,
        count: Box::new(|| Ok(1)),
        roots: Roots::Development,
        collateral,
    };
    let gate = Gate::open(setup, &NONCE, |_| (), Duration::ZERO).unwrap();
    *bench.simulator.lock().unwrap() = simulator(&["2002"]);
    host.send_replace(Some(bench.collateral()));
    assert_eq!(words(&gate.evidence(&NONCE).unwrap_err()), SWAPPED);
    assert_eq!(words(&gate.failed().borrow().clone().unwrap()), SWAPPED);
    // The right GPU comes back too late.
    *bench.simulator.lock().unwrap() = simulator(&["1001"]);
    host.send_replace(Some(bench.collateral()));
    assert_eq!(words(&gate.evidence(&NONCE).unwrap_err()), SWAPPED);

    let bench = Bench::new(&["1001", "1002"]);
    let gate = bench.open().unwrap();
    bench.count.store(3, Ordering::Relaxed);
    assert_eq!(
        words(&gate.evidence(&NONCE).unwrap_err()),
        "the guest counts 3 GPUs, and counted 2 at boot: boot again with those that it shall have"
    );
    assert!(gate.failed().borrow().is_some());

    // A driver that is busy once costs one session its evidence.
    let bench = Bench::new(&["1001"]);
    let gate = bench.open().unwrap();
    bench.silent.store(1, Ordering::Relaxed);
    assert_eq!(
        words(&gate.evidence(&NONCE).unwrap_err()),
        "there is no evidence of the GPUs: the driver is busy"
    );
    assert!(gate.failed().borrow().is_none());
    assert!(gate.evidence(&NONCE).is_ok());
    // A driver that reports a lost GPU is not asked again.
    bench.lost.store(true, Ordering::Relaxed);
    let lost = "there is no evidence of the GPUs: GPU 0 shows no evidence: lost";
    assert_eq!(words(&gate.evidence(&NONCE).unwrap_err()), lost);
    assert_eq!(words(&gate.failed().borrow().clone().unwrap()), lost);
    bench.lost.store(false, Ordering::Relaxed);
    assert_eq!(words(&gate.evidence(&NONCE).unwrap_err()), lost);
}

#[tokio::test]
async fn gpus_are_asked_again_on_a_timer_and_when_something_happened() {
    let ask = async |event, every| {
        let bench = Bench::new(&["1001"]);
        let gate = Arc::new(bench.open().unwrap());
        let watching = Arc::clone(&gate);
        let watching = tokio::spawn(async move { watching.watch(every).await });
        if event != Happened::Nothing {
            bench.events.send_replace(event);
        }
        let asked = async {
            while bench.did().iter().filter(|did| **did == "collect").count() < 3 {
                tokio::task::yield_now().await;
                // Another event.
                if let Happened::Something(_) = event {
                    let collected = bench.did().len() as u64;
                    bench.events.send_replace(Happened::Something(collected));
                }
            }
        };
        timeout(DEADLINE, asked).await.expect("asked in time");
        assert!(!watching.is_finished(), "the GPU is good");
        // The driver fails twice, so the GPU counts as lost.
        bench.silent.store(usize::MAX, Ordering::Relaxed);
        bench.events.send_replace(Happened::Something(u64::MAX));
        let error = timeout(DEADLINE, watching).await.expect("ends in time");
        assert_eq!(
            words(&error.unwrap()),
            "there is no evidence of the GPUs: the driver is busy"
        );
    };
    ask(Happened::Nothing, Duration::from_millis(1)).await;
    ask(Happened::Something(1), Duration::from_secs(3600)).await;
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
    let bytes = frame::encode(&configure, MAX_HOST_MESSAGE).unwrap();
    host.write_all(&bytes).unwrap();
    control.configure(DEADLINE).unwrap();
    control.enter(Phase::Serving);
    (control, host)
}

/// GPUs are verified before they are set ready. When something happens to one, answers break off, connections close,
/// the engine ends, and the host is told why.
#[tokio::test(flavor = "multi_thread")]
async fn cocoon_gpu_21() {
    for (event, text) in [
        (
            Happened::Ended("the driver has lost a GPU"),
            "the GPUs are not proven any more: the GPUs are not what they were: the driver has lost a GPU",
        ),
        (
            Happened::Something(1),
            "the GPUs are not proven any more: the evidence of the GPUs was refused by gpu.developer_mode",
        ),
    ] {
        let bench = Bench::new(&["1001"]);
        let gate = Arc::new(bench.open().unwrap());
        assert_eq!(bench.did(), ["collect", "ask", "ready"]);
        let Parts {
            listener,
            mut service,
            tee,
            identity,
        } = parts(FakeEngine::new().0, 1, Limits::default()).await;
        let (_host, stapled) = watch::channel(None);
        let tee = tee as Arc<dyn Tee>;
        service.attester = Attester::with_gpus(tee, Some(gate), identity, stapled);
        let (address, engine) = (listener.local_address().unwrap(), service.engine.clone());
        let (control, host) = channel();
        let every = serving::METRICS;
        let serving =
            tokio::spawn(async move { serving::run(listener, service, &control, every).await });

        let mut client = Client::connect(address).await;
        let nonce = Hex([9; 32]);
        let document = client.attest(nonce).await;
        let section = document.gpu.clone().unwrap();
        assert_eq!(document.claims.gpu_section_digest, section.digest());
        let fresh = Freshness {
            nonce,
            exporter: client.exporter,
        };
        let asked = binding::gpu_nonce(&binding::session(&document.claims, &fresh));
        assert_eq!(section.gpus[0].report.0[4..36], asked.0);
        assert_eq!(
            client
                .whole(document.clone())
                .await
                .gpu_collateral
                .unwrap()
                .rims,
            bench.collateral().rims
        );
        let answer = client.chat("wait", ",\"stream\":true").await;
        assert!(engine.model().is_some());

        bench.simulator.lock().unwrap().fault = Some(Fault::DeveloperMode);
        bench.events.send_replace(event);
        let ended = timeout(DEADLINE, serving).await.expect("ends in time");
        assert_eq!(ended.unwrap().unwrap_err().to_string(), text);
        // By now everything has ended.
        assert!(engine.state().has_changed().is_err(), "there is an engine");
        assert_eq!(bench.did().last(), Some(&"not ready"));
        let rest = timeout(
            DEADLINE,
            http_body_util::BodyExt::collect(answer.into_body()),
        );
        assert!(rest.await.expect("breaks in time").is_err(), "it went on");
        client.closed().await;
        drop(host);
    }
}

/// The engine must use exactly the GPUs that are proven, and simulated ones compute nothing.
#[tokio::test(flavor = "multi_thread")]
async fn an_engine_on_other_gpus_ends_the_service() {
    let gate = Arc::new(Bench::new(&["1001"]).open().unwrap());
    let mut engine = FakeEngine::new().0;
    engine.greeting = common::engine::on_gpus(1, GpuCounts::default());
    let Parts {
        listener,
        mut service,
        tee,
        identity,
    } = parts(engine, 1, Limits::default()).await;
    let (_collateral, stapled) = watch::channel(None);
    service.attester = Attester::with_gpus(tee as Arc<dyn Tee>, Some(gate), identity, stapled);
    assert_eq!(service.engine.state().borrow().devices, 1);
    let (control, _host) = channel();
    let serving = serving::run(listener, service, &control, serving::METRICS);
    let ended = timeout(DEADLINE, serving).await.expect("ends in time");
    assert_eq!(
        ended.unwrap_err().to_string(),
        "the GPUs are not proven any more: the engine works on 1 GPUs, and the guest counts 0: boot again; if that does not help, this image's engine does not fit this machine"
    );
}

/// A GPU without evidence costs a session its document. The refusal quotes nothing that the GPU or its driver says.
#[tokio::test]
async fn sessions_without_evidence_of_the_gpus_get_no_document() {
    let bench = Bench::new(&["1001"]);
    let gate = Arc::new(bench.open().unwrap());
    let Parts {
        listener,
        mut service,
        tee,
        identity,
    } = parts(FakeEngine::new().0, 1, Limits::default()).await;
    let (_host, stapled) = watch::channel(None);
    service.attester = Attester::with_gpus(tee as Arc<dyn Tee>, Some(gate), identity, stapled);
    let address = listener.local_address().unwrap();
    let (_drain, draining) = watch::channel(false);
    tokio::spawn(cocoon_guest_agent::api::serve(listener, service, draining));
    bench.silent.store(1, Ordering::Relaxed);
    let mut client = Client::connect(address).await;
    let body = format!("{{\"nonce\":\"{NONCE}\"}}");
    let path = cocoon_protocol::document::ATTEST_PATH;
    let (status, body) = read(client.send("POST", path, &body).await).await;
    assert_eq!(status.as_u16(), 503, "{}", String::from_utf8_lossy(&body));
    // The next session gets its document.
    assert!(client.attest(NONCE).await.gpu.is_some());
}
