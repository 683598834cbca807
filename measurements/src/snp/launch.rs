//! The launch digest: what the secure processor measures while QEMU builds an SNP guest.
//!
//! SEV-SNP firmware ABI 56860, section 8.17 (`SNP_LAUNCH_UPDATE`, page info structure); the pages and their order
//! are QEMU's (`target/i386/sev.c`). RAM size, ACPI and devices are not part of it.

use sha2::{Digest, Sha256, Sha384};
use thiserror::Error;

use super::{
    cpu::CpuModel,
    firmware::{SectionKind, SnpFirmware},
    vmsa,
};
use crate::guid::Guid;

/// QEMU's limit for q35.
pub const MAX_VCPUS: u32 = 4096;
/// `SEV_FEATURES` of a guest with SNP alone, QEMU's default.
pub const FEATURE_SNP: u64 = 1;

const PAGE: u64 = 4096;
const PAGE_LENGTH: usize = 4096;
/// The address under which state-save areas are measured, whatever their real one.
const VMSA_ADDRESS: u64 = 0xFFFF_FFFF_F000;

const TABLE: Guid = Guid::parse("9438d606-4f22-4cc9-b479-a793d411fd21");
const COMMAND_LINE: Guid = Guid::parse("97d02dd8-bd20-4c94-aa78-e7714d36ab2a");
const INITRD: Guid = Guid::parse("44baf731-3a2f-4bd7-9af1-41e29169781d");
const KERNEL: Guid = Guid::parse("4de79437-abd2-427f-b835-d5b172d2045b");

/// SHA-256 of what a direct boot loads, as QEMU puts them into the firmware's page (`kernel-hashes=on`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelHashes {
    /// Of the whole kernel file.
    pub kernel: [u8; 32],
    /// Of the initrd; of nothing when there is none.
    pub initrd: [u8; 32],
    /// Of the command line with its closing NUL.
    pub command_line: [u8; 32],
}

impl KernelHashes {
    /// Hashes the artefacts as QEMU reads them.
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

    /// The page with the table at `address` within it.
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

/// The virtual processors: their number, model and features all change the digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vcpus {
    /// How many.
    pub count: u32,
    /// QEMU's model.
    pub model: CpuModel,
    /// `SEV_FEATURES`: [`FEATURE_SNP`], with what the host's KVM and QEMU add.
    pub guest_features: u64,
}

/// Why there is no launch digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum LaunchError {
    /// No processor, or more than QEMU allows.
    #[error("{count} virtual processors: 1 to {MAX_VCPUS} expected")]
    VcpuCount {
        /// How many were asked for.
        count: u32,
    },
    /// The firmware has no place for the hashes, so it would not check the kernel.
    #[error("the firmware does not check kernel hashes: use one built from edk2's AmdSev platform")]
    NoKernelHashes,
    /// The table of hashes does not lie within the firmware's page for it.
    #[error("the firmware's kernel hash table at {address:#x} does not fit its page")]
    HashTablePlace {
        /// Guest-physical address of the table.
        address: u64,
    },
}

/// The launch digest of `firmware` with `kernel` (or without any) on `vcpus`.
///
/// # Errors
/// [`LaunchError`] when the firmware cannot take a kernel, or the processors are none or too many.
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

/// The digest of the page with the kernel's hashes.
fn hashes_page(firmware: &SnpFirmware, kernel: &KernelHashes) -> Result<[u8; 48], LaunchError> {
    let (Some(section), Some(address)) = (firmware.kernel_hashes(), firmware.hash_table) else {
        return Err(LaunchError::NoKernelHashes);
    };
    if address / PAGE != section.address / PAGE {
        return Err(LaunchError::HashTablePlace { address });
    }
    Ok(Sha384::digest(kernel.page(address)?).into())
}

/// A page as the secure processor measures it; the digests are of its 4096 bytes.
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
        // Type; not an initial-migration image; no permissions for the other privilege levels; reserved.
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
