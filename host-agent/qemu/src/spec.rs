//! The description of a virtual machine, validated before anything starts.

use std::os::fd::RawFd;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::accel::Accel;
use crate::pci::PciAddress;

/// The guest's fixed IPv4 address and prefix length on QEMU's user network.
pub const GUEST_ADDRESS: ([u8; 4], u8) = ([10, 0, 2, 15], 24);

/// Longest command line that an x86 kernel accepts, in bytes without the final NUL (`COMMAND_LINE_SIZE` - 1).
pub const CMDLINE_MAX: usize = 2047;

/// Longest serial number of a virtio-blk disk, in bytes (`VIRTIO_BLK_ID_BYTES`).
pub const SERIAL_MAX: usize = 20;

/// Longest path of a Unix socket, in bytes (`sockaddr_un.sun_path` without the final NUL).
pub const SOCKET_PATH_MAX: usize = 107;

/// Description of a virtual machine. Making it opens nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmSpec {
    /// Name in the process list: letters, digits, `-`, `_`, `.`.
    pub name: String,
    /// KVM or emulation. A confidential machine needs KVM.
    pub accel: Accel,
    /// The trusted execution environment, if any.
    pub confidential: Confidential,
    /// Number of vCPUs, 1 to 255. Measured: SEV-SNP measures a VMSA for each, TDX the tables that list them.
    pub vcpus: u16,
    /// Guest memory in MiB, at least 64.
    pub memory_mib: u32,
    /// Source of the memory on the host. It is neither visible to the guest nor measured.
    pub placement: Placement,
    /// Firmware for `-bios`. Without it, QEMU uses its own SeaBIOS, which cannot boot a confidential machine.
    pub firmware: Option<Blob>,
    /// Linux or multiboot kernel for direct boot.
    pub kernel: Blob,
    /// Initial RAM disk.
    pub initrd: Option<Blob>,
    /// Kernel command line, at most [`CMDLINE_MAX`] bytes. Measured.
    pub cmdline: String,
    /// Read-only disks, which the guest finds by their serial numbers.
    pub disks: Vec<Disk>,
    /// The control channel between guest and host, a virtio-serial port.
    pub control: Option<Channel>,
    /// Destination of the first serial port's output.
    pub console: Console,
    /// The network card, if any.
    pub network: Option<Network>,
    /// The GPU of the host that is passed through, if any.
    pub gpu: Option<Gpu>,
    /// QEMU's QMP socket, if any.
    pub qmp: Option<Endpoint>,
    /// File to which QEMU writes its process id, if any.
    pub pid_file: Option<PathBuf>,
}

/// The trusted execution environment to start the machine in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Confidential {
    /// No TEE: a plain virtual machine.
    None,
    /// Intel TDX (QEMU ≥ 10.1).
    Tdx(Tdx),
    /// AMD SEV-SNP.
    Snp(Snp),
}

/// Parameters of a trust domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tdx {
    /// MRCONFIGID: the digest of the operator's configuration.
    pub mrconfigid: [u8; 48],
    /// Address at which QEMU reaches the quote generation service.
    pub quotes: QuoteSocket,
}

/// Address of Intel's quote generation service on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QuoteSocket {
    /// A vsock address, for `port=4050` in the service's configuration. The host is context id 2.
    Vsock {
        /// Context id.
        cid: u32,
        /// Port.
        port: u32,
    },
    /// A Unix socket, for `port=0` in the service's configuration.
    Unix(PathBuf),
}

/// Parameters of an SEV-SNP guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snp {
    /// HOST_DATA: the digest of the operator's configuration.
    pub host_data: [u8; 32],
    /// Guest policy. 0x30000 permits SMT and nothing else (no debugging, no migration agent).
    pub policy: u64,
    /// Position of the encryption bit, `CPUID 8000001F EBX[5:0]` of the host.
    pub cbitpos: u32,
    /// Number of physical address bits lost to encryption, `CPUID 8000001F EBX[11:6]` of the host.
    pub reduced_phys_bits: u32,
    /// QEMU's CPU model, such as `EPYC-v4`. Its signature is in the measured VMSA.
    pub cpu: String,
    /// Signed statement of what may be launched, if any. Clients that follow the manifest refuse it: the image uses none.
    pub id: Option<IdBlock>,
}

/// What the secure processor compares the launch with before it finishes (SEV-SNP firmware ABI 56860, section 8.18).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdBlock {
    /// `ID_BLOCK`.
    pub block: [u8; 96],
    /// `ID_AUTH_INFO`: keys and signatures.
    pub auth: Box<[u8; 4096]>,
    /// Whether an author key signs the ID key.
    pub author_key: bool,
}

