//! The agent's side of the collector protocol, the collector process and the agent's gate together, over a socket pair.
//! Only the driver is imitated; it uses the simulator's GPU.

use std::fs;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cocoon_gpu::driver::{Driver, Fault, Listed, Memory, Xid};
use cocoon_gpu::serve::serve;
use cocoon_guest_agent::gpu::collector::Collector;
use cocoon_guest_agent::gpu::gate::{AGAIN, Gate, GateError, Setup};
use cocoon_guest_agent::gpu::judge::Roots;
use cocoon_protocol::bytes::{Hex, Hex32};
use cocoon_protocol::gpu::collector::{Mode, PciAddress};
use cocoon_simulator::nvidia::GpuSimulator;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::gpu_machine::gpus;
use crate::guest::TODAY;

const NONCE: Hex32 = Hex([7; 32]);
const PLACE: PciAddress = PciAddress {
    domain: 0,
    bus: 0x1b,
    device: 0,
};
/// Limit on waits for events that must happen.
const DEADLINE: Duration = Duration::from_secs(60);

/// State of an imitated driver with one GPU, and a record of the calls to it.
struct State {
    gpus: GpuSimulator,
    confidential: Mutex<bool>,
    ready: Mutex<bool>,
    reports: watch::Sender<usize>,
    events: Mutex<Receiver<Result<u64, Fault>>>,
}

struct Imitated(Arc<State>);

impl Driver for Imitated {
    fn version(&self) -> Result<String, Fault> {
        Ok("550.144.03".into())
    }
    fn mode(&self) -> Result<Mode, Fault> {
        Ok(Mode {
            confidential_computing: *self.0.confidential.lock().unwrap(),
            developer_mode: false,
            protected_pcie: false,
        })
    }
    fn count(&self) -> Result<u32, Fault> {
        Ok(1)
    }
    fn listed(&self, _: u32) -> Result<Listed, Fault> {
        let (pci, device) = (PLACE, 0x2330);
        Ok(Listed { pci, device })
    }
    fn vbios_version(&self, _: u32) -> Result<String, Fault> {
        Ok("96.00.5E.00.01".into())
    }
    fn minor(&self, _: u32) -> Result<u32, Fault> {
        Ok(0)
    }
    fn persist(&self, _: u32) -> Result<(), Fault> {
        Err(Fault::NO_PERMISSION)
    }
    fn certificates(&self, _: u32) -> Result<Vec<u8>, Fault> {
        let shown = self.0.gpus.collect(&NONCE).unwrap().remove(0);
        // The driver pads its buffer with zeros.
        Ok([shown.chain.as_bytes(), &[0; 64]].concat())
    }
    fn report(&self, _: u32, nonce: &Hex32) -> Result<Vec<u8>, Fault> {
        self.0.reports.send_modify(|count| *count += 1);
        Ok(self.0.gpus.collect(nonce).unwrap().remove(0).report.0)
    }
    fn set_ready(&self, ready: bool) -> Result<(), Fault> {
        *self.0.ready.lock().unwrap() = ready;
        Ok(())
    }
    fn ready(&self) -> Result<bool, Fault> {
        Ok(*self.0.ready.lock().unwrap())
    }
    fn memory(&self, _: u32) -> Result<Memory, Fault> {
        Err(Fault::NOT_SUPPORTED)
    }
    fn temperature(&self, _: u32) -> Result<u32, Fault> {
        Err(Fault::NOT_SUPPORTED)
    }
    fn listen(&self, tell: &mut dyn FnMut(Xid) -> bool) -> Result<(), Fault> {
        let events = self.0.events.lock().unwrap();
        for event in events.iter() {
            let (pci, code) = (Some(PLACE), event?);
            if !tell(Xid { pci, code }) {
                break;
            }
        }
        Ok(())
    }
}

/// Returns a gate connected through the collector to an imitated driver, and a sender for the events of its GPU.
fn opened() -> (Arc<State>, Sender<Result<u64, Fault>>, Arc<Gate>) {
    let (happen, events) = mpsc::channel();
    let state = Arc::new(State {
        gpus: gpus("1001"),
        confidential: Mutex::new(true),
        ready: Mutex::default(),
        reports: watch::Sender::default(),
        events: Mutex::new(events),
    });
    let (ours, theirs) = UnixStream::pair().unwrap();
    let driver = Imitated(Arc::clone(&state));
    std::thread::spawn(move || {
        let devices = tempfile::tempdir().unwrap();
        fs::write(devices.path().join("nvidia0"), b"").unwrap();
        serve(theirs, || Ok(driver), devices.path()).unwrap();
    });
    let collector = Collector::over(ours, DEADLINE).unwrap();
    assert_eq!(collector.driver_version(), "550.144.03");
    let (_host, collateral) = watch::channel(Some(state.gpus.collateral(*TODAY).unwrap()));
    let setup = Setup {
        source: Arc::new(collector),
        count: Box::new(|| Ok(1)),
        roots: Roots::Development,
        collateral,
    };
    let gate = Gate::open(setup, &NONCE, |_| (), Duration::ZERO).unwrap();
    (state, happen, Arc::new(gate))
}

/// Returns the text of an error with its cause.
fn words(error: &GateError) -> String {
    let cause = std::error::Error::source(error);
    let cause = cause.map(|cause| format!(": {cause}")).unwrap_or_default();
    format!("{error}{cause}")
}

/// Waits until the GPU has been asked for at least `times` reports.
async fn asked(state: &State, times: usize) {
    let mut reports = state.reports.subscribe();
    let enough = reports.wait_for(|count| *count >= times);
    let enough = timeout(DEADLINE, enough).await;
    assert!(enough.expect("asked in time").is_ok());
}

/// The GPU is verified and set ready. The gate asks for evidence again after an XID error and after a failure to listen
/// for errors, and ends the service when the GPU is lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_gpu_goes_the_whole_way_from_its_driver_to_the_gate() {
    let (state, happen, gate) = opened();
    assert!(*state.ready.lock().unwrap());
    let proven = gate.evidence(&Hex([8; 32])).unwrap();
    let shown = &proven.section.gpus[0];
    assert_eq!(shown.report.0[4..36], [8; 32]);
    assert_eq!(shown.driver.vbios_version, "96.00.5E.00.01");
    assert!(shown.driver.confidential_computing);
    let watched = Arc::clone(&gate);
    let watching = tokio::spawn(async move { watched.watch(AGAIN).await });
    happen.send(Ok(31)).unwrap();
    asked(&state, 3).await;
    happen.send(Err(Fault(999))).unwrap();
    asked(&state, 4).await;
    happen.send(Ok(31)).unwrap();
    asked(&state, 5).await;
    assert!(!watching.is_finished(), "the GPU is good");
    happen.send(Err(Fault::GPU_LOST)).unwrap();
    let ended = timeout(DEADLINE, watching).await.expect("heard in time");
    let lost = "the GPUs are not what they were: a GPU fell off the bus or needs a reset";
    assert_eq!(words(&ended.unwrap()), lost);
    gate.close();
    assert!(!*state.ready.lock().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gpu_whose_confidential_computing_goes_off_ends_the_service() {
    let (state, _happen, gate) = opened();
    *state.confidential.lock().unwrap() = false;
    let off = "there is no evidence of the GPUs: GPU 0 shows no evidence: confidential computing is off: the host turns it on \
               (`cocoon-host gpu prepare`)";
    assert_eq!(words(&gate.evidence(&NONCE).unwrap_err()), off);
    assert_eq!(words(&gate.failed().borrow().clone().unwrap()), off);
}
