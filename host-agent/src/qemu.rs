//! Finds the QEMU to use and builds the machine to start with it.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cocoon_inputs::report::Reporter;
use cocoon_inputs::{Cache, CacheError, Fetcher, Lock, LockError, Mirrors, Options, Policy};
use cocoon_protocol::control::{GUEST_PORT, PORT_NAME};
use cocoon_qemu::accel::{self, AccelError, Choice, Probe, Wanted};
use cocoon_qemu::find::{MINIMUM, Qemu, Search};
use cocoon_qemu::obtain::{self, ObtainError, Obtained, obtain};
use cocoon_qemu::socket::{self, SocketError};
use cocoon_qemu::spec::{Blob, Channel, Confidential, Console, Disk, Network, Placement};
use cocoon_qemu::{Accel, VmSpec};

use crate::image::Image;

/// Lock file of the private QEMU's packages, as of when this program was built.
const LOCK: &str = include_str!("../../image/inputs.lock");
/// Serial number of the model volume's disk, by which the guest finds it.
const MODEL_SERIAL: &str = "cocoon-model";
/// Serial number of the runtime volume's disk, by which the guest finds it.
const RUNTIME_SERIAL: &str = "cocoon-runtime";
/// How long a kernel may take to show that it runs under KVM.
const PROBE: Duration = Duration::from_secs(20);

/// Why no QEMU can be started.
#[derive(Debug, thiserror::Error)]
pub enum QemuError {
    /// The lock file inside this program is damaged.
    #[error("the list of inputs in this program is damaged: build it again")]
    Lock(#[from] LockError),
    /// The cache folder cannot be used.
    #[error("cannot use the cache folder")]
    Cache(#[from] CacheError),
    /// No usable QEMU was found, and none could be obtained.
    #[error("there is no QEMU to use")]
    Obtain(#[from] ObtainError),
    /// The choice between KVM and emulation failed.
    #[error("cannot choose between KVM and emulation")]
    Accel(#[from] AccelError),
}

/// Finds a QEMU, or unpacks a private one. If the machine has none that is new enough, the packages of a private copy
/// are fetched. Clients do not trust the host agent, so the newest signed version is used where the locked one is gone.
///
/// # Errors
/// [`QemuError`] if the lock file or the cache is unusable, or no QEMU can be obtained.
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

/// Searches for the QEMU that [`find`] would return, without fetching anything.
///
/// # Errors
/// [`QemuError`] if the QEMU named by `named` cannot be used.
pub async fn here(named: Option<&Path>) -> Result<Search, QemuError> {
    let (lock, cache) = (Lock::parse(LOCK)?, Cache::default_root().ok());
    let found = obtain::here(named, MINIMUM, &lock, cache.as_deref()).await;
    Ok(found.map_err(ObtainError::from)?)
}

/// Chooses KVM if it can run this image's kernel, unless `wanted` decides otherwise.
///
/// # Errors
/// [`QemuError::Accel`] when the image cannot be read.
pub async fn choose(
    wanted: Wanted,
    qemu: &Qemu,
    image: &Image,
    notice: impl Fn(&str),
) -> Result<Choice, QemuError> {
    probed(wanted, qemu, image, false, notice).await
}

/// Chooses as [`choose`] does, but tries KVM again instead of using an earlier result.
///
/// # Errors
/// As for [`choose`].
pub async fn choose_anew(
    qemu: &Qemu,
    image: &Image,
    notice: impl Fn(&str),
) -> Result<Choice, QemuError> {
    probed(Wanted::Automatic, qemu, image, true, notice).await
}

async fn probed(
    wanted: Wanted,
    qemu: &Qemu,
    image: &Image,
    fresh: bool,
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
        fresh,
    };
    Ok(accel::choose(wanted, probe, |text| notice(text)).await?)
}

/// A machine ready to start, and this process's ends of its streams.
#[derive(Debug)]
pub struct Machine {
    /// Description of the machine.
    pub spec: VmSpec,
    /// File descriptors that the description names.
    pub descriptors: Vec<OwnedFd>,
    /// QMP connection to QEMU.
    pub qmp: std::os::unix::net::UnixStream,
    /// The control channel to the guest.
    pub control: std::os::unix::net::UnixStream,
    /// The guest's console.
    pub console: std::os::unix::net::UnixStream,
}

/// Size, name and accelerator of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// Name of the VM.
    pub name: String,
    /// Virtual CPUs.
    pub vcpus: u16,
    /// Guest memory, in MiB.
    pub memory_mib: u32,
    /// How guest code is executed.
    pub accel: Accel,
    /// File to which QEMU writes its process id.
    pub pid_file: PathBuf,
}

/// Builds the machine that boots `image`: plain hardware with the TDX firmware, whose evidence is simulated.
///
/// # Errors
/// [`SocketError`] if the system has no file descriptor left.
pub fn machine(shape: &Shape, image: Image) -> Result<Machine, SocketError> {
    let ((qmp, our_qmp), (control, our_control), (console, our_console)) =
        (socket::pair()?, socket::pair()?, socket::pair()?);
    let volumes = [
        (Some(&image.model), MODEL_SERIAL),
        (image.runtime.as_ref(), RUNTIME_SERIAL),
    ];
    let disk = |(file, serial): (Option<&File>, &str)| {
        Some(Disk {
            source: Blob::Descriptor(file?.as_raw_fd()),
            serial: serial.into(),
        })
    };
    let disks = volumes.into_iter().filter_map(disk).collect();
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
        disks,
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
    let files = [image.firmware, image.kernel, image.initrd, image.model];
    let descriptors = files
        .into_iter()
        .chain(image.runtime)
        .map(OwnedFd::from)
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Makes an image folder of a few bytes, for GPUs or without.
    fn folder(gpu: bool) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in [
            "vmlinuz",
            "initrd.img",
            "OVMF.tdx.fd",
            "OVMF.snp.fd",
            "model.img",
            "cmdline",
        ] {
            fs::write(folder.path().join(name), name).unwrap();
        }
        let (half, whole) = ("00".repeat(32), "00".repeat(48));
        let verity = format!(
            r#""verity_root":"{half}","verity_salt":"{half}","verity_data_blocks":1,"files":{{}}"#
        );
        let gpu = match gpu {
            true => format!(r#""gpu":{{"driver":"1.2","runtime":{{{verity}}},"without":{{}}}},"#),
            false => String::new(),
        };
        let manifest = format!(
            r#"{{"version":1,"release":1,"variant":"v","source_revision":"0","not_before":0,"not_after":1,
            "inputs_lock":"{half}","unlocked":[],"aml_guard":false,"artefacts":{{}},"cmdline":"quiet",{gpu}
            "model":{{"id":"m",{verity}}},"tdx":{{"mrtd":"{whole}","rtmr1":"{whole}","rtmr2":"{whole}","platforms":[]}},
            "snp":{{"guest_features":1,"launch":[]}}}}"#
        );
        fs::write(folder.path().join("manifest.json"), manifest).unwrap();
        folder
    }

