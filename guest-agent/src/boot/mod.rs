//! Boot, as a sequence of named phases. Each phase returns what the next one needs, so that no phase can be skipped or
//! reordered. [`serve`] takes [`AttestedListener`] and [`VerifiedWeights`], which only the verifying phases can create. Any
//! failure ends the machine with one line.

mod capacity;
mod configuration;
mod console;
mod driver;
mod gpus;
mod kernel;
mod mounts;
mod reaper;
pub mod serving;
mod worker;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use cocoon_protocol::binding::{Claims, Tee as Kind};
use cocoon_protocol::bytes::{Blob, Hex32};
use cocoon_protocol::control::{CONTROL_VERSION, GUEST_PORT, GuestMessage, Phase};

use crate::api::receipts::Receipts;
use crate::api::{Counters, Service};
use crate::attester::{self, AttestError, Attester, Identity};
use crate::control::{Control, ControlError, port};
use crate::engine::{Engine, supervisor};
use crate::gpu::wanted::Wanted;
use crate::keys::{self, KeyError, Keys};
use crate::memory;
use crate::model::{self, ModelError, ModelReference, VerifiedWeights};
use crate::runtime::{self, RuntimeError};
use crate::tee::simulated::Simulated;
use crate::tee::{self, Platform, Tee, TeeError};
use crate::tls::{AttestedListener, TlsError};
use configuration::Configuration;
use console::{Console, Ending};
use kernel::Modules;

/// How long the host may take to connect and to send its configuration.
const CONFIGURE_DEADLINE: Duration = Duration::from_secs(120);
const PORT_DEADLINE: Duration = Duration::from_secs(10);
/// Kernel command line, which is measured.
const CMDLINE: &str = "/proc/cmdline";

