//! Builds QEMU's command line: a pure function of [`VmSpec`] that gives each argument with its reason.

use std::fmt;

use crate::accel::Accel;
use crate::spec::{
    Blob, CMDLINE_MAX, Channel, Confidential, Console, Disk, Endpoint, SERIAL_MAX, SpecError,
    VmSpec,
};
use crate::text::{escaped, name, path, plain, range, socket_path};

mod confidential;
mod memory;
mod network;
mod passthrough;

pub use passthrough::measured as gpu_measured;

/// The versioned machine type. Its ACPI and SMBIOS tables are measured (RTMR0), so they must not change with QEMU's version.
pub const MACHINE: &str = "pc-q35-10.0";

/// Options of every virtio device, in confidential machines and others, so that all of them boot the same way.
const VIRTIO: &str = "disable-legacy=on,iommu_platform=on";

/// One argument of the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Argument {
    /// The option, such as `-machine`.
    pub flag: &'static str,
    /// Its value, already escaped.
    pub value: Option<String>,
    /// Why the argument is there.
    pub reason: &'static str,
}

impl fmt::Display for Argument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{} {value}", self.flag),
            None => write!(f, "{}", self.flag),
        }
    }
}

/// Returns the arguments that start `spec`, to follow the program and its data folders.
///
/// # Errors
/// [`SpecError`] with the value that cannot be used and what is allowed.
pub fn arguments(spec: &VmSpec) -> Result<Vec<Argument>, SpecError> {
    let mut args = Args(Vec::new());
    process(&mut args, spec)?;
    machine(&mut args, spec)?;
    console(&mut args, &spec.console)?;
    if let Some(endpoint) = &spec.qmp {
        args.add(
            "-chardev",
            chardev("qmp0", "QMP socket", endpoint)?,
            "QEMU's own control socket, host side only",
        );
        args.add(
            "-mon",
            "chardev=qmp0,mode=control",
            "machine-readable protocol on it",
        );
    }
    boot(&mut args, spec)?;
    disks(&mut args, &spec.disks)?;
    if let Some(network) = &spec.network {
        network::card(&mut args, network)?;
    }
    if let Some(channel) = &spec.control {
        control(&mut args, channel)?;
    }
    // The GPU comes last, so that it does not change the address of any other device.
    if let Some(gpu) = &spec.gpu {
        passthrough::gpu(&mut args, gpu, spec.accel)?;
    }
    Ok(args.0)
}

struct Args(Vec<Argument>);

impl Args {
    fn add(&mut self, flag: &'static str, value: impl Into<String>, reason: &'static str) {
        self.0.push(Argument {
            flag,
            value: Some(value.into()),
            reason,
        });
    }

    fn flag(&mut self, flag: &'static str, reason: &'static str) {
        self.0.push(Argument {
            flag,
            value: None,
            reason,
        });
    }
}

fn process(args: &mut Args, spec: &VmSpec) -> Result<(), SpecError> {
    args.add(
        "-name",
        format!("guest={}", name("name", &spec.name, 64)?),
        "tells machines apart in a process list",
    );
    args.flag(
        "-no-user-config",
        "nothing from configuration files on the host",
    );
    args.flag("-nodefaults", "only the devices listed here");
    args.add(
        "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        "a guest that breaks out finds a QEMU that can start no process and gain no right",
    );
    if let Some(file) = &spec.pid_file {
        args.add(
            "-pidfile",
            plain("pid file", path("pid file", file)?)?,
            "names the process for other tools",
        );
    }
    Ok(())
}

fn machine(args: &mut Args, spec: &VmSpec) -> Result<(), SpecError> {
    range("vcpus", spec.vcpus.into(), 1, 255)?;
    range("memory_mib", spec.memory_mib.into(), 64, 16 << 20)?;
    let mut machine = format!(
        "{MACHINE},smm=off,vmport=off,hpet=off,sata=off,smbus=off,i8042=off,usb=off,graphics=off"
    );
    machine.push_str(confidential::machine_options(&spec.confidential));
    machine.push_str(memory::machine_option(spec));
    args.add(
        "-machine",
        machine,
        "versioned, since its tables are measured; every legacy device the guest does not need is off",
    );
    memory::object(args, spec)?;
    confidential::object(args, spec)?;
    match spec.accel {
        Accel::Kvm => args.add(
            "-accel",
            "kvm",
            "hardware virtualisation, proved to work by a probe",
        ),
        Accel::Emulated => args.add(
            "-accel",
            "tcg,thread=multi",
            "emulation, one host thread per virtual CPU",
        ),
    }
    match (&spec.confidential, spec.accel) {
        (Confidential::Snp(snp), _) => args.add(
            "-cpu",
            name("cpu", &snp.cpu, 64)?,
            "a named model, because its signature is part of the launch digest",
        ),
        (_, Accel::Kvm) => args.add("-cpu", "host", "everything the host's CPU has"),
        (_, Accel::Emulated) => args.add("-cpu", "max", "the guest is built for x86-64-v3"),
    }
    let vcpus = spec.vcpus;
    args.add(
        "-smp",
        format!("{vcpus},sockets=1,cores={vcpus},threads=1"),
        "explicit topology: it is in the measured tables",
    );
    args.add(
        "-m",
        format!("{}M", spec.memory_mib),
        "guest memory; no hotplug slots, so nothing about it can change",
    );
    args.add("-display", "none", "no screen");
    args.add("-monitor", "none", "no human monitor");
    args.flag(
        "-no-reboot",
        "a machine that resets has failed or finished: it must not boot again by itself",
    );
    Ok(())
}

