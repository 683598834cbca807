//! The virtual machine as a value: what is asked of QEMU, checked before anything starts.

use std::os::fd::RawFd;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::accel::Accel;
use crate::pci::PciAddress;

/// The guest's fixed IPv4 address on QEMU's user network, and its prefix length.
pub const GUEST_ADDRESS: ([u8; 4], u8) = ([10, 0, 2, 15], 24);

/// Longest kernel command line an x86 kernel takes, without its final NUL (`COMMAND_LINE_SIZE` - 1).
pub const CMDLINE_MAX: usize = 2047;

/// Longest virtio-blk serial in bytes (`VIRTIO_BLK_ID_BYTES`).
pub const SERIAL_MAX: usize = 20;

/// Longest path of a unix socket in bytes (`sockaddr_un.sun_path` without its final NUL).
pub const SOCKET_PATH_MAX: usize = 107;

/// One virtual machine. Nothing is opened by making this value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmSpec {
    /// Shown in the process list; letters, digits, `-`, `_`, `.`.
    pub name: String,
    /// KVM or emulation; a confidential machine needs KVM.
    pub accel: Accel,
    /// The trusted execution environment, if any.
    pub confidential: Confidential,
    /// Virtual CPUs, 1 to 255. Measured: SNP measures one VMSA each, TDX the tables that list them.
    pub vcpus: u16,
    /// Guest memory in MiB, at least 64.
    pub memory_mib: u32,
    /// Where on the host that memory comes from. The guest cannot tell, and nothing of it is measured.
    pub placement: Placement,
    /// Firmware for `-bios`; without it QEMU's own SeaBIOS, which no confidential machine can boot.
    pub firmware: Option<Blob>,
    /// Linux (or multiboot) kernel for direct boot.
    pub kernel: Blob,
    /// Initial RAM disk.
    pub initrd: Option<Blob>,
    /// Kernel command line, at most [`CMDLINE_MAX`] bytes. Measured.
    pub cmdline: String,
    /// Read-only disks, found by the guest through their serial.
    pub disks: Vec<Disk>,
    /// The virtio-serial port between guest and host.
    pub control: Option<Channel>,
    /// Where the first serial port's output goes.
    pub console: Console,
    /// The network card, if any.
    pub network: Option<Network>,
    /// A GPU of the host's, given to the machine whole.
    pub gpu: Option<Gpu>,
    /// QEMU's control socket.
    pub qmp: Option<Endpoint>,
    /// Where QEMU writes its process id.
    pub pid_file: Option<PathBuf>,
}

/// The trusted execution environment to start the machine in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Confidential {
    /// None: a plain virtual machine.
    None,
    /// Intel TDX (QEMU ≥ 10.1).
    Tdx(Tdx),
    /// AMD SEV-SNP.
    Snp(Snp),
}

/// What a trust domain is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tdx {
    /// MRCONFIGID: the digest of the operator's configuration.
    pub mrconfigid: [u8; 48],
    /// Where QEMU reaches the quote generation service.
    pub quotes: QuoteSocket,
}

/// The address of Intel's quote generation service on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QuoteSocket {
    /// `port=4050` in its configuration; the host is context id 2.
    Vsock {
        /// Context id.
        cid: u32,
        /// Port.
        port: u32,
    },
    /// `port=0` in its configuration.
    Unix(PathBuf),
}

/// What an SNP guest is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snp {
    /// HOST_DATA: the digest of the operator's configuration.
    pub host_data: [u8; 32],
    /// Guest policy; 0x30000 allows SMT and nothing else (no debugging, no migration agent).
    pub policy: u64,
    /// Position of the encryption bit, `CPUID 8000001F EBX[5:0]` of the host.
    pub cbitpos: u32,
    /// Physical address bits lost to encryption, `CPUID 8000001F EBX[11:6]` of the host.
    pub reduced_phys_bits: u32,
    /// QEMU's CPU model, such as `EPYC-v4`: its signature is in the measured VMSA.
    pub cpu: String,
    /// A signed word on what may be launched, if any. Clients that follow the manifest refuse it: the image uses none.
    pub id: Option<IdBlock>,
}

