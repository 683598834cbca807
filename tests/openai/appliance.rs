//! The real agent, running in the test process over a simulated TEE, with the real engine as its child process.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use anyhow::Context as _;
use cocoon_client::{Address, Endpoint, EndpointOptions, Token, Upstreams, Verifier};
use cocoon_guest_agent::api::receipts::Receipts;
use cocoon_guest_agent::api::{self, Counters, Limits, Service};
use cocoon_guest_agent::attester::{self, Attester, Identity};
use cocoon_guest_agent::engine::supervisor::{self, Launched as Engine, Launcher, Process};
use cocoon_guest_agent::keys::Keys;
use cocoon_guest_agent::tee::{Tee, TeeError};
use cocoon_guest_agent::tls::AttestedListener;
use cocoon_measurements::manifest::TrustedManifest;
use cocoon_protocol::binding::Tee as Kind;
use cocoon_protocol::bytes::{Blob, Hex64};
use cocoon_protocol::document::Evidence;
use cocoon_simulator::launch::Launched;
use cocoon_tests::alphabet;
use cocoon_tests::trial::{self, Model};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::machine::{Machine, policy, trusted};

/// Id of the model that recites the alphabet.
pub const MODEL: &str = "alphabet-f32";
/// Environment variable that names an engine already built.
const VARIABLE: &str = "COCOON_TEST_ENGINE";
/// Path of the engine in the cache, where the image build leaves it.
const BUILT: &str = "guest/target/x86_64-unknown-linux-gnu/engine/cocoon-engine";
/// Time limit for the engine to load a model.
const DEADLINE: Duration = Duration::from_secs(120);

static TODAY: LazyLock<u64> = LazyLock::new(cocoon_client::now);
static CURRENT: LazyLock<TrustedManifest> = LazyLock::new(|| trusted(*TODAY));

/// Parameters of an engine.
#[derive(Clone)]
pub struct Setup {
    /// Path of the engine's executable.
    pub engine: PathBuf,
    /// Folder that contains the model's only file.
    pub folder: PathBuf,
    /// Id of the model.
    pub model: String,
    /// Number of answers that run concurrently.
    pub slots: u16,
}

/// An agent that serves until its runtime ends; its engine ends with it.
pub struct Appliance {
    /// Address of the agent, as clients name it.
    pub address: Address,
    /// Counters of the agent.
    pub counters: Arc<Counters>,
    _drain: watch::Sender<bool>,
    _model: Option<TempDir>,
}

impl Appliance {
    /// Starts agent and engine with the model that recites the alphabet.
    pub async fn alphabet() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join("alphabet-f32.gguf"), alphabet::gguf())?;
        let setup = Setup {
            engine: engine().await?,
            folder: folder.path().to_owned(),
            model: MODEL.to_owned(),
            slots: 8,
        };
        let appliance = Self::start(setup).await?;
        Ok(Self {
            _model: Some(folder),
            ..appliance
        })
    }

    /// Starts agent and engine, and waits until the engine has loaded the model.
    pub async fn start(setup: Setup) -> anyhow::Result<Self> {
        let (model, slots) = (setup.model.clone(), setup.slots);
        Self::with(Native(setup), &model, slots).await
    }

    /// Starts the agent with an engine from `launcher`.
    pub async fn with(launcher: impl Launcher, model: &str, slots: u16) -> anyhow::Result<Self> {
        let keys = Keys::generate()?;
        let kind = Kind::SevSnp;
        let mut vm = Machine::good(kind);
        vm.claims.leaf_spki_sha256 = keys.leaf_spki_sha256();
        vm.claims.manifest_id = CURRENT.id();
        vm.claims.meter_key = keys.meter_public();
        let collateral = vm.vm.collateral(*TODAY)?;
        let identity = Identity {
            claims: vm.claims.clone(),
            config: Blob(vm.config.clone()),
        };
        let tee: Arc<dyn Tee> = Arc::new(Simulated { kind, vm: vm.vm });
        let boot = attester::boot(&*tee, &identity)?;
        let listener =
            AttestedListener::bind((Ipv4Addr::LOCALHOST, 0).into(), &keys, &boot).await?;
        let address = format!("https://{}", listener.local_address()?).parse()?;
        // The sender can be dropped; the receiver keeps the last value.
        let (_, stapled) = watch::channel(Some(collateral));
        let receipts = Receipts::new(&keys, &identity.claims);
        let counters = Arc::new(Counters::default());
        let service = Service {
            attester: Attester::start(tee, identity, stapled),
            engine: supervisor::start(launcher, model.to_owned(), slots),
            receipts,
            counters: Arc::clone(&counters),
            limits: Limits::default(),
        };
        let mut state = service.engine.state();
        let ready = state.wait_for(|state| state.ready.is_some());
        timeout(DEADLINE, ready)
            .await
            .context("the engine does not load the model")??;
        let (drain, draining) = watch::channel(false);
        tokio::spawn(api::serve(listener, service, draining));
        Ok(Self {
            address,
            counters,
            _drain: drain,
            _model: None,
        })
    }

    /// Returns a verifier that trusts this appliance.
    pub fn verifier(&self) -> Verifier {
        Verifier::new(CURRENT.clone(), policy())
    }
}

