//! The real agent in this process, over a simulated TEE, with the real engine as its child.

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

/// The model's name.
pub const MODEL: &str = "alphabet-f32";
/// Names an engine that is built already.
const VARIABLE: &str = "COCOON_TEST_ENGINE";
/// Where the image's build leaves the engine, in the cache.
const BUILT: &str = "guest/target/x86_64-unknown-linux-gnu/engine/cocoon-engine";
/// How long the engine may take to load a model.
const DEADLINE: Duration = Duration::from_secs(120);

static TODAY: LazyLock<u64> = LazyLock::new(cocoon_client::now);
static CURRENT: LazyLock<TrustedManifest> = LazyLock::new(|| trusted(*TODAY));

/// What an engine is started with.
#[derive(Clone)]
pub struct Setup {
    /// Its executable.
    pub engine: PathBuf,
    /// The folder with the model's one file.
    pub folder: PathBuf,
    /// The model's name.
    pub model: String,
    /// Answers that run at once.
    pub slots: u16,
}

/// An agent that serves; it ends with its runtime, and its engine with it.
pub struct Appliance {
    /// As clients name it.
    pub address: Address,
    /// What it counts.
    pub counters: Arc<Counters>,
    _drain: watch::Sender<bool>,
    _model: Option<TempDir>,
}

impl Appliance {
    /// Starts both with the model that recites the alphabet.
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

    /// Starts both, and waits until the engine has loaded the model.
    pub async fn start(setup: Setup) -> anyhow::Result<Self> {
        let (model, slots) = (setup.model.clone(), setup.slots);
        Self::with(Native(setup), &model, slots).await
    }

    /// Starts the agent with the engine that `launcher` starts.
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
        // The sender may go: the last value stays.
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

    /// A client that believes in it.
    pub fn verifier(&self) -> Verifier {
        Verifier::new(CURRENT.clone(), policy())
    }
}

/// A local endpoint in front of an appliance; it ends with the runtime. Gives its base URL.
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

/// The day that the manifest is made for.
pub fn today() -> u64 {
    *TODAY
}

/// The engine of these sources.
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

/// Starts engines outside of any jail.
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

/// The engine looks for its socket at descriptor 3, where a shell puts it.
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

/// An engine's process; it ends with the value.
pub struct Running(pub Child);

impl Process for Running {
    fn end(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}
