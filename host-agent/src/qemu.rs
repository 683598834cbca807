//! The QEMU to use, and the machine to start with it.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cocoon_inputs::report::Reporter;
use cocoon_inputs::{Cache, CacheError, Fetcher, Lock, LockError, Mirrors, Options, Policy};
use cocoon_protocol::control::{GUEST_PORT, PORT_NAME};
use cocoon_qemu::accel::{self, AccelError, Choice, Probe, Wanted};
use cocoon_qemu::find::{MINIMUM, Qemu};
use cocoon_qemu::obtain::{ObtainError, Obtained, obtain};
use cocoon_qemu::socket::{self, SocketError};
use cocoon_qemu::spec::{Blob, Channel, Confidential, Console, Disk, Network, Placement};
use cocoon_qemu::{Accel, VmSpec};

use crate::image::Image;

/// The locked packages of the private QEMU, fixed when this program was built.
const LOCK: &str = include_str!("../../image/inputs.lock");
/// Serial of the model volume, by which the guest finds it.
const MODEL_SERIAL: &str = "cocoon-model";
/// How long a kernel may take to show that KVM runs it.
const PROBE: Duration = Duration::from_secs(20);

/// Why there is no QEMU to start.
#[derive(Debug, thiserror::Error)]
pub enum QemuError {
    /// The lock file in this program.
    #[error("the list of inputs in this program is damaged: build it again")]
    Lock(#[from] LockError),
    /// The cache.
    #[error("cannot use the cache folder")]
    Cache(#[from] CacheError),
    /// None that can be used, and none to be had.
    #[error("there is no QEMU to use")]
    Obtain(#[from] ObtainError),
    /// KVM could not be judged.
    #[error("cannot choose between KVM and emulation")]
    Accel(#[from] AccelError),
}

/// Finds or unpacks QEMU. Where this machine has none that is new enough, the packages of a private copy are fetched;
/// the host agent is not trusted by clients, so the newest signed version will do where the locked one is gone.
///
/// # Errors
/// [`QemuError`].
pub async fn find(
    named: Option<&Path>,
    reporter: Arc<dyn Reporter>,
) -> Result<Obtained, QemuError> {
    let cache = Cache::open(Cache::default_root()?)?;
    let options = Options {
        policy: Policy::AllowNewest,
        ..Options::default()
    };
    let fetcher = Fetcher::new(
        Lock::parse(LOCK)?,
        cache,
        Mirrors::discover(),
        options,
        Arc::clone(&reporter),
    );
    Ok(obtain(named, MINIMUM, Arc::new(fetcher), reporter).await?)
}

/// KVM where it runs this image's kernel.
///
/// # Errors
/// [`QemuError::Accel`] when the image cannot be read.
pub async fn choose(
    wanted: Wanted,
    qemu: &Qemu,
    image: &Image,
    notice: impl Fn(&str),
) -> Result<Choice, QemuError> {
    let (kernel, firmware) = &image.probe;
    let cache = Cache::default_root()?;
    let probe = Probe {
        qemu,
        kernel,
        firmware: Some(firmware),
        cache: &cache,
        deadline: PROBE,
    };
    Ok(accel::choose(wanted, probe, |text| notice(text)).await?)
}

/// A machine ready to start, and our ends of its streams.
#[derive(Debug)]
pub struct Machine {
    /// What to start.
    pub spec: VmSpec,
    /// What it names.
    pub descriptors: Vec<OwnedFd>,
    /// QEMU's own control.
    pub qmp: std::os::unix::net::UnixStream,
    /// The control channel to the guest.
    pub control: std::os::unix::net::UnixStream,
    /// The guest's console.
    pub console: std::os::unix::net::UnixStream,
}

/// Size and name of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// Its name.
    pub name: String,
    /// Virtual CPUs.
    pub vcpus: u16,
    /// Guest memory in MiB.
    pub memory_mib: u32,
    /// How guest code is executed.
    pub accel: Accel,
    /// Where QEMU writes its process id.
    pub pid_file: PathBuf,
}

/// The machine that boots `image`: plain hardware with the TDX firmware, its evidence to be simulated.
///
/// # Errors
/// [`SocketError`] when the system has no descriptor left.
pub fn machine(shape: &Shape, image: Image) -> Result<Machine, SocketError> {
    let ((qmp, our_qmp), (control, our_control), (console, our_console)) =
        (socket::pair()?, socket::pair()?, socket::pair()?);
    let spec = VmSpec {
        name: shape.name.clone(),
        accel: shape.accel,
        confidential: Confidential::None,
        vcpus: shape.vcpus,
        memory_mib: shape.memory_mib,
        placement: Placement::default(),
        firmware: Some(Blob::Descriptor(image.firmware.as_raw_fd())),
        kernel: Blob::Descriptor(image.kernel.as_raw_fd()),
        initrd: Some(Blob::Descriptor(image.initrd.as_raw_fd())),
        cmdline: image.cmdline,
        disks: vec![Disk {
            source: Blob::Descriptor(image.model.as_raw_fd()),
            serial: MODEL_SERIAL.into(),
        }],
        control: Some(Channel {
            port: PORT_NAME.into(),
            endpoint: control.endpoint,
        }),
        console: Console::Stream(console.endpoint),
        network: Some(Network::User {
            host_port: 0,
            guest_port: GUEST_PORT,
        }),
        gpu: None,
        qmp: Some(qmp.endpoint),
        pid_file: Some(shape.pid_file.clone()),
    };
    let files = [image.firmware, image.kernel, image.initrd, image.model].map(OwnedFd::from);
    let descriptors = files
        .into_iter()
        .chain([qmp.fd, control.fd, console.fd])
        .collect();
    Ok(Machine {
        spec,
        descriptors,
        qmp: our_qmp,
        control: our_control,
        console: our_console,
    })
}
