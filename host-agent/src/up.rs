//! Brings up a VM, from an image folder to a serving guest.
//!
//! Whatever can be checked cheaply is checked first: the image, the name, the public port, the simulator and QEMU. Then
//! QEMU starts, and one task owns it until its end.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cocoon_inputs::report::{Reporter, Silent};
use cocoon_protocol::binding::Tee;
use cocoon_protocol::config::OperatorConfig;
use cocoon_qemu::PciAddress;
use cocoon_qemu::accel::Wanted;
use cocoon_qemu::qmp::QmpError;
use cocoon_qemu::spec::{Confidential, Placement};
use cocoon_qemu::{Qmp, Vm};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::channel::{Patience, Settings};
use crate::collateral::keeper::clock;
use crate::config::Network;
use crate::console::Console;
use crate::devices::{self, Given};
use crate::doctor::real::Real;
use crate::doctor::source::World;
use crate::error::UpError;
use crate::expiry;
use crate::image::Image;
use crate::local::Status;
use crate::log::{self, Log, Source};
use crate::numa;
use crate::progress::{Listener, Progress};
use crate::qemu::{self, Shape};
use crate::relay::{self, Door, Limits};
use crate::running::{Parts, RunningVm, STOP, start};
use crate::shapes::{self, Measured};
use crate::simulator::{Connection, Launch, Simulator};
use crate::state::{VmFolder, fail};
use crate::tee;
use crate::text::plain;
use crate::timings::Timings;

/// Number of bytes of the console's output that are kept.
pub const SERIAL_LIMIT: u64 = 4 << 20;
/// Default CPU model of SEV-SNP guests.
pub const CPU_MODEL: &str = "EPYC-v4";
/// How long QEMU may take to greet on its QMP socket.
const GREETING: Duration = Duration::from_secs(30);

/// Options of a VM.
#[derive(Clone)]
pub struct UpOptions {
    /// Folder of the image.
    pub image: PathBuf,
    /// Name of the VM.
    pub name: String,
    /// Public address; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// The public listener if it exists already; `listen` is then not bound.
    pub door: Option<Door>,
    /// Real TEE in which the VM starts.
    pub tee: Option<Tee>,
    /// TEE to simulate if the guest finds none.
    pub simulate: Option<Tee>,
    /// GPU of the host that is passed through to the VM.
    pub gpu: Option<PciAddress>,
    /// How the guest is reached.
    pub network: Network,
    /// Placement of the VM's memory and processors on the host.
    pub placement: Placement,
    /// Virtual CPUs.
    pub vcpus: u16,
    /// Guest memory in MiB.
    pub memory_mib: u32,
    /// The operator's configuration.
    pub config: OperatorConfig,
    /// KVM or emulation.
    pub accel: Wanted,
    /// QEMU to use instead of one that is found.
    pub qemu: Option<PathBuf>,
    /// Simulator to use instead of the one beside this program.
    pub simulator: Option<PathBuf>,
    /// Folder of the development roots; `None` selects `development-roots` in the state folder.
    pub roots: Option<PathBuf>,
    /// CPU model of SEV-SNP guests, real or simulated. It is part of the launch digest.
    pub cpu_model: String,
    /// Manifest to publish instead of the image's own.
    pub manifest: Option<PathBuf>,
    /// State folder.
    pub state: PathBuf,
    /// Limits of the public listener.
    pub limits: Limits,
    /// Limits on the guest's silence.
    pub patience: Patience,
    /// Source of facts about this machine, read before a VM is started in a real TEE.
    pub world: Arc<dyn World + Send + Sync>,
    /// Receives the progress of downloads.
    pub reporter: Arc<dyn Reporter>,
}

