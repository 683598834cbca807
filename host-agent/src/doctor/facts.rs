//! What is known of a machine, as plain values: read once, then judged by pure functions.

use std::net::SocketAddr;
use std::path::PathBuf;

use cocoon_qemu::find::Version;

use super::source::{Refusal, World};

mod cpu;
mod gpu;
mod host;
mod snp;
mod tdx;

pub use cpu::Cpu;
pub use gpu::{CcMode, DEVICES, Gpu, Gpus, Look, Modes, model};
pub use host::{Clock, Host, Kernel, Release};
pub use snp::{Silence, Snp};
pub use tdx::{QGS_SOCKET, Quotes, Registration, Tdx};

/// What an operator wants to run, which determines what the machine must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Guest memory in MiB.
    pub memory_mib: u32,
    /// Public address; `None` if the VM holds it already.
    pub listen: Option<SocketAddr>,
    /// Whether the image needs a GPU.
    pub gpu: bool,
    /// Whether to ask the secure processor for its status, which a start does not need.
    pub examine: bool,
    /// Cache folder, if there is one.
    pub cache: Option<PathBuf>,
}

/// The QEMU that would be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QemuFacts {
    /// A usable QEMU.
    Found {
        /// Version of QEMU.
        version: Version,
        /// Description of where it was found.
        what: String,
        /// Types listed by `-object help`; `None` if it printed none.
        objects: Option<Vec<String>>,
    },
    /// This machine has no QEMU that is new enough; a private copy would be fetched at the first start.
    Private {
        /// Why this machine's QEMU is not usable.
        reason: String,
    },
    /// The named QEMU is unusable.
    Unusable {
        /// Why it is unusable.
        reason: String,
    },
}

/// Whether KVM runs the image's kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tried {
    /// Not tried, because no image was named.
    NoImage,
    /// Not tried, because this machine has no QEMU.
    NoQemu,
    /// Tried.
    Yes {
        /// Whether the kernel ran.
        works: bool,
        /// Description of the outcome.
        reason: String,
    },
}

/// Everything that is known of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The processor.
    pub cpu: Cpu,
    /// Kernel, memory, limits, clock, ports, disk.
    pub host: Host,
    /// Whether `/dev/kvm` can be opened.
    pub kvm: Result<(), Refusal>,
    /// Whether KVM works.
    pub kvm_tried: Tried,
    /// The QEMU that would be used.
    pub qemu: QemuFacts,
    /// The host's support for TDX.
    pub tdx: Tdx,
    /// The host's support for SEV-SNP.
    pub snp: Snp,
    /// GPUs, and what is needed to pass one through.
    pub gpus: Gpus,
}

impl Facts {
    /// Examines `world`. The caller provides `qemu` and `kvm_tried`, which need a running process.
    pub fn read(world: &dyn World, wanted: &Wanted, qemu: QemuFacts, kvm_tried: Tried) -> Self {
        let host = Host::read(world, wanted);
        let look = match wanted.gpu {
            true => Look::Everywhere,
            false => Look::Nowhere,
        };
        let modes = match (wanted.gpu, wanted.examine) {
            (true, _) => Modes::Asked,
            (false, true) => Modes::Told,
            (false, false) => Modes::Ignored,
        };
        Self {
            cpu: Cpu::read(world),
            kvm: world.open("/dev/kvm"),
            kvm_tried,
            qemu,
            tdx: Tdx::read(world, &host.kernel),
            snp: Snp::read(world, &host.kernel, wanted.examine),
            gpus: Gpus::read(world, look, modes),
            host,
        }
    }
}

/// Reads a boolean module parameter: `Y` or `N`, on older kernels 1 or 0. Returns `None` if it does not exist.
fn parameter(world: &dyn World, module: &str, name: &str) -> Option<bool> {
    let text = world.text(&format!("/sys/module/{module}/parameters/{name}"))?;
    Some(matches!(text.as_str(), "Y" | "1"))
}
