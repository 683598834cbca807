//! The launch digest: the secure processor's measurement of an SNP guest that QEMU builds.
//!
//! The page info structure is that of the SEV-SNP firmware ABI 56860, section 8.17 (`SNP_LAUNCH_UPDATE`). The pages and
//! their order are QEMU's (`target/i386/sev.c`). RAM size, ACPI and devices are not measured.

use sha2::{Digest, Sha256, Sha384};
use thiserror::Error;

use super::{
    cpu::CpuModel,
    firmware::{SectionKind, SnpFirmware},
    vmsa,
};
use crate::guid::Guid;

/// Largest number of virtual processors: QEMU's limit for q35.
pub const MAX_VCPUS: u32 = 4096;
/// `SEV_FEATURES` of a guest with only SNP, which is QEMU's default.
pub const FEATURE_SNP: u64 = 1;

const PAGE: u64 = 4096;
const PAGE_LENGTH: usize = 4096;
/// Address under which all save areas are measured, regardless of their real address.
const VMSA_ADDRESS: u64 = 0xFFFF_FFFF_F000;

const TABLE: Guid = Guid::parse("9438d606-4f22-4cc9-b479-a793d411fd21");
const COMMAND_LINE: Guid = Guid::parse("97d02dd8-bd20-4c94-aa78-e7714d36ab2a");
const INITRD: Guid = Guid::parse("44baf731-3a2f-4bd7-9af1-41e29169781d");
const KERNEL: Guid = Guid::parse("4de79437-abd2-427f-b835-d5b172d2045b");

/// SHA-256 digests of the files of a direct kernel boot, which QEMU puts into the firmware's page (`kernel-hashes=on`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelHashes {
    /// Digest of the whole kernel file.
    pub kernel: [u8; 32],
    /// Digest of the initrd, or of the empty string without an initrd.
    pub initrd: [u8; 32],
    /// Digest of the command line with its terminating NUL.
    pub command_line: [u8; 32],
}

impl KernelHashes {
    /// Hashes the files as QEMU reads them.
    #[must_use]
    pub fn of(kernel: &[u8], initrd: Option<&[u8]>, command_line: &str) -> Self {
        Self {
            kernel: Sha256::digest(kernel).into(),
            initrd: Sha256::digest(initrd.unwrap_or_default()).into(),
            command_line: Sha256::new()
                .chain_update(command_line)
                .chain_update([0])
                .finalize()
                .into(),
        }
    }

    /// Returns the page that has the table at guest-physical `address`.
    fn page(&self, address: u64) -> Result<[u8; PAGE_LENGTH], LaunchError> {
        let mut table = TABLE.0.to_vec();
        table.extend(168_u16.to_le_bytes());
        for (name, hash) in [
            (COMMAND_LINE, self.command_line),
            (INITRD, self.initrd),
            (KERNEL, self.kernel),
        ] {
            table.extend(name.0);
            table.extend(50_u16.to_le_bytes());
            table.extend(hash);
        }
        let mut page = [0; PAGE_LENGTH];
        let place = usize::try_from(address % PAGE)
            .ok()
            .and_then(|start| page.get_mut(start..start + table.len()));
        place
            .ok_or(LaunchError::HashTablePlace { address })?
            .copy_from_slice(&table);
        Ok(page)
    }
}

/// The virtual processors. Their number, model and features all change the digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vcpus {
    /// Number of virtual processors.
    pub count: u32,
    /// QEMU's CPU model.
    pub model: CpuModel,
    /// `SEV_FEATURES`: [`FEATURE_SNP`] and the features that the host's KVM and QEMU add.
    pub guest_features: u64,
}

/// Why a launch digest cannot be computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum LaunchError {
    /// The number of processors is 0, or greater than QEMU allows.
    #[error("{count} virtual processors: 1 to {MAX_VCPUS} expected")]
    VcpuCount {
        /// The number requested.
        count: u32,
    },
    /// The firmware has no page for the hashes, so it would not check the kernel.
    #[error("the firmware does not check kernel hashes: use one built from edk2's AmdSev platform")]
    NoKernelHashes,
    /// The table of hashes does not fit the firmware's page for it.
    #[error("the firmware's kernel hash table at {address:#x} does not fit its page")]
    HashTablePlace {
        /// Guest-physical address of the table.
        address: u64,
    },
}

/// Computes the launch digest of `firmware` with `kernel`, if any, on `vcpus`.
///
/// # Errors
/// [`LaunchError`] if the firmware cannot take kernel hashes, or the number of processors is out of range.
pub fn launch_digest(
    firmware: &SnpFirmware,
    kernel: Option<&KernelHashes>,
    vcpus: &Vcpus,
) -> Result<[u8; 48], LaunchError> {
    if !(1..=MAX_VCPUS).contains(&vcpus.count) {
        return Err(LaunchError::VcpuCount { count: vcpus.count });
    }
    let hashes_page = match kernel {
        Some(kernel) => Some(hashes_page(firmware, kernel)?),
        None => None,
    };
    let mut digest = firmware.digest;
    for section in &firmware.sections {
        let pages = (0..section.length / PAGE).map(|page| section.address + page * PAGE);
        let page = match (section.kind, &hashes_page) {
            (SectionKind::KernelHashes, Some(page)) => Page::Normal(page),
            (SectionKind::SecMem | SectionKind::SvsmCallingArea | SectionKind::KernelHashes, _) => {
                Page::Zero
            }
            (SectionKind::Secrets, _) => Page::Secrets,
            (SectionKind::Cpuid, _) => Page::Cpuid,
        };
        digest = pages.fold(digest, |digest, address| {
            extend_page(&digest, page, address)
        });
    }
    let state = |eip| {
        Sha384::digest(vmsa::page(
            eip,
            vcpus.model.signature(),
            vcpus.guest_features,
        ))
        .into()
    };
    let (first, others) = (state(vmsa::RESET_EIP), state(firmware.reset_eip));
    for vcpu in 0..vcpus.count {
        let state = if vcpu == 0 { &first } else { &others };
        digest = extend_page(&digest, Page::Vmsa(state), VMSA_ADDRESS);
    }
    Ok(digest)
}