impl UpOptions {
    /// Returns the default options: one VM named `default` on 127.0.0.1:8443 with 1 GiB of memory.
    #[must_use]
    pub fn new(image: PathBuf, state: PathBuf) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            image,
            name: "default".into(),
            listen: (Ipv4Addr::LOCALHOST, 8443).into(),
            door: None,
            tee: None,
            simulate: None,
            gpu: None,
            network: Network::default(),
            placement: Placement::default(),
            vcpus: shapes::usual_vcpus(processors),
            memory_mib: 1024,
            config: OperatorConfig::default(),
            accel: Wanted::Automatic,
            qemu: None,
            simulator: None,
            roots: None,
            cpu_model: CPU_MODEL.into(),
            manifest: None,
            state,
            limits: Limits::default(),
            patience: Patience::default(),
            world: Arc::new(Real),
            reporter: Arc::new(Silent),
        }
    }
}

/// This machine as a host of VMs.
#[derive(Debug, Clone, Copy)]
pub struct Host;

impl Host {
    /// Brings up a VM and returns when clients can connect. Dropping the future ends everything that it started.
    ///
    /// # Errors
    /// [`UpError`] with the reason and what to do about it.
    pub async fn up(
        options: UpOptions,
        progress: impl Fn(Progress) + Send + Sync + 'static,
    ) -> Result<RunningVm, UpError> {
        options.config.validate()?;
        let mut image = Image::open(&options.image, options.manifest.as_deref())?;
        let confidential = tee::of_this_machine(&options).await?;
        let waits = |text: &str| progress(Progress::Note(text.to_owned()));
        let given = Given::find(&options, waits).await?;
        if options.tee == Some(Tee::SevSnp) {
            image.use_snp_firmware()?;
        }
        let folder = Arc::new(VmFolder::take(&options.state, &options.name)?);
        let log = Arc::new(Log::new(folder.create(log::FILE)?, SERIAL_LIMIT));
        let progress = logged(Arc::clone(&log), progress);
        let note = |text: &str| progress(Progress::Note(text.to_owned()));
        folder.write("manifest.json", &image.manifest)?;
        if options.tee.is_some() {
            note(&tee::collateral());
        }
        let listed = unlisted(&options, &image, given.mmio64_mib());
        let counts = expiry::warning(image.content.not_after, clock());
        for warning in [listed, counts].into_iter().flatten() {
            note(&warning);
        }
        let door = match options.door.clone() {
            Some(door) => door,
            None => {
                let door = Door::shut();
                door.bind(options.listen).await?;
                door
            }
        };
        let endpoint = door.address().unwrap_or(options.listen);
        let accel = match (&confidential, options.accel) {
            // Confidential VMs need KVM, and the trial of KVM tells nothing about TEEs.
            (Confidential::Tdx(_) | Confidential::Snp(_), Wanted::Automatic) => Wanted::Kvm,
            (_, accel) => accel,
        };
        let machine = async {
            let found = qemu::find(options.qemu.as_deref(), Arc::clone(&options.reporter)).await?;
            note(&found.reason);
            let choice = qemu::choose(accel, &found.qemu, &image, note).await?;
            note(&choice.reason);
            Ok::<_, UpError>((found, choice))
        };
        // Both run concurrently, since each waits for a process that takes time to answer.
        let (simulator, (obtained, choice)) =
            tokio::try_join!(simulator(&options, &folder, &note), machine)?;

        let snp_firmware = image.snp_firmware.clone();
        let (manifest_id, not_after) = (image.manifest_id, image.content.not_after);
        let model = image.model.metadata().map_or(0, |model| model.len());
        let limits = Limits {
            strangers: relay::strangers(options.memory_mib, model),
            ..options.limits
        };
        let shape = Shape {
            name: options.name.clone(),
            vcpus: options.vcpus,
            memory_mib: options.memory_mib,
            accel: choice.accel,
            pid_file: folder.file("qemu.pid"),
        };
        let mut machine = qemu::machine(&shape, image)?;
        machine.spec.confidential = confidential;
        if let Some(text) = given.refresh().await? {
            note(&text);
        }
        given.attach(&mut machine.spec);
        let timings = Arc::new(Mutex::new(Timings::start()));
        let vm = Vm::spawn(&obtained.qemu, &machine.spec, machine.descriptors)?;
        let qemu_pid = vm.pid();
        progress(Progress::Started(qemu_pid));
        let serial = folder.create("serial.log")?;
        let async_stream =
            |stream| UnixStream::from_std(stream).map_err(fail("use", &folder.file("qemu")));
        let console = Console::follow(async_stream(machine.console)?, serial, SERIAL_LIMIT, log);
        let qmp = match Qmp::over(machine.qmp, GREETING).await {
            Ok(qmp) => qmp,
            Err(source) => return Err(refused(&vm, source).await),
        };
        let guest = match devices::guest(&options.network, &qmp).await {
            Ok(guest) => guest,
            Err(source) => return Err(refused(&vm, source).await),
        };
        let nodes = &options.placement.nodes;
        if !nodes.is_empty() {
            let threads = numa::pin(&qmp, nodes).await?;
            note(&format!(
                "{threads} virtual CPUs run on the NUMA nodes {nodes:?}"
            ));
        }

        let canonical = options.config.canonical();
        let simulator = simulator.map(|(process, connection)| {
            let tee = options.simulate.unwrap_or(Tee::Tdx);
            let cpu_model = options.cpu_model.clone();
            let launch = Launch {
                pid: qemu_pid,
                tee,
                snp_firmware,
                cpu_model,
                config: canonical.clone(),
            };
            (process, connection, launch)
        });
        let reclaim = tee::reclaim(options.tee, options.memory_mib);
        let status = Status {
            name: options.name.clone(),
            doing: "starting".into(),
            endpoint: endpoint.to_string(),
            simulated: options.simulate.map(|tee| tee.to_string()),
            qemu_pid: Some(qemu_pid),
            manifest_id: manifest_id.to_string(),
            not_after: Some(not_after),
            reclaim_seconds: reclaim.as_secs(),
        };
        let settings = Settings {
            config: canonical,
            address: options.network.guest(),
            manifest_id,
            simulate: options.simulate,
            patience: options.patience,
        };
        let parts = Parts {
            vm,
            qmp: qmp.clone(),
            control: async_stream(machine.control)?,
            console,
            simulator,
            settings,
            door,
            guest,
            limits,
            folder: Arc::clone(&folder),
            reclaim,
            progress,
        };
        start(parts, status, endpoint, timings, qemu_pid).await
    }
}

