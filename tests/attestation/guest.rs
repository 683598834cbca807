//! The real guest agent, running in the test process over a simulated TEE, and the real client's verifier for it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, LazyLock, Mutex};

use cocoon_client::{Address, Verifier};
use cocoon_guest_agent::api::receipts::Receipts;
use cocoon_guest_agent::api::{self, Counters, Limits, Service};
use cocoon_guest_agent::attester::{self, Attester, Identity};
use cocoon_guest_agent::engine::supervisor::{self, Launched as Engine, Launcher};
use cocoon_guest_agent::gpu::Gate;
use cocoon_guest_agent::keys::Keys;
use cocoon_guest_agent::tee::{Tee, TeeError};
use cocoon_guest_agent::tls::AttestedListener;
use cocoon_measurements::manifest::TrustedManifest;
use cocoon_protocol::binding::{Claims, Tee as Kind};
use cocoon_protocol::bytes::{Blob, Hex32, Hex64};
use cocoon_protocol::config;
use cocoon_protocol::document::Evidence;
use cocoon_simulator::launch::Launched;
use tokio::sync::watch;

use crate::machine::{Machine, policy, trusted};

/// The current time: the client library reads the machine's clock, so everything here is valid today.
pub static TODAY: LazyLock<u64> = LazyLock::new(cocoon_client::now);
/// The image's manifest, valid today.
pub static CURRENT: LazyLock<TrustedManifest> = LazyLock::new(|| trusted(*TODAY));

/// Returns a verifier that trusts [`CURRENT`] and simulated hardware.
pub fn verifier() -> Verifier {
    Verifier::new(CURRENT.clone(), policy())
}

/// Launches a VM of the image whose claims name today's manifest and the TLS key `leaf`.
pub fn machine(kind: Kind, leaf: Hex32) -> Machine {
    let mut vm = Machine::good(kind);
    vm.claims.leaf_spki_sha256 = leaf;
    vm.claims.manifest_id = CURRENT.id();
    vm.collateral = Some(vm.vm.collateral(*TODAY).unwrap());
    vm
}

/// Simulated hardware that counts its calls and can block them.
pub struct Simulated {
    kind: Kind,
    vm: Launched<'static>,
    calls: AtomicU64,
    held: Mutex<bool>,
    released: Condvar,
}

impl Simulated {
    /// Returns how many times evidence was requested.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Sets whether calls block.
    pub fn hold(&self, held: bool) {
        *self.held.lock().unwrap() = held;
        self.released.notify_all();
    }
}

impl Tee for Simulated {
    fn kind(&self) -> Kind {
        self.kind
    }

    fn report(&self, data: &Hex64) -> Result<Evidence, TeeError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let held = self.held.lock().unwrap();
        drop(self.released.wait_while(held, |held| *held).unwrap());
        Ok(self.vm.evidence(data).unwrap())
    }
}

/// Launcher that always fails: no test here needs an engine.
struct NoEngine;

impl Launcher for NoEngine {
    fn launch(&mut self) -> io::Result<Engine> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// A guest that serves until its runtime ends.
pub struct Guest {
    pub socket: SocketAddr,
    pub address: Address,
    pub claims: Claims,
    pub counters: Arc<Counters>,
    pub tee: Arc<Simulated>,
    pub attester: Attester,
    _drain: watch::Sender<bool>,
}

impl Guest {
    pub async fn start(kind: Kind) -> Self {
        Self::of(|leaf| machine(kind, leaf), |_| None).await
    }

    /// Starts a guest of the VM that `launch` makes for its TLS key, with the GPUs that `open` verifies for its claims.
    pub async fn of(
        launch: impl FnOnce(Hex32) -> Machine,
        open: impl FnOnce(&Claims) -> Option<Arc<Gate>>,
    ) -> Self {
        let keys = Keys::generate().unwrap();
        let mut vm = launch(keys.leaf_spki_sha256());
        let kind = vm.claims.tee;
        vm.claims.meter_key = keys.meter_public();
        let gpus = open(&vm.claims);
        if let Some(gate) = &gpus {
            vm.claims.gpu_section_digest = gate.keys_digest();
        }
        let identity = Identity {
            claims: vm.claims.clone(),
            config: Blob(vm.config.clone()),
        };
        assert_eq!(
            identity.claims.config_digest,
            config::digest(kind, &identity.config.0)
        );
        let tee = Arc::new(Simulated {
            kind,
            vm: vm.vm,
            calls: AtomicU64::new(0),
            held: Mutex::new(false),
            released: Condvar::new(),
        });
        let boot = attester::boot(&*tee, &identity).unwrap();
        let listener = AttestedListener::bind((Ipv4Addr::LOCALHOST, 0).into(), &keys, &boot)
            .await
            .unwrap();
        let socket = listener.local_address().unwrap();
        // The sender can be dropped; the receiver keeps the last value.
        let (_, stapled) = watch::channel(vm.collateral);
        let counters = Arc::new(Counters::default());
        let hardware = Arc::clone(&tee) as Arc<dyn Tee>;
        let attester = Attester::with_gpus(hardware, gpus, identity.clone(), stapled);
        let service = Service {
            attester: attester.clone(),
            engine: supervisor::start(NoEngine, "tiny".into(), 1),
            receipts: Receipts::new(&keys, &identity.claims),
            counters: Arc::clone(&counters),
            limits: Limits::default(),
        };
        let (drain, draining) = watch::channel(false);
        tokio::spawn(api::serve(listener, service, draining));
        Self {
            socket,
            address: format!("https://{socket}").parse().unwrap(),
            claims: identity.claims,
            counters,
            tee,
            attester,
            _drain: drain,
        }
    }
}
