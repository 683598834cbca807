//! SEV-SNP as a host sees it: firmware, kernel, secure processor.
//!
//! Where each comes from: CPUID as AMD's APM volume 3, appendix E, describes it (leaf 8000001F), KVM's module parameters,
//! what the kernel logs (`arch/x86/virt/svm/sev.c`, `drivers/crypto/ccp/sev-dev.c`, `drivers/iommu/amd/init.c`), and
//! the secure processor itself.

use super::super::source::{Refusal, SnpStatus, World};
use super::host::Kernel;
use super::parameter;

/// The leaf of memory encryption.
const ENCRYPTION: u32 = 0x8000_001f;

/// Everything of SEV-SNP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snp {
    /// KVM's parameters `sev`, `sev_es` and `sev_snp`; `None` when they are not there.
    pub kvm: [Option<bool>; 3],
    /// `/dev/sev`.
    pub device: Result<(), Refusal>,
    /// Position of the encryption bit; 0 where the processor says nothing.
    pub cbitpos: u32,
    /// Address bits lost to encryption.
    pub reduced_phys_bits: u32,
    /// Lowest ASID of guests without encrypted state: SNP guests have those below it.
    pub min_sev_asid: u32,
    /// What the kernel says against SNP, if anything.
    pub refused: Option<String>,
    /// The firmware's interface as the kernel logs it, such as `1.55 build:24`.
    pub firmware: Option<String>,
    /// What the secure processor says.
    pub status: Result<SnpStatus, Silence>,
}

/// Why the secure processor says nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Silence {
    /// Only an examination asks; a start does without.
    NotAsked,
    /// KVM has not set SNP up: the question alone would have the kernel do it.
    NotSetUp,
    /// It was asked.
    Failed(String),
}

/// What the kernel logs when it gives SNP up.
const REFUSALS: [&str; 3] = [
    "SNP cannot be supported",
    "RMP table has not been reserved by BIOS",
    "RMP table not covered",
];

impl Snp {
    pub(super) fn read(world: &dyn World, kernel: &Kernel, ask: bool) -> Self {
        // A leaf beyond the highest one answers with another leaf's numbers.
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
