//! A complete service in the test's process: real TLS, API, attester and supervisor, with a fake TEE whose evidence has
//! the right format, and a fake engine that speaks the real frames over a socket pair.
#![expect(dead_code, reason = "each test file uses its own part")]

pub mod anyone;
pub mod client;
pub mod engine;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use cocoon_guest_agent::api::receipts::Receipts;
use cocoon_guest_agent::api::{self, Counters, Limits, Service};
use cocoon_guest_agent::attester::{self, Attester, Identity};
use cocoon_guest_agent::engine::supervisor;
use cocoon_guest_agent::keys::Keys;
use cocoon_guest_agent::tee::{Tee, TeeError};
use cocoon_guest_agent::tls::AttestedListener;
use cocoon_protocol::binding::{Claims, Tee as Kind};
use cocoon_protocol::bytes::{Blob, Hex, Hex32, Hex64};
use cocoon_protocol::config::{self, OperatorConfig};
use cocoon_protocol::document::Evidence;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use client::Client;
pub use engine::{FakeEngine, MODEL};

/// A fake TEE, whose evidence is a TDX quote of the right format without a signature.
pub struct FakeTee {
    pub config: Vec<u8>,
    pub calls: AtomicU64,
    pub gate: Gate,
    /// Whether calls fail.
    pub broken: AtomicBool,
}

/// Blocks calls of the TEE while it is shut.
#[derive(Default)]
pub struct Gate {
    shut: Mutex<bool>,
    changed: Condvar,
}

impl Gate {
    pub fn set(&self, shut: bool) {
        *self.shut.lock().unwrap() = shut;
        self.changed.notify_all();
    }

    fn pass(&self) {
        let shut = self.shut.lock().unwrap();
        drop(self.changed.wait_while(shut, |shut| *shut).unwrap());
    }
}

impl FakeTee {
    pub fn new() -> Self {
        Self {
            config: OperatorConfig::default().canonical(),
            calls: AtomicU64::new(0),
            gate: Gate::default(),
            broken: AtomicBool::new(false),
        }
    }
}

impl Tee for FakeTee {
    fn kind(&self) -> Kind {
        Kind::Tdx
    }

    fn report(&self, data: &Hex64) -> Result<Evidence, TeeError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.gate.pass();
        if self.broken.load(Ordering::Relaxed) {
            return Err(TeeError::Race(3));
        }
        let mut quote = vec![0; 700];
        quote[0] = 4;
        quote[232..280].copy_from_slice(&config::digest(Kind::Tdx, &self.config).0);
        quote[568..632].copy_from_slice(&data.0);
        Ok(Evidence::Tdx {
            quote: Blob(quote),
            event_log: Blob(vec![1, 2, 3]),
        })
    }
}

/// A running service, and the parts of it that tests examine.
pub struct Machine {
    pub address: SocketAddr,
    pub tee: Arc<FakeTee>,
    pub identity: Identity,
    pub counters: Arc<Counters>,
    pub drain: watch::Sender<bool>,
    pub server: JoinHandle<()>,
    pub engine: cocoon_guest_agent::engine::Engine,
    pub attester: Attester,
}

pub fn identity(keys: &Keys, config: &[u8]) -> Identity {
    let claims = Claims {
        tee: Kind::Tdx,
        leaf_spki_sha256: keys.leaf_spki_sha256(),
        meter_key: keys.meter_public(),
        manifest_id: Hex([3; 32]),
        model_digest: Hex([4; 32]),
        config_digest: config::digest(Kind::Tdx, config),
        gpu_section_digest: Hex32::ZERO,
    };
    Identity {
        claims,
        config: Blob(config.to_vec()),
    }
}

/// The default limits, except that no request waits for a slot.
pub fn impatient() -> Limits {
    let mut limits = Limits::default();
    limits.patience.time = Duration::ZERO;
    limits
}

/// The parts of a service whose engine is ready.
pub struct Parts {
    pub listener: AttestedListener,
    pub service: Service,
    pub tee: Arc<FakeTee>,
    pub identity: Identity,
}

/// Builds the parts of a service with `concurrent` generation slots.
pub async fn parts(engine: FakeEngine, concurrent: u16, limits: Limits) -> Parts {
    let keys = Keys::generate().unwrap();
    let tee = Arc::new(FakeTee::new());
    let identity = identity(&keys, &tee.config);
    let boot = attester::boot(&*tee, &identity).unwrap();
    let listener = AttestedListener::bind((Ipv4Addr::LOCALHOST, 0).into(), &keys, &boot)
        .await
        .unwrap();
    let (_collateral, stapled) = watch::channel(None);
    let attester = Attester::start(Arc::clone(&tee) as Arc<dyn Tee>, identity.clone(), stapled);
    let engine = supervisor::start(engine, MODEL.into(), concurrent);
    let mut state = engine.state();
    let ready = state.wait_for(|state| state.ready.is_some());
    drop(
        tokio::time::timeout(client::DEADLINE, ready)
            .await
            .expect("engine in time")
            .unwrap(),
    );
    let receipts = Receipts::new(&keys, &identity.claims);
    let service = Service {
        attester,
        engine,
        receipts,
        counters: Arc::new(Counters::default()),
        limits,
    };
    Parts {
        listener,
        service,
        tee,
        identity,
    }
}

/// Starts a service with `concurrent` generation slots, and waits until its engine is ready.
pub async fn machine(engine: FakeEngine, concurrent: u16, limits: Limits) -> Machine {
    let Parts {
        listener,
        service,
        tee,
        identity,
    } = parts(engine, concurrent, limits).await;
    let address = listener.local_address().unwrap();
    let (engine, counters) = (service.engine.clone(), Arc::clone(&service.counters));
    let attester = service.attester.clone();
    let (drain, draining) = watch::channel(false);
    let server = tokio::spawn(api::serve(listener, service, draining));
    Machine {
        address,
        tee,
        identity,
        counters,
        drain,
        server,
        engine,
        attester,
    }
}
