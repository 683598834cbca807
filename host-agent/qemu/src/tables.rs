//! Computes the ACPI and SMBIOS tables of a machine, as its firmware sees them, without the hardware.
//!
//! A trust domain measures these tables into RTMR0. The signer of reference values therefore needs them beforehand and from
//! a machine of their own, not from the host that is to be judged. The tables depend on QEMU, on every device, on memory
//! and processors, and on the addresses that the firmware has assigned to the devices when it reads them: the 64-bit window
//! of the PCI host bridge in the DSDT begins at the lowest of those. So the actual firmware runs under emulation until the
//! kernel prints its first message. Then the machine is paused and read through [`qtest`](crate::qtest).
//!
//! Differences of a trust domain, and how they are reproduced (`target/i386/kvm/tdx.c`, `hw/i386/acpi-common.c` of QEMU 10.1):
//!
//! | in a trust domain | effect on the tables | here |
//! |---|---|---|
//! | no 8259 interrupt controllers (`pic=off`) | MADT and DSDT | `pic=off` |
//! | no SMM, no HPET | FADT and DSDT | off in every machine |
//! | I/O APIC outside the kernel (`kernel-irqchip=split`) | none | the only kind under emulation |
//! | physical address bits of the host's CPU | where the firmware puts devices | [`Shape::address_bits`] |
//! | `-cpu host` | the processor id in SMBIOS type 4 | replaced before hashing, by the caller |
//!
//! For a GPU that is passed through, the tables contain only what does not depend on it: its port, and the window that the
//! firmware is told about ([`Shape::mmio64_mib`]). What the GPU adds is missing, since no emulated machine has its BARs:
//! the DSDT names a device behind the port, and its 64-bit window grows to hold the BARs, which moves what the firmware
//! places after them. With a GPU, the digest of `etc/acpi/tables` is therefore that of another machine, and the rest has
//! never been compared with a real one.
//!
//! A versioned machine type does not fix the tables: use the QEMU release that will run the trust domain, or state which
//! release the values are for.

use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::accel::Accel;
use crate::args::{Argument, arguments, gpu_measured};
use crate::find::Qemu;
use crate::process::Vm;
use crate::qmp::Qmp;
use crate::qtest::Qtest;
use crate::socket::pair;
use crate::spec::{Confidential, Console, Network, Placement, VmSpec};

mod error;
mod files;
mod smbios;

pub use error::TablesError;
use files::Files;

/// Physical address bits of the processor in a trust domain. Firmware uses at most 46, even on processors with more.
pub const ADDRESS_BITS: u8 = 46;

/// First output of the kernel: its EFI stub's message when it has loaded the initrd, or else its own first line.
pub const KERNEL_SPEAKS: [&str; 2] = ["EFI stub: ", "Linux version "];

/// The properties of a machine that its tables depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Number of vCPUs.
    pub vcpus: u16,
    /// Guest memory in MiB.
    pub memory_mib: u32,
    /// Number of disks.
    pub disks: u8,
    /// Whether there is a network card.
    pub network: bool,
    /// Whether there is a virtio-serial port.
    pub control: bool,
    /// Physical address bits of the processor: [`ADDRESS_BITS`] for TDX.
    pub address_bits: u8,
    /// Size in MiB of the firmware's window for a GPU; `None` for a machine without a GPU's port. The GPU itself is not
    /// included.
    pub mmio64_mib: Option<u32>,
}

impl Shape {
    /// Returns the shape of `spec` on a processor with TDX.
    #[must_use]
    pub fn of(spec: &VmSpec) -> Self {
        Self {
            vcpus: spec.vcpus,
            memory_mib: spec.memory_mib,
            // A machine with more disks than PCI slots cannot be started anyway.
            disks: u8::try_from(spec.disks.len()).unwrap_or(u8::MAX),
            network: spec.network.is_some(),
            control: spec.control.is_some(),
            address_bits: ADDRESS_BITS,
            mmio64_mib: spec.gpu.map(|gpu| gpu.mmio64_mib),
        }
    }
}

