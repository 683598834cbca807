//! A real boot: Debian's OVMF and kernel in QEMU with a software TPM, and a guest that reports what was measured.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use cocoon_host_agent::qemu;
use cocoon_image::initrd::cpio::Cpio;
use cocoon_inputs::report;
use cocoon_qemu::args::gpu_measured;
use cocoon_qemu::find::Qemu;
use cocoon_qemu::spec::{Blob, Confidential, Console, Placement};
use cocoon_qemu::{Accel, Argument, VmSpec, arguments};
use tokio::process::Command;
use tokio::time::timeout;

use crate::artefacts::Artefacts;
use crate::tools::{Packages, read};

/// Time limit for a boot under emulation on a busy machine; ten seconds are usual.
const DEADLINE: Duration = Duration::from_secs(400);
/// Init process (PID 1) of the guest.
const INIT: &[u8] = include_bytes!("guest.sh");
/// Device through which the guest sends its report, connected to QEMU's end.
const REPORT: &str = "virtserialport,bus=serial0.0,chardev=report0,name=report";

/// Programs that a boot needs besides the image's own artefacts.
pub struct Programs {
    qemu: Qemu,
    swtpm: Packages,
    /// The only program in the guest, which provides all its commands.
    busybox: Vec<u8>,
}

impl Programs {
    /// Fetches and unpacks what is missing.
    pub async fn open() -> anyhow::Result<Self> {
        let obtained = qemu::find(None, report::stderr()).await?;
        Ok(Self {
            qemu: obtained.qemu,
            swtpm: Packages::of_tests("swtpm")?,
            busybox: read(&Packages::of_tests("busybox")?.file("usr/bin/busybox"))?,
        })
    }

    /// Returns the major version of QEMU, which determines whether firmware receives the kernel unchanged.
    pub fn qemu_major(&self) -> u32 {
        self.qemu.version.major
    }

    /// Returns the initrd of the reporting guest.
    pub fn initrd(&self, artefacts: &Artefacts) -> anyhow::Result<Vec<u8>> {
        let mut archive = Cpio::default();
        for folder in ["bin", "dev", "sys"] {
            archive.folder(folder)?;
        }
        archive.file("bin/busybox", 0o755, &self.busybox)?;
        archive.file("qemu_fw_cfg.ko.xz", 0o644, &read(&artefacts.fw_cfg_module)?)?;
        archive.file("init", 0o755, INIT)?;
        Ok(archive.finish())
    }

    /// Runs `boot` until the machine ends, and returns the parts of the guest's report by name.
    pub async fn run(&self, boot: &Boot<'_>) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
        let folder = tempfile::tempdir()?;
        let socket = folder.path().join("tpm");
        // The socket listens before either program starts, so neither can connect too early.
        let listener = UnixListener::bind(&socket)?;
        let mut swtpm = tokio::process::Command::from(self.swtpm.program("swtpm"));
        swtpm
            .args([
                "socket",
                "--tpm2",
                "--terminate",
                "--ctrl",
                "type=unixio,fd=0",
            ])
            // A new TPM has banks for SHA-1, SHA-256, SHA-384 and SHA-512.
            .arg("--tpmstate")
            .arg(format!("dir={}", folder.path().display()))
            .stdin(Stdio::from(OwnedFd::from(listener)))
            .kill_on_drop(true);
        let mut swtpm = logged(&mut swtpm, &folder.path().join("swtpm.log"))?;

        let line = self.qemu.command_line(&boot.arguments(folder.path())?);
        let (program, rest) = line.split_first().context("QEMU has no program")?;
        let mut qemu = Command::new(program);
        qemu.args(rest)
            .env_clear()
            .envs(self.qemu.environment.iter().cloned())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let mut qemu = logged(&mut qemu, &folder.path().join("qemu.log"))?;
        let ended = timeout(DEADLINE, qemu.wait()).await;
        let said = || -> String {
            ["swtpm.log", "qemu.log", "console"]
                .map(|name| fs::read(folder.path().join(name)).unwrap_or_default())
                .map(|text| String::from_utf8_lossy(&text).into_owned())
                .concat()
        };
        ended.with_context(|| format!("the machine does not end: {}", said()))??;
        // The TPM ends when QEMU closes the connection.
        timeout(DEADLINE, swtpm.wait())
            .await
            .context("the software TPM goes on")??;
        reported(&read(&folder.path().join("report"))?).with_context(said)
    }
}

/// A machine to boot.
pub struct Boot<'a> {
    pub firmware: Firmware,
    pub kernel: &'a Path,
    pub initrd: &'a [u8],
    pub command_line: &'a str,
    pub vcpus: u16,
    pub memory_mib: u32,
    /// Size in MiB of the 64-bit window for a GPU; `None` for a machine without a GPU's port.
    pub mmio64_mib: Option<u32>,
}

