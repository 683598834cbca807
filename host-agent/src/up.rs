//! The way from an image folder to a serving VM.
//!
//! Everything that can be refused cheaply is refused first: the image, the name, the public port, the simulator, QEMU.
//! Then QEMU starts, and one task owns it until its end.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cocoon_inputs::report::{Reporter, Silent};
use cocoon_protocol::binding::Tee;
use cocoon_protocol::config::OperatorConfig;
use cocoon_protocol::control::GUEST_PORT;
use cocoon_qemu::accel::Wanted;
use cocoon_qemu::qmp::QmpError;
use cocoon_qemu::spec::Confidential;
use cocoon_qemu::{Qmp, Vm};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::channel::{Patience, Settings};
use crate::console::Console;
use crate::error::UpError;
use crate::image::Image;
use crate::local::Status;
use crate::log::{self, Log, Source};
use crate::progress::{Listener, Progress};
use crate::qemu::{self, Shape};
use crate::relay::{self, Limits};
use crate::running::{Parts, RunningVm, STOP, start};
use crate::shapes::{self, Measured};
use crate::simulator::{Connection, Launch, Simulator};
use crate::state::{VmFolder, fail};
use crate::tee;
use crate::text::plain;
use crate::timings::Timings;

/// How much of the console is kept, in bytes.
pub const SERIAL_LIMIT: u64 = 4 << 20;
/// How long QEMU may take to open its control socket.
const GREETING: Duration = Duration::from_secs(30);

/// What to bring up.
#[derive(Clone)]
pub struct UpOptions {
    /// Folder of the image.
    pub image: PathBuf,
    /// Name of the VM.
    pub name: String,
    /// Public address; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// Real TEE to start the VM in.
    pub tee: Option<Tee>,
    /// TEE to imitate where the guest finds none.
    pub simulate: Option<Tee>,
    /// Virtual CPUs.
    pub vcpus: u16,
    /// Guest memory in MiB.
    pub memory_mib: u32,
    /// The operator's configuration.
    pub config: OperatorConfig,
    /// KVM or emulation.
    pub accel: Wanted,
    /// QEMU to use in place of one that is found.
    pub qemu: Option<PathBuf>,
    /// Simulator to use in place of the one beside this program.
    pub simulator: Option<PathBuf>,
    /// Folder of the development roots; `None` is `development-roots` in the state folder.
    pub roots: Option<PathBuf>,
    /// CPU model of SNP guests, real or simulated: it is part of the launch digest.
    pub cpu_model: String,
    /// Manifest to publish in place of the image's.
    pub manifest: Option<PathBuf>,
    /// Where state is kept.
    pub state: PathBuf,
    /// Limits of the public listener.
    pub limits: Limits,
    /// How long the guest may be silent.
    pub patience: Patience,
    /// Told of downloads.
    pub reporter: Arc<dyn Reporter>,
}

impl UpOptions {
    /// The usual: one VM named `default` on 127.0.0.1:8443 with 1 GiB.
    #[must_use]
    pub fn new(image: PathBuf, state: PathBuf) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            image,
            name: "default".into(),
            listen: (Ipv4Addr::LOCALHOST, 8443).into(),
            tee: None,
            simulate: None,
            vcpus: shapes::usual_vcpus(processors),
            memory_mib: 1024,
            config: OperatorConfig::default(),
            accel: Wanted::Automatic,
            qemu: None,
            simulator: None,
            roots: None,
            cpu_model: "EPYC-v4".into(),
            manifest: None,
            state,
            limits: Limits::default(),
            patience: Patience::default(),
            reporter: Arc::new(Silent),
        }
    }
}

/// This machine, as a place for VMs.
#[derive(Debug, Clone, Copy)]
pub struct Host;

impl Host {
    /// Brings a VM up and returns when clients can connect. Dropping the future ends everything that it started.
    ///
    /// # Errors
    /// [`UpError`] says what stands in the way and what to do.
    pub async fn up(
        options: UpOptions,
        progress: impl Fn(Progress) + Send + Sync + 'static,
    ) -> Result<RunningVm, UpError> {
        options.config.validate()?;
        let mut image = Image::open(&options.image, options.manifest.as_deref())?;
        let confidential = tee::of_this_machine(&options).await?;
        if options.tee == Some(Tee::SevSnp) {
            image.use_snp_firmware()?;
        }
        let folder = Arc::new(VmFolder::take(&options.state, &options.name)?);
        let log = Arc::new(Log::new(folder.create(log::FILE)?, SERIAL_LIMIT));
        let progress = logged(Arc::clone(&log), progress);
        let note = |text: &str| progress(Progress::Note(text.to_owned()));
        folder.write("manifest.json", &image.manifest)?;
        if options.tee.is_some() {
            note(tee::COLLATERAL);
        }
        if let Some(warning) = unlisted(&options, &image) {
            note(&warning);
        }
        let listener = relay::listen(options.listen).await?;
        let endpoint = listener.local_addr().unwrap_or(options.listen);
        let simulator = simulator(&options, &folder, &note).await?;
        let obtained = qemu::find(options.qemu.as_deref(), Arc::clone(&options.reporter)).await?;
        note(&obtained.reason);
        let accel = match (&confidential, options.accel) {
            // Nothing else starts it, and a trial tells nothing about TEEs.
            (Confidential::Tdx(_) | Confidential::Snp(_), Wanted::Automatic) => Wanted::Kvm,
            (_, accel) => accel,
        };
        let choice = qemu::choose(accel, &obtained.qemu, &image, note).await?;
        note(&choice.reason);

        let snp_firmware = image.snp_firmware.clone();
        let manifest_id = image.manifest_id;
        let shape = Shape {
            name: options.name.clone(),
            vcpus: options.vcpus,
            memory_mib: options.memory_mib,
            accel: choice.accel,
            pid_file: folder.file("qemu.pid"),
        };
        let mut machine = qemu::machine(&shape, image)?;
        machine.spec.confidential = confidential;
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
        let guest_port = match qmp.forwarded_port(GUEST_PORT).await {
            Ok(port) => port,
            Err(source) => return Err(refused(&vm, source).await),
        };

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
        let status = Status {
            name: options.name.clone(),
            doing: "starting".into(),
            endpoint: endpoint.to_string(),
            simulated: options.simulate.map(|tee| tee.to_string()),
            qemu_pid: Some(qemu_pid),
            manifest_id: manifest_id.to_string(),
        };
        let settings = Settings {
            config: canonical,
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
            listener,
            guest: (Ipv4Addr::LOCALHOST, guest_port).into(),
            limits: options.limits,
            folder: Arc::clone(&folder),
        };
        start(parts, status, endpoint, progress, timings, qemu_pid).await
    }
}

/// A machine that nobody can verify, and whose operator might not know it.
fn unlisted(options: &UpOptions, image: &Image) -> Option<String> {
    let machine = Measured {
        tee: options.tee.or(options.simulate)?,
        simulated: options.tee.is_none(),
        cpu_model: &options.cpu_model,
        vcpus: options.vcpus,
        memory_mib: options.memory_mib,
    };
    let (tdx, snp) = (&image.content.tdx.platforms, &image.content.snp.launch);
    shapes::unlisted(tdx, snp, machine)
}

/// The news, and what the log keeps of them.
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

/// A QEMU that ends before its control socket answers has said why on its standard error.
async fn refused(vm: &Vm, source: QmpError) -> UpError {
    let _ = timeout(STOP, vm.wait()).await;
    UpError::Refused {
        diagnostics: vm.diagnostics(),
        source,
    }
}