/// What the machine boots while its tables are computed.
#[derive(Debug, Clone, Copy)]
pub struct Boot<'a> {
    /// The measured firmware. `None` selects QEMU's own SeaBIOS, which cannot boot a trust domain.
    pub firmware: Option<&'a Path>,
    /// A kernel that the firmware can start. The tables do not depend on it.
    pub kernel: &'a Path,
    /// Texts of which one on the first serial port shows that the firmware has finished: [`KERNEL_SPEAKS`] for Linux.
    pub ready: &'a [&'a str],
    /// How long the firmware may take. Under emulation it needs three seconds on one idle core.
    pub deadline: Duration,
}

/// A machine's tables, byte for byte as its firmware read or made them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tables {
    /// fw_cfg `etc/table-loader`.
    pub acpi_loader: Vec<u8>,
    /// fw_cfg `etc/acpi/rsdp`.
    pub acpi_rsdp: Vec<u8>,
    /// fw_cfg `etc/acpi/tables`.
    pub acpi_tables: Vec<u8>,
    /// fw_cfg `bootorder`, including its NUL.
    pub boot_order: Vec<u8>,
    /// The SMBIOS structure table in guest memory, including the firmware's own structures. Its processors are the emulator's.
    pub smbios: Vec<u8>,
}

/// Computes the tables of a machine of this `shape` with this `qemu`.
///
/// # Errors
/// [`TablesError`] if QEMU, the firmware or the kernel does not do what is needed. The machine is gone in any case.
pub async fn tables(qemu: &Qemu, shape: &Shape, boot: &Boot<'_>) -> Result<Tables, TablesError> {
    let (console, spoken) = pair()?;
    let (monitor, qmp) = pair()?;
    let (tests, qtest) = pair()?;
    let mut files = Files(vec![console.fd, monitor.fd]);
    let spec = VmSpec {
        name: "tables".into(),
        accel: Accel::Emulated,
        confidential: Confidential::None,
        vcpus: shape.vcpus,
        memory_mib: shape.memory_mib,
        placement: Placement::default(),
        firmware: boot.firmware.map(|path| files.open(path)).transpose()?,
        kernel: files.open(boot.kernel)?,
        // Only needed so that the kernel's EFI stub reports that it has loaded an initrd.
        initrd: Some(files.zeroes(512)?),
        // The first line is enough, and no table contains the command line.
        cmdline: "console=ttyS0 panic=-1".into(),
        disks: files.disks(shape.disks)?,
        control: shape.control.then(|| files.control()).transpose()?,
        console: Console::Stream(console.endpoint),
        network: shape.network.then_some(Network::User {
            host_port: 0,
            guest_port: 1,
        }),
        gpu: None,
        qmp: Some(monitor.endpoint),
        pid_file: None,
    };
    let mut line = arguments(&spec)?;
    adapt(&mut line, shape);
    // After every other device, as in a real machine.
    if let Some(mib) = shape.mmio64_mib {
        line.extend(gpu_measured(mib)?);
    }
    line.push(argument(
        "-chardev",
        format!("socket,id=qtest0,fd={}", tests.as_raw_fd()),
    ));
    line.push(argument("-qtest", "chardev:qtest0".into()));
    line.push(argument("-qtest-log", "none".into()));
    files.0.push(tests.fd);

    let vm = Vm::spawn_line(qemu, &line, files.0)?;
    let qmp = Qmp::over(qmp, boot.deadline).await;
    let qmp = qmp.map_err(|source| ended(&vm, TablesError::Qmp(source)))?;
    let spoken = UnixStream::from_std(spoken).map_err(TablesError::Console)?;
    match timeout(boot.deadline, speaks(spoken, boot.ready)).await {
        Ok(Ok(true)) => {}
        Ok(Ok(false)) | Err(_) => {
            return Err(TablesError::Silent {
                seconds: boot.deadline.as_secs(),
                diagnostics: vm.diagnostics(),
            });
        }
        Ok(Err(source)) => return Err(TablesError::Console(source)),
    }
    qmp.pause().await.map_err(TablesError::Qmp)?;
    let mut qtest = Qtest::over(qtest).map_err(TablesError::Console)?;
    let read = read(&mut qtest, shape).await;
    read.map_err(|error| ended(&vm, error))
}