    fn serials(folder: &Path) -> Vec<String> {
        let shape = Shape {
            name: "m".into(),
            vcpus: 1,
            memory_mib: 1024,
            accel: cocoon_qemu::Accel::Emulated,
            pid_file: folder.join("pid"),
        };
        let machine = machine(&shape, Image::open(folder, None).unwrap()).unwrap();
        // Every file descriptor that QEMU is told to use must be handed over.
        let handed: Vec<i32> = machine.descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        assert!(
            machine
                .spec
                .descriptors()
                .iter()
                .all(|fd| handed.contains(fd))
        );
        let disks = machine.spec.disks.into_iter();
        disks.map(|disk| disk.serial).collect()
    }

    #[test]
    fn an_image_for_gpus_has_its_runtime_on_a_second_disk() {
        let plain = folder(false);
        assert_eq!(serials(plain.path()), ["cocoon-model"]);
        let with = folder(true);
        let runtime = with.path().join("runtime.img");
        assert_eq!(
            Image::open(with.path(), None).unwrap_err().to_string(),
            format!(
                "the image is incomplete: cannot read {runtime:?}; build it with `cocoon-image build --variant cpu --out DIR`"
            )
        );
        fs::write(&runtime, "libraries").unwrap();
        assert_eq!(serials(with.path()), ["cocoon-model", "cocoon-runtime"]);
    }
}
