//! The real agent in this process, over a simulated TEE, with the real engine as its child.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use anyhow::Context as _;
use cocoon_client::{Address, Verifier};
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
/// Answers that run at once.
const SLOTS: u16 = 8;
/// How long the engine may take to load a model of a few megabytes.
const DEADLINE: Duration = Duration::from_secs(120);

static TODAY: LazyLock<u64> = LazyLock::new(cocoon_client::now);
static CURRENT: LazyLock<TrustedManifest> = LazyLock::new(|| trusted(*TODAY));

/// An agent that serves; it ends with its runtime, and its engine with it.
pub struct Appliance {
    /// As clients name it.
    pub address: Address,
    _drain: watch::Sender<bool>,
}

impl Appliance {
    /// Starts both, and waits until the engine has loaded the model.
    pub async fn start() -> anyhow::Result<Self> {
        let engine = engine().await?;
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join("alphabet-f32.gguf"), alphabet::gguf())?;

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
        let launcher = Native { engine, folder };
        let receipts = Receipts::new(&keys, &identity.claims);
        let service = Service {
            attester: Attester::start(tee, identity, stapled),
            engine: supervisor::start(launcher, MODEL.into(), SLOTS),
            receipts,
            counters: Arc::new(Counters::default()),
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
            _drain: drain,
        })
    }

    /// A client that believes in it.
    pub fn verifier(&self) -> Verifier {
        Verifier::new(CURRENT.clone(), policy())
    }
}

/// The engine of these sources.
async fn engine() -> anyhow::Result<PathBuf> {
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
struct Native {
    engine: PathBuf,
    folder: TempDir,
}

impl Launcher for Native {
    fn launch(&mut self) -> io::Result<Engine> {
        let (stream, theirs) = UnixStream::pair()?;
        let process = start(&self.engine, self.folder.path(), theirs)?;
        Ok(Engine {
            stream,
            process: Box::new(Running(process)),
        })
    }
}

/// The engine looks for its socket at descriptor 3, where a shell puts it.
fn start(engine: &Path, model: &Path, socket: UnixStream) -> io::Result<Child> {
    Command::new("/bin/sh")
        .args(["-c", "exec \"$0\" \"$@\" 3<&0 0</dev/null"])
        .arg(engine)
        .arg("--model-dir")
        .arg(model)
        .args(["--model-id", MODEL, "--threads", "2"])
        .env_clear()
        .env("HOME", "/")
        .env("RAYON_NUM_THREADS", "2")
        .stdin(Stdio::from(OwnedFd::from(socket)))
        .stdout(Stdio::null())
        .spawn()
}

struct Running(Child);

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