/// What the secure processor compares a launch with before it finishes it (SEV-SNP firmware ABI 56860, section 8.18).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdBlock {
    /// `ID_BLOCK`.
    pub block: [u8; 96],
    /// `ID_AUTH_INFO`: keys and signatures.
    pub auth: Box<[u8; 4096]>,
    /// Whether an author's key vouches for the ID key.
    pub author_key: bool,
}

/// A GPU that is passed through: bound to vfio-pci, with its whole IOMMU group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gpu {
    /// Where it is on the host.
    pub address: PciAddress,
    /// Size of the firmware's 64-bit window for BARs in MiB, a power of two: see [`mmio64_mib`]. Measured (RTMR0).
    pub mmio64_mib: u32,
}

/// The window that holds BARs of these sizes in bytes, in MiB: their sum and a GiB for everything else, as a power of
/// two, on a multiple of which the firmware puts it; never less than the 32 GiB that edk2's OVMF takes by itself.
#[must_use]
pub fn mmio64_mib(bars: &[u64]) -> u32 {
    let bytes = (bars.iter()).fold(1_u64 << 30, |sum, bar| sum.saturating_add(*bar));
    let mib = bytes.div_ceil(1 << 20).next_power_of_two();
    u32::try_from(mib)
        .unwrap_or(MMIO64_MAX)
        .clamp(MMIO64_MIN, MMIO64_MAX)
}

/// The smallest window, in MiB.
pub const MMIO64_MIN: u32 = 32 << 10;
/// The largest window, in MiB: a quarter of the 46 address bits that the firmware uses.
pub const MMIO64_MAX: u32 = 16 << 20;

/// A file for QEMU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Blob {
    /// By path: QEMU opens it when it gets there. For trying things by hand.
    Path(PathBuf),
    /// An open descriptor handed to [`Vm::spawn`](crate::Vm::spawn): QEMU sees `/dev/fd/N`, and everybody
    /// else can read the very same bytes through `/proc/PID/fd/N`, whatever happens to the path.
    Descriptor(RawFd),
}

/// A read-only virtio disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Raw image.
    pub source: Blob,
    /// How the guest finds it, and its name in [`BlockStats`](crate::qmp::BlockStats):
    /// 1 to [`SERIAL_MAX`] letters, digits, `-`, `_`, `.`, beginning with a letter.
    pub serial: String,
}

/// A virtio-serial port with a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Channel {
    /// The port's name in the guest's `/sys/class/virtio-ports/*/name`.
    pub port: String,
    /// The host's end.
    pub endpoint: Endpoint,
}

/// The host's end of a byte stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// QEMU binds and listens here. A peer can come too early; prefer the others.
    Path(PathBuf),
    /// A listening unix socket made beforehand with [`listen`](crate::socket::listen): peers can connect
    /// before QEMU is ready, so nobody has to retry.
    Listener(RawFd),
    /// One end of a connected pair, see [`pair`](crate::socket::pair).
    Connected(RawFd),
}

/// Where console output goes. All of it is visible to the host, so the guest must keep it free of secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Console {
    /// Nowhere.
    Discard,
    /// A file, truncated first.
    File(PathBuf),
    /// A stream. A peer that stops reading stalls the guest's writes.
    Stream(Endpoint),
}

/// What the network card is connected to. The guest sees the same card in each case, at the same place; nothing of it is
/// measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Network {
    /// QEMU's user network: no privileges, no outgoing connection, one forwarded loopback port.
    User {
        /// Port on 127.0.0.1; 0 lets the host choose, then ask [`Qmp::forwarded_port`](crate::Qmp::forwarded_port).
        host_port: u16,
        /// Port of the guest at [`GUEST_ADDRESS`].
        guest_port: u16,
    },
    /// A TAP device that somebody made beforehand for the user QEMU runs as.
    Tap {
        /// Its name.
        device: String,
        /// Whether the kernel moves the packets (`/dev/vhost-net`) instead of QEMU.
        vhost: bool,
        /// The card's address, which must be the only one of its kind where TAP devices are bridged.
        mac: [u8; 6],
    },
    /// A passt that listens on this unix socket, and forwards ports as it was told.
    Passt {
        /// The socket.
        socket: PathBuf,
    },
}