/// Why a boot failed: roughly one variant per phase.
#[derive(Debug, thiserror::Error)]
enum BootError {
    #[error(transparent)]
    Mounts(#[from] mounts::MountsError),
    #[error(transparent)]
    Kernel(#[from] kernel::KernelError),
    #[error(transparent)]
    Keys(#[from] KeyError),
    #[error(transparent)]
    Tee(#[from] TeeError),
    #[error(transparent)]
    Port(#[from] port::PortError),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    Configuration(#[from] configuration::ConfigurationError),
    #[error(transparent)]
    Driver(#[from] driver::DriverError),
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error(transparent)]
    Attest(#[from] AttestError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Gpus(#[from] gpus::GpusError),
    #[error(transparent)]
    Serving(#[from] serving::ServingError),
    #[error(transparent)]
    Worker(#[from] worker::WorkerError),
    #[error("cannot read {CMDLINE}")]
    Cmdline(#[source] std::io::Error),
    #[error("cannot start the agent's threads")]
    Threads(#[source] std::io::Error),
}

/// Boots, serves, and powers off. Must run as PID 1 with one thread.
pub fn run() -> ! {
    let console = Console::start();
    let outcome = boot(&console);
    console.end(match outcome {
        Ok(()) => Ending::Drained,
        Err(error) => Ending::Failed(console::chain(&error)),
    })
}

fn boot(console: &Console) -> Result<(), BootError> {
    console.enter(Phase::Mounts);
    mounts::early()?;
    let cmdline = fs::read_to_string(CMDLINE).map_err(BootError::Cmdline)?;
    let wanted = Wanted::from_cmdline(&cmdline).map_err(gpus::GpusError::from)?;
    let real_gpus = wanted == Wanted::Nvidia;
    if !real_gpus {
        kernel::check(Modules::Signed)?;
    }

    console.enter(Phase::Modules);
    mounts::load_modules()?;
    let found = real_gpus.then(driver::start).transpose()?;
    mounts::lock_modules()?;
    kernel::check_locks()?;
    if real_gpus {
        kernel::lock_down()?;
        kernel::check(Modules::Any)?;
    }
    mounts::late()?;
    keys::require_rdrand()?;

    console.enter(Phase::Platform);
    let platform = tee::detect()?;
    let (reader, writer) = port::open(PORT_DEADLINE)?;
    let control = Control::start(reader, writer);
    console.attach(&control);
    let tee = match &platform {
        Platform::Hardware(tsm) => Some(tsm.kind()),
        Platform::Plain(_) => None,
    };
    control.send(GuestMessage::Hello {
        version: CONTROL_VERSION,
        tee,
    })?;
    // Reported only now, because the host could not receive it before.
    if found == Some(0) {
        return Err(gpus::GpusError::None.into());
    }

    console.enter(Phase::Configuration);
    let configure = control.configure(CONFIGURE_DEADLINE)?;
    let configuration = configuration::check(configure, &platform)?;
    configuration::bring_up_network(&configuration)?;

    console.enter(Phase::Model);
    let reference = ModelReference::from_cmdline(&cmdline).map_err(ModelError::Reference)?;
    let wanted = gpus::asked(wanted, &platform)?;
    // A host that does not read misses the progress; only its own operator suffers.
    let progress = |done, total| drop(control.send(GuestMessage::Progress { done, total }));
    let weights = model::load(reference, progress)?;
    let runtime = real_gpus.then(|| runtime::load(&cmdline, progress));
    let runtime = runtime.transpose()?;
    let runtime = runtime.as_ref();

    console.enter(Phase::Keys);
    let keys = Keys::generate()?;

    console.enter(Phase::Evidence);
    let mut identity = identity(&keys, &weights, &configuration, configuration.tee);
    let in_tee = matches!(platform, Platform::Hardware(_));
    // The GPUs take work only after verification. The engine and the listener start later.
    let gate = gpus::open(wanted, &platform, runtime, &control, &identity.claims)?;
    identity.claims.gpu_section_digest =
        gate.as_ref().map_or(Hex32::ZERO, |gate| gate.keys_digest());
    let tee = evidence_source(platform, &control, configuration.tee);
    let boot_evidence = attester::boot(&*tee, &identity)?;
    gpus::ask_for_collateral(
        &control,
        in_tee.then(|| boot_evidence.evidence()),
        gate.as_deref(),
    );

    console.enter(Phase::Engine);
    let threads = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(BootError::Threads)?;
    to_the_end(threads, async {
        let children = reaper::start().map_err(BootError::Threads)?;
        let launcher = worker::JailedEngine::new(&weights, runtime, children);
        let engine = start_engine(launcher, &weights, &configuration);
        worker::wait_until_ready(&engine, &control).await?;
        if let Some(gate) = &gate {
            let devices = engine.state().borrow().devices;
            gate.check_engine(devices).map_err(gpus::GpusError::from)?;
        }

        console.enter(Phase::Serving);
        let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, GUEST_PORT));
        let listener = AttestedListener::bind(address, &keys, &boot_evidence).await?;
        let receipts = Receipts::new(&keys, &identity.claims);
        let attester = Attester::with_gpus(tee, gate, identity, control.collateral());
        serve(
            listener, weights, engine, attester, receipts, &control, console,
        )
        .await
    })
}

/// Runs `future` and returns its output without waiting for its blocking tasks. A GPU driver may block for minutes, but the
/// reason must be reported and the machine must end at once.
fn to_the_end<T>(runtime: tokio::runtime::Runtime, future: impl Future<Output = T>) -> T {
    let outcome = runtime.block_on(future);
    runtime.shutdown_background();
    outcome
}

fn evidence_source(platform: Platform, control: &Control, kind: Kind) -> Arc<dyn Tee> {
    match platform {
        Platform::Hardware(tsm) => Arc::new(tsm),
        Platform::Plain(proof) => Arc::new(Simulated::new(proof, control.clone(), kind)),
    }
}

fn identity(
    keys: &Keys,
    weights: &VerifiedWeights,
    configuration: &Configuration,
    tee: Kind,
) -> Identity {
    let claims = Claims {
        tee,
        leaf_spki_sha256: keys.leaf_spki_sha256(),
        meter_key: keys.meter_public(),
        manifest_id: configuration.manifest_id,
        model_digest: weights.reference().verity.root,
        config_digest: configuration.digest,
        gpu_section_digest: Hex32::ZERO,
    };
    Identity {
        claims,
        config: Blob(configuration.canonical.clone()),
    }
}

fn start_engine(
    launcher: worker::JailedEngine,
    weights: &VerifiedWeights,
    configuration: &Configuration,
) -> Engine {
    let id = weights.reference().id.clone();
    supervisor::start(launcher, id, configuration.operator.max_concurrent_requests)
}

/// Serves until drained. Consumes both proofs, so that nothing else can serve with them.
async fn serve(
    listener: AttestedListener,
    weights: VerifiedWeights,
    engine: Engine,
    attester: Attester,
    receipts: Receipts,
    control: &Control,
    console: &Console,
) -> Result<(), BootError> {
    debug_assert!(!weights.files().is_empty());
    // Measured with the model loaded.
    let available = memory::available();
    let limits = capacity::limits(available);
    engine.limit_memory(capacity::for_answers(available, &limits));
    let service = Service {
        attester,
        engine,
        receipts,
        counters: Arc::new(Counters::default()),
        limits,
    };
    console.serving(GUEST_PORT);
    serving::run(listener, service, control, serving::METRICS).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn what_blocks_keeps_no_machine_from_its_end() {
        let runtime = tokio::runtime::Builder::new_multi_thread().build().unwrap();
        let (release, blocked) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel();
        let (begin, began) = mpsc::channel();
        let ending = std::thread::spawn(move || {
            let outcome = to_the_end(runtime, async move {
                let source = move || {
                    begin.send(()).unwrap();
                    let _ = blocked.recv();
                };
                drop(tokio::task::spawn_blocking(source));
                began.recv().unwrap();
                "lost"
            });
            tell.send(outcome).unwrap();
        });
        // The blocking task is still running.
        let outcome = told.recv_timeout(Duration::from_secs(60));
        assert_eq!(outcome, Ok("lost"));
        drop(release);
        ending.join().unwrap();
    }
}