fn console(args: &mut Args, console: &Console) -> Result<(), SpecError> {
    let reason = "the guest's early messages; quiet once it serves";
    match console {
        Console::Discard => args.add("-chardev", "null,id=console0", reason),
        Console::File(file) => {
            let file = escaped("console file", path("console file", file)?)?;
            args.add("-chardev", format!("file,id=console0,path={file}"), reason);
        }
        Console::Stream(endpoint) => args.add(
            "-chardev",
            chardev("console0", "console socket", endpoint)?,
            reason,
        ),
    }
    args.add(
        "-serial",
        "chardev:console0",
        "first serial port, the kernel's ttyS0",
    );
    Ok(())
}

fn boot(args: &mut Args, spec: &VmSpec) -> Result<(), SpecError> {
    if let Some(firmware) = &spec.firmware {
        args.add(
            "-bios",
            blob("firmware", firmware)?,
            "measured: MRTD or launch digest; not flash, so never writable",
        );
    }
    args.add(
        "-kernel",
        blob("kernel", &spec.kernel)?,
        "direct boot, measured: RTMR1 or kernel hash",
    );
    if let Some(initrd) = &spec.initrd {
        args.add(
            "-initrd",
            blob("initrd", initrd)?,
            "measured: RTMR2 or initrd hash",
        );
    }
    if spec.cmdline.len() > CMDLINE_MAX {
        return Err(SpecError::TooLong {
            field: "cmdline",
            length: spec.cmdline.len(),
            max: CMDLINE_MAX,
        });
    }
    args.add(
        "-append",
        plain("cmdline", &spec.cmdline)?,
        "measured: RTMR2 or command line hash",
    );
    Ok(())
}

fn disks(args: &mut Args, disks: &[Disk]) -> Result<(), SpecError> {
    for (index, disk) in disks.iter().enumerate() {
        let serial = name("disk serial", &disk.serial, SERIAL_MAX)?;
        if disks[..index].iter().any(|other| other.serial == serial) {
            return Err(SpecError::DuplicateSerial(serial.to_owned()));
        }
        let file = escaped("disk", &blob("disk", &disk.source)?)?;
        args.add(
            "-blockdev",
            format!(
                "driver=raw,node-name={serial},read-only=on,file.driver=file,file.filename={file}"
            ),
            "read-only on the host too; its integrity is the guest's dm-verity, not QEMU's word",
        );
        args.add(
            "-device",
            format!("virtio-blk-pci,id=disk-{serial},drive={serial},serial={serial},{VIRTIO}"),
            "found by serial, not by order",
        );
    }
    Ok(())
}

fn control(args: &mut Args, channel: &Channel) -> Result<(), SpecError> {
    let port = name("control port", &channel.port, 64)?;
    args.add(
        "-device",
        format!("virtio-serial-pci,id=serial0,{VIRTIO}"),
        "its driver is built into the kernel",
    );
    args.add(
        "-chardev",
        chardev("control0", "control socket", &channel.endpoint)?,
        "the host's end of the channel",
    );
    args.add(
        "-device",
        format!("virtserialport,id=control,bus=serial0.0,chardev=control0,name={port}"),
        "the one channel between host agent and guest besides the network",
    );
    Ok(())
}

fn chardev(id: &str, field: &'static str, endpoint: &Endpoint) -> Result<String, SpecError> {
    Ok(match endpoint {
        Endpoint::Path(file) => {
            let file = escaped(field, socket_path(field, file)?)?;
            format!("socket,id={id},path={file},server=on,wait=off")
        }
        Endpoint::Listener(fd) => format!(
            "socket,id={id},fd={},server=on,wait=off",
            descriptor(field, *fd)?
        ),
        Endpoint::Connected(fd) => format!("socket,id={id},fd={}", descriptor(field, *fd)?),
    })
}

fn blob(field: &'static str, blob: &Blob) -> Result<String, SpecError> {
    Ok(match blob {
        Blob::Path(file) => plain(field, path(field, file)?)?.to_owned(),
        Blob::Descriptor(fd) => format!("/dev/fd/{}", descriptor(field, *fd)?),
    })
}

fn descriptor(field: &'static str, fd: i32) -> Result<i32, SpecError> {
    if fd < 3 {
        Err(SpecError::Descriptor { field, fd })
    } else {
        Ok(fd)
    }
}