/// Starts a local endpoint for an appliance, which ends with the runtime, and returns its base URL.
pub async fn endpoint(appliance: &Appliance, token: &str) -> anyhow::Result<String> {
    let options = EndpointOptions {
        listen: (Ipv4Addr::LOCALHOST, 0).into(),
        token: Token::new(token)?,
    };
    let upstreams = Upstreams::new(appliance.verifier(), vec![appliance.address.clone()]);
    let endpoint = Endpoint::bind(upstreams, options).await?;
    let url = endpoint.base_url();
    tokio::spawn(endpoint.serve(std::future::pending()));
    Ok(url)
}

/// Returns the time for which the manifest is made, in Unix time.
pub fn today() -> u64 {
    *TODAY
}

/// Returns the path of the engine that was built from these sources.
pub async fn engine() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os(VARIABLE) {
        return Ok(path.into());
    }
    trial::image(Model::Alphabet).await?;
    let path = cocoon_tests::image::cache()?.join(BUILT);
    anyhow::ensure!(
        path.is_file(),
        "no engine lies in the cache, because the image was not built here: set {VARIABLE}"
    );
    Ok(path)
}

struct Simulated {
    kind: Kind,
    vm: Launched<'static>,
}

impl Tee for Simulated {
    fn kind(&self) -> Kind {
        self.kind
    }

    fn report(&self, data: &Hex64) -> Result<Evidence, TeeError> {
        Ok(self.vm.evidence(data).unwrap())
    }
}

/// Starts engines without a sandbox.
struct Native(Setup);

impl Launcher for Native {
    fn launch(&mut self) -> io::Result<Engine> {
        let (stream, theirs) = UnixStream::pair()?;
        let process = start(&self.0, theirs)?;
        Ok(Engine {
            stream,
            process: Box::new(Running(process)),
        })
    }
}

/// Starts the engine. It expects its socket as descriptor 3, so a shell moves it there.
pub fn start(setup: &Setup, socket: UnixStream) -> io::Result<Child> {
    Command::new("/bin/sh")
        .args(["-c", "exec \"$0\" \"$@\" 3<&0 0</dev/null"])
        .arg(&setup.engine)
        .arg("--model-dir")
        .arg(&setup.folder)
        .args(["--model-id", &setup.model, "--threads", "2"])
        .env_clear()
        .env("HOME", "/")
        .env("RAYON_NUM_THREADS", "2")
        .stdin(Stdio::from(OwnedFd::from(socket)))
        .stdout(Stdio::null())
        .spawn()
}

/// A running engine, which is killed on drop.
pub struct Running(pub Child);

impl Process for Running {
    fn end(&mut self) {
        // The process may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}
