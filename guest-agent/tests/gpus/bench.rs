//! Simulated GPUs behind a gate. A test can change them, and can stop them from answering.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cocoon_guest_agent::gpu::gate::{Gate, GateError, Setup};
use cocoon_guest_agent::gpu::judge::Roots;
use cocoon_guest_agent::gpu::{GpuSource, Happened, SourceError};
use cocoon_protocol::bytes::{Hex, Hex32};
use cocoon_protocol::gpu::{CollectedGpu, GpuCollateral, GpuMetrics};
use cocoon_simulator::nvidia::{Fault, GpuSimulator};
use tokio::sync::watch;

/// Nonce of the boot.
pub const NONCE: Hex32 = Hex([7; 32]);

/// Simulated GPUs of a machine, and a record of what was done with them.
pub struct Bench {
    pub simulator: Mutex<GpuSimulator>,
    pub count: AtomicUsize,
    did: Mutex<Vec<&'static str>>,
    pub silent: AtomicUsize,
    pub lost: AtomicBool,
    /// Taken by the next call of `collect`, which returns only when the sender is dropped.
    pub hold: Mutex<Option<mpsc::Receiver<()>>>,
    pub events: watch::Sender<Happened>,
}

pub fn simulator(serials: &[&str]) -> GpuSimulator {
    let serials: Vec<String> = serials.iter().map(ToString::to_string).collect();
    GpuSimulator::new("bench", &serials).unwrap()
}

impl Bench {
    pub fn new(serials: &[&str]) -> Arc<Self> {
        Arc::new(Self {
            simulator: Mutex::new(simulator(serials)),
            count: AtomicUsize::new(serials.len()),
            did: Mutex::default(),
            silent: AtomicUsize::new(0),
            lost: AtomicBool::new(false),
            hold: Mutex::default(),
            events: watch::Sender::default(),
        })
    }

    pub fn faulty(fault: Fault) -> Arc<Self> {
        let bench = Self::new(&["1001", "1002"]);
        bench.simulator.lock().unwrap().fault = Some(fault);
        bench
    }

    pub fn collateral(&self) -> GpuCollateral {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let simulator = self.simulator.lock().unwrap();
        simulator.collateral(now.as_secs()).unwrap()
    }

    pub fn did(&self) -> Vec<&'static str> {
        self.did.lock().unwrap().clone()
    }

    pub fn open_as(self: &Arc<Self>, roots: Roots) -> Result<Gate, GateError> {
        let (host, collateral) = watch::channel(None);
        let counted = Arc::clone(self);
        let setup = Setup {
            source: Arc::clone(self) as Arc<dyn GpuSource>,
            count: Box::new(move || Ok(counted.count.load(Ordering::Relaxed))),
            roots,
            collateral,
        };
        // The host provides collateral only when it is asked.
        let ask = |needs: Vec<_>| {
            self.did.lock().unwrap().push("ask");
            assert!(needs.len() <= self.count.load(Ordering::Relaxed));
            host.send_replace(Some(self.collateral()));
        };
        Gate::open(setup, &NONCE, ask, Duration::ZERO)
    }

    pub fn open(self: &Arc<Self>) -> Result<Gate, GateError> {
        self.open_as(Roots::Development)
    }
}

impl GpuSource for Bench {
    fn collect(&self, nonce: &Hex32) -> Result<Vec<CollectedGpu>, SourceError> {
        self.did.lock().unwrap().push("collect");
        let hold = self.hold.lock().unwrap().take();
        if let Some(hold) = hold {
            // Nothing is ever sent: this returns when the sender is dropped.
            let _ = hold.recv();
        }
        let silent = |times: usize| times.checked_sub(1);
        if self
            .silent
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, silent)
            .is_ok()
        {
            return Err(SourceError::Failed("the driver is busy".into()));
        }
        if self.lost.load(Ordering::Relaxed) {
            return Err(SourceError::Final("GPU 0 shows no evidence: lost".into()));
        }
        Ok(self.simulator.lock().unwrap().collect(nonce).unwrap())
    }

    fn set_ready(&self, ready: bool) -> Result<(), SourceError> {
        let what = if ready { "ready" } else { "not ready" };
        self.did.lock().unwrap().push(what);
        Ok(())
    }

    fn metrics(&self) -> Result<Vec<GpuMetrics>, SourceError> {
        let count = self.count.load(Ordering::Relaxed);
        let used = GpuMetrics {
            memory_bytes: Some(80 << 30),
            memory_used_bytes: Some(7 << 30),
            temperature_celsius: None,
        };
        match self.lost.load(Ordering::Relaxed) {
            true => Err(SourceError::Final("lost".into())),
            false => Ok(vec![used; count]),
        }
    }

    fn events(&self) -> watch::Receiver<Happened> {
        self.events.subscribe()
    }
}

/// An error with its cause.
pub fn words(error: &GateError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
