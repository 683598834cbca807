//! What is known of a machine, as plain values: read once, judged by pure functions.

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

/// What an operator wants to run; decides what is enough.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Guest memory in MiB.
    pub memory_mib: u32,
    /// Public address; `None` where it is held for the VM already.
    pub listen: Option<SocketAddr>,
    /// Whether the image needs a GPU.
    pub gpu: bool,
    /// Whether to ask what a start does without: the secure processor's status.
    pub examine: bool,
    /// Where the cache is, if anywhere.
    pub cache: Option<PathBuf>,
}

/// The QEMU that would be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QemuFacts {
    /// It answered.
    Found {
        /// Its version.
        version: Version,
        /// Where it is, in words.
        what: String,
        /// The types of `-object help`; `None` when it did not say.
        objects: Option<Vec<String>>,
    },
    /// None on this machine that is new enough: a private copy is fetched at the first start.
    Private {
        /// Why.
        reason: String,
    },
    /// The one that was named cannot be used.
    Unusable {
        /// Why.
        reason: String,
    },
}

/// Whether KVM runs a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tried {
    /// It was not tried: that takes an image's kernel.
    NoImage,
    /// It was not tried: that takes a QEMU.
    NoQemu,
    /// It does, or does not.
    Yes {
        /// Whether it does.
        works: bool,
        /// In words.
        reason: String,
    },
}

/// Everything that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The processor.
    pub cpu: Cpu,
    /// Kernel, memory, limits, clock, ports, disk.
    pub host: Host,
    /// `/dev/kvm`.
    pub kvm: Result<(), Refusal>,
    /// Whether it works.
    pub kvm_tried: Tried,
    /// QEMU.
    pub qemu: QemuFacts,
    /// TDX as a host sees it.
    pub tdx: Tdx,
    /// SEV-SNP as a host sees it.
    pub snp: Snp,
    /// GPUs and what is needed to pass one through.
    pub gpus: Gpus,
}

impl Facts {
    /// Asks `world`; what only a started process can tell, `qemu` and `kvm_tried`, is asked by the caller.
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

/// A boolean module parameter: `Y` or `N`, on older kernels 1 or 0; `None` when there is none.
fn parameter(world: &dyn World, module: &str, name: &str) -> Option<bool> {
    let text = world.text(&format!("/sys/module/{module}/parameters/{name}"))?;
    Some(matches!(text.as_str(), "Y" | "1"))
}