/// Returns a warning if the manifest does not list this machine, so that no client could verify it.
fn unlisted(options: &UpOptions, image: &Image, mmio64_mib: Option<u32>) -> Option<String> {
    let machine = Measured {
        tee: options.tee.or(options.simulate)?,
        simulated: options.tee.is_none(),
        cpu_model: &options.cpu_model,
        vcpus: options.vcpus,
        memory_mib: options.memory_mib,
        mmio64_mib,
    };
    let (tdx, snp) = (&image.content.tdx.platforms, &image.content.snp.launch);
    shapes::unlisted(tdx, snp, machine)
}

/// Returns a listener that also writes the progress to the log.
fn logged(log: Arc<Log>, progress: impl Fn(Progress) + Send + Sync + 'static) -> Listener {
    Arc::new(move |news| {
        if let Some(line) = news.line() {
            log.add(Source::Host, &plain(&line, 1000));
        }
        progress(news);
    })
}

async fn simulator(
    options: &UpOptions,
    folder: &VmFolder,
    note: &impl Fn(&str),
) -> Result<Option<(Simulator, Connection)>, UpError> {
    let Some(tee) = options.simulate else {
        return Ok(None);
    };
    let program = Simulator::find(options.simulator.as_deref())?;
    note(&format!(
        "evidence of {tee} is simulated: it proves nothing to anybody"
    ));
    let roots = options
        .roots
        .clone()
        .unwrap_or_else(|| options.state.join("development-roots"));
    let process = Simulator::start(&program, &folder.file("sim"), &roots, note).await?;
    let connection = process.connect().await?;
    Ok(Some((process, connection)))
}

/// Returns why QEMU ended before its QMP socket answered, which it wrote to standard error.
async fn refused(vm: &Vm, source: QmpError) -> UpError {
    let _ = timeout(STOP, vm.wait()).await;
    UpError::Refused {
        diagnostics: vm.diagnostics(),
        source,
    }
}