async fn read(qtest: &mut Qtest, shape: &Shape) -> Result<Tables, TablesError> {
    // Memory is read first, since reading fw_cfg items overwrites some of it.
    let smbios = smbios::find(qtest, shape.memory_mib).await?;
    let files = qtest.files().await?;
    let mut items = Vec::new();
    for name in [
        "etc/table-loader",
        "etc/acpi/rsdp",
        "etc/acpi/tables",
        "bootorder",
    ] {
        let file = files.iter().find(|file| file.name == name);
        let file = file.ok_or(TablesError::Missing { name })?;
        items.push(qtest.file(file).await?);
    }
    let mut next = items.into_iter();
    let mut next = || next.next().unwrap_or_default();
    Ok(Tables {
        acpi_loader: next(),
        acpi_rsdp: next(),
        acpi_tables: next(),
        boot_order: next(),
        smbios,
    })
}

/// Changes the command line so that the emulated machine has the tables of a trust domain; see the module's table.
fn adapt(line: &mut Vec<Argument>, shape: &Shape) {
    for argument in line.iter_mut() {
        match (argument.flag, &mut argument.value) {
            ("-machine", Some(value)) => value.push_str(",pic=off,memory-backend=ram0"),
            ("-cpu", Some(value)) => {
                *value = format!("max,phys-bits={},host-phys-bits=off", shape.address_bits);
            }
            _ => {}
        }
    }
    // The memory is not reserved: the firmware touches little of it, and it may exceed this host's.
    let bytes = u64::from(shape.memory_mib) << 20;
    line.push(argument(
        "-object",
        format!("memory-backend-ram,id=ram0,size={bytes},reserve=off"),
    ));
}

fn argument(flag: &'static str, value: String) -> Argument {
    Argument {
        flag,
        value: Some(value),
        reason: "to read the machine's tables",
    }
}

/// Returns whether one of `needles` occurs before the console ends.
async fn speaks(mut console: UnixStream, needles: &[&str]) -> io::Result<bool> {
    const KEPT: usize = 4096;
    let mut text = Vec::with_capacity(2 * KEPT);
    loop {
        if console.read_buf(&mut text).await? == 0 {
            return Ok(false);
        }
        let has = |needle: &str| {
            text.windows(needle.len())
                .any(|part| part == needle.as_bytes())
        };
        if needles.iter().any(|needle| has(needle)) {
            return Ok(true);
        }
        let old = text.len().saturating_sub(KEPT);
        text.drain(..old);
    }
}

/// Returns `error`, together with QEMU's diagnostics if there are any.
fn ended(vm: &Vm, error: TablesError) -> TablesError {
    let diagnostics = vm.diagnostics();
    if diagnostics.is_empty() {
        return error;
    }
    TablesError::Ended {
        diagnostics,
        source: Box::new(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_kernels_first_words_are_found_across_reads() {
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        let writer = tokio::spawn(async move {
            use tokio::io::AsyncWriteExt;
            theirs.write_all(&[b'.'; 10_000]).await.expect("noise");
            theirs.write_all(b"EFI st").await.expect("half");
            theirs.write_all(b"ub: Loaded").await.expect("rest");
        });
        assert!(speaks(ours, &KERNEL_SPEAKS).await.expect("read"));
        writer.await.expect("written");
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        drop(theirs);
        assert!(!speaks(ours, &KERNEL_SPEAKS).await.expect("read"));
    }
}