/// A GPU that is passed through: bound to vfio-pci, with its whole IOMMU group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gpu {
    /// Its address on the host.
    pub address: PciAddress,
    /// Size of the firmware's 64-bit window for BARs in MiB, a power of two: see [`mmio64_mib`]. Measured (RTMR0).
    pub mmio64_mib: u32,
}

/// Returns the size in MiB of the window for BARs of these sizes in bytes: their sum and 1 GiB for everything else, rounded
/// up to a power of two, since the firmware aligns the window to its size. It is never less than the 32 GiB that edk2's
/// OVMF uses by default.
#[must_use]
pub fn mmio64_mib(bars: &[u64]) -> u32 {
    let bytes = (bars.iter()).fold(1_u64 << 30, |sum, bar| sum.saturating_add(*bar));
    let mib = bytes.div_ceil(1 << 20).next_power_of_two();
    u32::try_from(mib)
        .unwrap_or(MMIO64_MAX)
        .clamp(MMIO64_MIN, MMIO64_MAX)
}

/// Smallest window, in MiB.
pub const MMIO64_MIN: u32 = 32 << 10;
/// Largest window, in MiB: a quarter of the 46-bit address space that the firmware uses.
pub const MMIO64_MAX: u32 = 16 << 20;

/// A file that QEMU reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Blob {
    /// A path, which QEMU opens when it needs the file. For manual experiments.
    Path(PathBuf),
    /// An open descriptor that is handed to [`Vm::spawn`](crate::Vm::spawn). QEMU sees it as `/dev/fd/N`, and other
    /// processes can read the same bytes through `/proc/PID/fd/N`, whatever happens to the path.
    Descriptor(RawFd),
}

/// A read-only virtio disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// The raw image.
    pub source: Blob,
    /// Serial number by which the guest finds the disk, also its name in [`BlockStats`](crate::qmp::BlockStats): 1 to
    /// [`SERIAL_MAX`] letters, digits, `-`, `_`, `.`, beginning with a letter.
    pub serial: String,
}

/// A named virtio-serial port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Channel {
    /// Name of the port in the guest's `/sys/class/virtio-ports/*/name`.
    pub port: String,
    /// The host's end.
    pub endpoint: Endpoint,
}

/// The host's end of a byte stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// QEMU binds and listens here. A peer may try to connect too early; prefer the other variants.
    Path(PathBuf),
    /// A listening Unix socket made beforehand with [`listen`](crate::socket::listen). Peers can connect before QEMU is
    /// ready and need not retry.
    Listener(RawFd),
    /// One end of a connected pair, see [`pair`](crate::socket::pair).
    Connected(RawFd),
}

/// Destination of the console's output. The host sees all of it, so the guest must not write secrets there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Console {
    /// Discards the output.
    Discard,
    /// A file, which is truncated first.
    File(PathBuf),
    /// A stream. A peer that stops reading stalls the guest's writes.
    Stream(Endpoint),
}

/// Backend of the network card. The guest sees the same card in the same place with each backend, and none of it is measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Network {
    /// QEMU's user network: no privileges, no outgoing connections, one forwarded loopback port.
    User {
        /// Port on 127.0.0.1. With 0 the host chooses; [`Qmp::forwarded_port`](crate::Qmp::forwarded_port) returns it.
        host_port: u16,
        /// Port of the guest at [`GUEST_ADDRESS`].
        guest_port: u16,
    },
    /// A TAP device, made beforehand for the user that QEMU runs as.
    Tap {
        /// Name of the device.
        device: String,
        /// Whether the kernel moves the packets (`/dev/vhost-net`) instead of QEMU.
        vhost: bool,
        /// MAC address of the card, which must be unique where TAP devices are bridged.
        mac: [u8; 6],
    },
    /// A passt process that listens on this Unix socket and forwards ports as configured.
    Passt {
        /// Path of the socket.
        socket: PathBuf,
    },
}

/// Source of guest memory on the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Placement {
    /// Huge pages of this size, allocated from the kernel's pool at the start. Confidential machines cannot have any: their
    /// private pages come from guest_memfd, which has no huge pages (Linux 6.16), so the pool would back only the few
    /// shared ones.
    pub hugepages: Option<HugePages>,
    /// NUMA nodes of the host in ascending order; empty allows any. For a confidential machine this applies to shared pages
    /// only; a private page comes from the node of the processor that first touches it.
    pub nodes: Vec<u32>,
}

/// A size of huge pages on x86-64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum HugePages {
    /// 2 MiB.
    #[serde(rename = "2M")]
    TwoMib,
    /// 1 GiB.
    #[serde(rename = "1G")]
    OneGib,
}