/// The firmware's files, and how the machine maps them.
pub enum Firmware {
    /// One file with code and variables, passed with `-bios` as for the image.
    Whole(PathBuf),
    /// Flash that only system management mode may write, which builds with secure boot require.
    Guarded { code: PathBuf, variables: PathBuf },
}

impl Boot<'_> {
    /// Returns the arguments of a machine as the host agent starts it, with a TPM and a device for the guest's report.
    fn arguments(&self, folder: &Path) -> anyhow::Result<Vec<Argument>> {
        let initrd = folder.join("initrd");
        fs::write(&initrd, self.initrd)?;
        let whole = match &self.firmware {
            Firmware::Whole(path) => Some(Blob::Path(path.clone())),
            Firmware::Guarded { .. } => None,
        };
        let mut line = arguments(&VmSpec {
            name: "predictions".into(),
            accel: Accel::Emulated,
            confidential: Confidential::None,
            vcpus: self.vcpus,
            memory_mib: self.memory_mib,
            placement: Placement::default(),
            firmware: whole,
            kernel: Blob::Path(self.kernel.to_owned()),
            initrd: Some(Blob::Path(initrd)),
            cmdline: self.command_line.to_owned(),
            disks: vec![],
            control: None,
            console: Console::File(folder.join("console")),
            network: None,
            gpu: None,
            qmp: None,
            pid_file: None,
        })?;
        let mut add = |flag, value: String, reason| {
            line.push(Argument {
                flag,
                value: Some(value),
                reason,
            });
        };
        if let Firmware::Guarded { code, variables } = &self.firmware {
            let own = folder.join("variables");
            fs::write(&own, read(variables)?)?;
            let flash = "if=pflash,format=raw,unit=";
            add(
                "-drive",
                format!("{flash}0,readonly=on,file={}", escaped(code)),
                "code",
            );
            add(
                "-drive",
                format!("{flash}1,file={}", escaped(&own)),
                "variables",
            );
            let guard = "driver=cfi.pflash01,property=secure,value=on";
            add(
                "-global",
                guard.into(),
                "only system management mode may write",
            );
        }
        if let Some(mib) = self.mmio64_mib {
            for argument in gpu_measured(mib)? {
                let value = argument.value.context("no value")?;
                add(argument.flag, value, argument.reason);
            }
        }
        let (tpm, report) = (folder.join("tpm"), folder.join("report"));
        let tpm = format!("socket,id=tpm0,path={}", escaped(&tpm));
        add("-chardev", tpm, "the software TPM");
        add(
            "-tpmdev",
            "emulator,id=tpm0,chardev=tpm0".into(),
            "the same",
        );
        add("-device", "tpm-crb,tpmdev=tpm0".into(), "the same");
        let report = format!("file,id=report0,path={}", escaped(&report));
        add("-chardev", report, "the guest's report");
        add("-device", "virtio-serial-pci,id=serial0".into(), "the same");
        add("-device", REPORT.into(), "the same");
        if matches!(self.firmware, Firmware::Guarded { .. }) {
            let machine = line.iter_mut().find(|argument| argument.flag == "-machine");
            let machine = machine.and_then(|argument| argument.value.as_mut());
            let machine = machine.context("no machine")?;
            anyhow::ensure!(machine.contains("smm=off"), "{machine}");
            *machine = machine.replace("smm=off", "smm=on");
        }
        Ok(line)
    }
}

/// Starts `command`, whose output goes to `log`.
fn logged(command: &mut Command, log: &Path) -> anyhow::Result<tokio::process::Child> {
    let log = Arc::new(File::create(log)?);
    command.stdout(log.try_clone()?).stderr(log.try_clone()?);
    command.spawn().with_context(|| format!("{command:?}"))
}

/// Escapes a path for QEMU's option lists.
fn escaped(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

/// Splits the guest's report into its parts.
fn reported(mut report: &[u8]) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
    let mut parts = BTreeMap::new();
    loop {
        let end = report
            .iter()
            .position(|byte| *byte == b'\n')
            .context("the report breaks off")?;
        let line = std::str::from_utf8(&report[..end])?;
        let (name, length) = line.split_once(' ').context("a report without lengths")?;
        if name == "end" {
            return Ok(parts);
        }
        let rest = &report[end + 1..];
        let (part, rest) = rest
            .split_at_checked(length.parse()?)
            .context("the report breaks off")?;
        parts.insert(name.to_owned(), part.to_owned());
        report = rest;
    }
}
