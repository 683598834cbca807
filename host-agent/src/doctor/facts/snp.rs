//! SEV-SNP as a host sees it: firmware, kernel, secure processor.
//!
//! Where each comes from: CPUID as AMD's APM volume 3, appendix E, describes it (leaf 8000001F), KVM's module parameters,
//! what the kernel logs (`arch/x86/virt/svm/sev.c`, `drivers/crypto/ccp/sev-dev.c`, `drivers/iommu/amd/init.c`), and
//! the tool `snphost` where it is installed.

use cocoon_measurements::snp::report::TcbVersion;

use super::super::source::{Refusal, World};
use super::host::Kernel;
use super::parameter;

/// The leaf of memory encryption.
const ENCRYPTION: u32 = 0x8000_001f;

/// The secure processor's patch levels, from `snphost show tcb`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnpTcb {
    /// What reports say.
    pub reported: TcbVersion,
}

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
    /// The firmware's interface, such as `1.55 build:24`.
    pub firmware: Option<String>,
    /// Patch levels.
    pub tcb: Option<SnpTcb>,
}

/// What the kernel logs when it gives SNP up.
const REFUSALS: [&str; 3] = [
    "SNP cannot be supported",
    "RMP table has not been reserved by BIOS",
    "RMP table not covered",
];

impl Snp {
    pub(super) fn read(world: &dyn World, kernel: &Kernel) -> Self {
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
        Self {
            kvm: ["sev", "sev_es", "sev_snp"].map(|name| parameter(world, "kvm_amd", name)),
            device: world.open("/dev/sev"),
            cbitpos: ebx & 0x3f,
            reduced_phys_bits: ebx >> 6 & 0x3f,
            min_sev_asid: edx,
            refused: refused.map(str::to_owned),
            firmware,
            tcb: world
                .run(&["snphost", "show", "tcb"])
                .ok()
                .filter(|ran| ran.success)
                .and_then(|ran| tcb(&ran.output)),
        }
    }
}

/// The reported levels in the words of `snphost`.
fn tcb(text: &str) -> Option<SnpTcb> {
    let (_, reported) = text.split_once("Reported TCB")?;
    let reported = reported.split("Platform TCB").next()?;
    let level = |name: &str| -> Option<u8> {
        let line = reported
            .lines()
            .find_map(|line| line.trim().strip_prefix(name))?;
        line.trim().parse().ok()
    };
    Some(SnpTcb {
        reported: TcbVersion {
            fmc: level("FMC:"),
            bootloader: level("Boot Loader:")?,
            tee: level("TEE:")?,
            snp: level("SNP:")?,
            microcode: level("Microcode:")?,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patch_levels_are_the_reported_ones() {
        // As AMD's tool prints them.
        let text = "Reported TCB: TCB Version:\n  Microcode:   84\n  SNP:         23\n  TEE:         0\n  \
                    Boot Loader: 10\n  FMC:         None\nPlatform TCB: TCB Version:\n  Microcode:   85\n";
        let reported = TcbVersion {
            fmc: None,
            bootloader: 10,
            tee: 0,
            snp: 23,
            microcode: 84,
        };
        assert_eq!(tcb(text), Some(SnpTcb { reported }));
        assert_eq!(tcb(&text.replace("SNP: ", "SNQ: ")), None);
        assert_eq!(tcb("no"), None);
    }
}