/// Where guest memory comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Placement {
    /// Pages of this size, taken from the kernel's pool at the start. Confidential machines can have none: their private
    /// pages come from guest_memfd, which takes no huge ones (Linux 6.16), and the pool would back the few shared ones.
    pub hugepages: Option<HugePages>,
    /// NUMA nodes of the host, in order; empty means any. Of a confidential machine that holds for the shared pages; the
    /// private ones come from the node of the processor that first touches them.
    pub nodes: Vec<u32>,
}

/// Sizes of huge pages on x86-64.
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
    /// The size of one, in MiB.
    #[must_use]
    pub fn mib(self) -> u32 {
        match self {
            Self::TwoMib => 2,
            Self::OneGib => 1024,
        }
    }
}

impl VmSpec {
    /// Every descriptor this machine needs, in no particular order.
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

/// Why a [`VmSpec`] cannot become a command line.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SpecError {
    /// A value would end the argument early or hide something in a log.
    #[error("{field} contains the control character {character:?}; remove it")]
    ControlCharacter {
        /// Which value.
        field: &'static str,
        /// The character.
        character: char,
    },
    /// A path that cannot be written on a command line of text.
    #[error("{field} is not valid UTF-8: {path:?}; use a path that is")]
    NotUtf8 {
        /// Which value.
        field: &'static str,
        /// The path.
        path: PathBuf,
    },
    /// A name outside the alphabet that QEMU and the guest agree on.
    #[error(
        "{field} {name:?} must have 1 to {max} letters, digits, '-', '_' or '.', and begin with a letter"
    )]
    Name {
        /// Which value.
        field: &'static str,
        /// The name.
        name: String,
        /// Longest one allowed, in bytes.
        max: usize,
    },
    /// The guest finds disks by serial; two of the same would let the host choose.
    #[error("two disks have the serial {0:?}; give each its own")]
    DuplicateSerial(String),
    /// A number outside its range.
    #[error("{field} is {value}, allowed are {min} to {max}")]
    OutOfRange {
        /// Which value.
        field: &'static str,
        /// What was asked for.
        value: u64,
        /// Smallest.
        min: u64,
        /// Largest.
        max: u64,
    },
    /// Longer than a kernel or socket address can hold.
    #[error("{field} has {length} bytes, at most {max} fit")]
    TooLong {
        /// Which value.
        field: &'static str,
        /// Its length.
        length: usize,
        /// The limit.
        max: usize,
    },
    /// Confidential machines exist on real hardware only.
    #[error(
        "{tee} needs KVM, not emulation; start a plain machine instead and let it use the simulator"
    )]
    NeedsKvm {
        /// `TDX` or `SEV-SNP`.
        tee: &'static str,
    },
    /// Private memory is not theirs to give.
    #[error("{tee} keeps private memory in guest_memfd, which takes no huge pages: leave them out")]
    HugePagesInTee {
        /// `TDX` or `SEV-SNP`.
        tee: &'static str,
    },
    /// A part of a page cannot be had.
    #[error("{memory_mib} MiB of memory are no multiple of a huge page of {page_mib} MiB")]
    PartOfPage {
        /// Guest memory.
        memory_mib: u32,
        /// The page.
        page_mib: u32,
    },
    /// A GPU is the machine's only under a hypervisor that can hand it over.
    #[error("a GPU can be passed to a machine under KVM only, not under emulation")]
    GpuNeedsKvm,
    /// Without its own firmware nothing would be measured.
    #[error("{tee} needs a firmware file made for it; name one")]
    NeedsFirmware {
        /// `TDX` or `SEV-SNP`.
        tee: &'static str,
    },
    /// 0, 1 and 2 are the standard streams.
    #[error("{field} names descriptor {fd}; only descriptors from 3 on can be handed over")]
    Descriptor {
        /// Which value.
        field: &'static str,
        /// The descriptor.
        fd: RawFd,
    },
}