impl HugePages {
    /// Returns the size of one page in MiB.
    #[must_use]
    pub fn mib(self) -> u32 {
        match self {
            Self::TwoMib => 2,
            Self::OneGib => 1024,
        }
    }
}

impl VmSpec {
    /// Returns every descriptor that this machine needs, in no particular order.
    #[must_use]
    pub fn descriptors(&self) -> Vec<RawFd> {
        let blobs = [
            Some(&self.kernel),
            self.firmware.as_ref(),
            self.initrd.as_ref(),
        ]
        .into_iter()
        .flatten();
        let blobs = blobs
            .chain(self.disks.iter().map(|disk| &disk.source))
            .filter_map(|blob| match blob {
                Blob::Descriptor(fd) => Some(*fd),
                Blob::Path(_) => None,
            });
        let console = match &self.console {
            Console::Stream(endpoint) => Some(endpoint),
            Console::Discard | Console::File(_) => None,
        };
        let control = self.control.as_ref().map(|channel| &channel.endpoint);
        let ends = [console, control, self.qmp.as_ref()]
            .into_iter()
            .flatten()
            .filter_map(|end| match end {
                Endpoint::Listener(fd) | Endpoint::Connected(fd) => Some(*fd),
                Endpoint::Path(_) => None,
            });
        blobs.chain(ends).collect()
    }
}

/// Why a [`VmSpec`] cannot be expressed as a command line.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SpecError {
    /// A value contains a control character, which could end the argument early or hide something in a log.
    #[error("{field} contains the control character {character:?}; remove it")]
    ControlCharacter {
        /// The field.
        field: &'static str,
        /// The character.
        character: char,
    },
    /// A path is not valid UTF-8, as a command line of text requires.
    #[error("{field} is not valid UTF-8: {path:?}; use a path that is")]
    NotUtf8 {
        /// The field.
        field: &'static str,
        /// The path.
        path: PathBuf,
    },
    /// A name contains characters other than those that QEMU and the guest agree on, or has a wrong length.
    #[error(
        "{field} {name:?} must have 1 to {max} letters, digits, '-', '_' or '.', and begin with a letter"
    )]
    Name {
        /// The field.
        field: &'static str,
        /// The name.
        name: String,
        /// Greatest length in bytes.
        max: usize,
    },
    /// Two disks have the same serial number. The guest finds disks by it, so the host could choose between them.
    #[error("two disks have the serial {0:?}; give each its own")]
    DuplicateSerial(String),
    /// A number is outside its range.
    #[error("{field} is {value}, allowed are {min} to {max}")]
    OutOfRange {
        /// The field.
        field: &'static str,
        /// The value.
        value: u64,
        /// Smallest value.
        min: u64,
        /// Largest value.
        max: u64,
    },
    /// A text is longer than the kernel command line or a socket address permits.
    #[error("{field} has {length} bytes, at most {max} fit")]
    TooLong {
        /// The field.
        field: &'static str,
        /// Its length in bytes.
        length: usize,
        /// Greatest length in bytes.
        max: usize,
    },
    /// A confidential machine was requested under emulation.
    #[error(
        "{tee} needs KVM, not emulation; start a plain machine instead and let it use the simulator"
    )]
    NeedsKvm {
        /// `TDX` or `SEV-SNP`.
        tee: &'static str,
    },
    /// Huge pages were requested for a confidential machine, whose private memory cannot use them.
    #[error("{tee} keeps private memory in guest_memfd, which takes no huge pages: leave them out")]
    HugePagesInTee {
        /// `TDX` or `SEV-SNP`.
        tee: &'static str,
    },
    /// The memory is not a multiple of the size of a huge page.
    #[error("{memory_mib} MiB of memory are no multiple of a huge page of {page_mib} MiB")]
    PartOfPage {
        /// Guest memory in MiB.
        memory_mib: u32,
        /// Size of a huge page in MiB.
        page_mib: u32,
    },
    /// A GPU was requested under emulation, but only KVM can pass one through.
    #[error("a GPU can be passed to a machine under KVM only, not under emulation")]
    GpuNeedsKvm,
    /// A confidential machine has no firmware, without which nothing would be measured.
    #[error("{tee} needs a firmware file made for it; name one")]
    NeedsFirmware {
        /// `TDX` or `SEV-SNP`.
        tee: &'static str,
    },
    /// A descriptor below 3, one of the standard streams, was named.
    #[error("{field} names descriptor {fd}; only descriptors from 3 on can be handed over")]
    Descriptor {
        /// The field.
        field: &'static str,
        /// The descriptor.
        fd: RawFd,
    },
}
