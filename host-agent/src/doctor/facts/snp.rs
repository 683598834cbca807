//! The host's support for SEV-SNP: firmware, kernel and secure processor.
//!
//! Sources: CPUID (AMD APM volume 3, appendix E, leaf 8000001F), KVM's module parameters, the kernel's log
//! (`arch/x86/virt/svm/sev.c`, `drivers/crypto/ccp/sev-dev.c`, `drivers/iommu/amd/init.c`), and the secure processor itself.

use super::super::source::{Refusal, SnpStatus, World};
use super::host::Kernel;
use super::parameter;

/// CPUID leaf about memory encryption.
const ENCRYPTION: u32 = 0x8000_001f;

/// The host's support for SEV-SNP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snp {
    /// KVM's parameters `sev`, `sev_es` and `sev_snp`; `None` for one that does not exist.
    pub kvm: [Option<bool>; 3],
    /// Whether `/dev/sev` can be opened.
    pub device: Result<(), Refusal>,
    /// Position of the encryption bit (C-bit); 0 if CPUID does not report it.
    pub cbitpos: u32,
    /// Number of physical address bits lost to encryption.
    pub reduced_phys_bits: u32,
    /// Lowest ASID of guests without encrypted state; SNP guests use those below.
    pub min_sev_asid: u32,
    /// The kernel's message that it gave SNP up, if any.
    pub refused: Option<String>,
    /// Version of the firmware's interface as in the kernel's log, such as `1.55 build:24`.
    pub firmware: Option<String>,
    /// Status that the secure processor reports.
    pub status: Result<SnpStatus, Silence>,
}

/// Why the status of the secure processor is unknown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Silence {
    /// Not asked: only an examination asks, not a start.
    NotAsked,
    /// KVM has not set SNP up, and asking would make the kernel do so.
    NotSetUp,
    /// The request failed.
    Failed(String),
}

/// Messages that the kernel logs when it gives SNP up.
const REFUSALS: [&str; 3] = [
    "SNP cannot be supported",
    "RMP table has not been reserved by BIOS",
    "RMP table not covered",
];

impl Snp {
    pub(super) fn read(world: &dyn World, kernel: &Kernel, ask: bool) -> Self {
        // CPUID answers a leaf beyond the highest one with the data of another leaf.
        let [highest, ..] = world.cpuid(0x8000_0000);
        let [_, ebx, _, edx] = if highest >= ENCRYPTION {
            world.cpuid(ENCRYPTION)
        } else {
            [0; 4]
        };
        let refused = REFUSALS.iter().find_map(|text| kernel.logged(text));
        let firmware = kernel.logged("SEV-SNP API:").and_then(|line| {
            let (_, version) = line.split_once("SEV-SNP API:")?;
            Some(version.trim().to_owned())
        });
        let kvm = ["sev", "sev_es", "sev_snp"].map(|name| parameter(world, "kvm_amd", name));
        let status = match (ask, kvm[2]) {
            (false, _) => Err(Silence::NotAsked),
            (true, Some(true)) => world.snp_status().map_err(Silence::Failed),
            (true, _) => Err(Silence::NotSetUp),
        };
        Self {
            kvm,
            device: world.open("/dev/sev"),
            cbitpos: ebx & 0x3f,
            reduced_phys_bits: ebx >> 6 & 0x3f,
            min_sev_asid: edx,
            refused: refused.map(str::to_owned),
            firmware,
            status,
        }
    }
}