/// Returns the digest of the page with the kernel's hashes.
fn hashes_page(firmware: &SnpFirmware, kernel: &KernelHashes) -> Result<[u8; 48], LaunchError> {
    let (Some(section), Some(address)) = (firmware.kernel_hashes(), firmware.hash_table) else {
        return Err(LaunchError::NoKernelHashes);
    };
    if address / PAGE != section.address / PAGE {
        return Err(LaunchError::HashTablePlace { address });
    }
    Ok(Sha384::digest(kernel.page(address)?).into())
}

/// A page as the secure processor measures it, by the digest of its 4096 bytes where they are measured.
#[derive(Clone, Copy)]
pub(super) enum Page<'a> {
    Normal(&'a [u8; 48]),
    Vmsa(&'a [u8; 48]),
    Zero,
    Secrets,
    Cpuid,
}

pub(super) fn extend_page(digest: &[u8; 48], page: Page<'_>, address: u64) -> [u8; 48] {
    const LENGTH: u16 = 0x70;
    let (kind, contents) = match page {
        Page::Normal(contents) => (1, contents),
        Page::Vmsa(contents) => (2, contents),
        Page::Zero => (3, &[0; 48]),
        Page::Secrets => (5, &[0; 48]),
        Page::Cpuid => (6, &[0; 48]),
    };
    Sha384::new()
        .chain_update(digest)
        .chain_update(contents)
        .chain_update(LENGTH.to_le_bytes())
        // Type; not an initial migration image; no permissions for the other privilege levels; reserved.
        .chain_update([kind, 0, 0, 0, 0, 0])
        .chain_update(address.to_le_bytes())
        .finalize()
        .into()
}

#[cfg(test)]
pub(super) mod tests {
    use super::{FEATURE_SNP, KernelHashes, LaunchError, Vcpus, launch_digest};
    use crate::{
        snp::firmware::{HASH_TABLE, RESET_BLOCK, SnpFirmware},
        test_firmware::Firmware,
    };

    pub(in crate::snp) fn firmware() -> Firmware {
        let mut firmware = Firmware::small();
        firmware.sev = vec![
            (0x80_0000, 0x9000, 1),
            (0x80_d000, 4096, 2),
            (0x80_e000, 4096, 3),
            (0x81_0000, 4096, 0x10),
        ];
        firmware.entries = vec![
            (RESET_BLOCK, 0x80_b004_u32.to_le_bytes().to_vec()),
            (
                HASH_TABLE,
                [0x81_0c00_u32.to_le_bytes(), 0x400_u32.to_le_bytes()].concat(),
            ),
        ];
        firmware
    }

    fn vcpus(count: u32, model: &str, guest_features: u64) -> Vcpus {
        Vcpus {
            count,
            model: model.parse().unwrap(),
            guest_features,
        }
    }

    #[test]
    fn everything_that_is_measured_changes_the_digest() {
        let firmware = SnpFirmware::parse(&firmware().build()).unwrap();
        let kernel = KernelHashes::of(b"kernel", Some(b"initrd"), "a=b");
        let usual = vcpus(2, "EPYC-v4", FEATURE_SNP);
        let mut digests = vec![launch_digest(&firmware, None, &usual).unwrap()];
        for kernel in [
            kernel,
            KernelHashes::of(b"kerneL", Some(b"initrd"), "a=b"),
            KernelHashes::of(b"kernel", None, "a=b"),
            KernelHashes::of(b"kernel", Some(b"initrd"), "a=c"),
        ] {
            digests.push(launch_digest(&firmware, Some(&kernel), &usual).unwrap());
        }
        for vcpus in [
            vcpus(1, "EPYC-v4", 1),
            vcpus(2, "EPYC-Milan", 1),
            vcpus(2, "EPYC-v4", 0x21),
        ] {
            digests.push(launch_digest(&firmware, Some(&kernel), &vcpus).unwrap());
        }
        let all = digests.len();
        digests.sort_unstable();
        digests.dedup();
        assert_eq!(digests.len(), all);
    }

    #[test]
    fn what_cannot_be_launched_is_named() {
        let parsed = SnpFirmware::parse(&firmware().build()).unwrap();
        let kernel = KernelHashes::of(b"kernel", None, "");
        let launch = |firmware: &SnpFirmware, count| {
            launch_digest(firmware, Some(&kernel), &vcpus(count, "EPYC", FEATURE_SNP)).unwrap_err()
        };
        assert_eq!(launch(&parsed, 0), LaunchError::VcpuCount { count: 0 });
        assert_eq!(
            launch(&parsed, 4097),
            LaunchError::VcpuCount { count: 4097 }
        );
        let without = SnpFirmware {
            hash_table: None,
            ..parsed.clone()
        };
        assert_eq!(launch(&without, 1), LaunchError::NoKernelHashes);
        for address in [0x81_0ff0, 0x82_0000] {
            let elsewhere = SnpFirmware {
                hash_table: Some(address),
                ..parsed.clone()
            };
            assert_eq!(
                launch(&elsewhere, 1),
                LaunchError::HashTablePlace { address }
            );
        }
    }
}
