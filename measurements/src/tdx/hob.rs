//! Predicts the hand-off blocks with which QEMU describes memory to TDX firmware, byte for byte: RTMR0's first event.
//!
//! QEMU splits the RAM map at the sections that it has already added (`hw/i386/tdvf-hob.c`,
//! `target/i386/kvm/tdx.c`); the layout of the blocks is the PI specification's, volume 3.

use thiserror::Error;

use super::tdvf::{PAGE, SectionKind, Tdvf};

/// RAM size in bytes from which QEMU's q35 splits it: 2 GiB lie below 4 GiB and the rest above. Less lies wholly below.
pub const SPLIT: u64 = 0xb000_0000;

const LOW: u64 = 0x8000_0000;
const FOUR_GIB: u64 = 1 << 32;
/// Largest memory size accepted: 64 TiB, more than any confidential VM has. Keeps addresses far from wrapping.
const MAX_MEMORY: u64 = 1 << 46;

const HANDOFF: u16 = 1;
const HANDOFF_LENGTH: u16 = 56;
const HANDOFF_VERSION: u32 = 9;
const RESOURCE_DESCRIPTOR: u16 = 3;
const RESOURCE_LENGTH: u16 = 48;
const SYSTEM_MEMORY: u32 = 0;
const UNACCEPTED_MEMORY: u32 = 7;
/// Present, initialized, tested.
const RESOURCE_ATTRIBUTES: u32 = 7;
const END_LENGTH: u64 = 8;

/// Why no hand-off blocks can be predicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum HobError {
    /// The memory size is zero, not in whole pages, or too large.
    #[error("{memory} bytes of memory: expected whole pages, at most {MAX_MEMORY} bytes")]
    Memory {
        /// Memory size in bytes.
        memory: u64,
    },
    /// The firmware needs memory that the VM does not have.
    #[error(
        "the firmware's section at {address:#x} lies outside {memory} bytes of memory: give the VM more"
    )]
    OutsideMemory {
        /// Address of the section.
        address: u64,
        /// RAM of the VM in bytes.
        memory: u64,
    },
}

/// Returns the blocks for a q35 VM with `memory` bytes of RAM exactly as they are measured, without the end block.
///
/// # Errors
/// [`HobError`] when the memory size is impossible or does not hold the firmware's sections.
pub fn td_hob(firmware: &Tdvf<'_>, memory: u64) -> Result<Vec<u8>, HobError> {
    let mut ranges = ram_map(memory)?;
    let mut base = 0;
    for section in firmware.sections() {
        match section.kind {
            SectionKind::TdHob => base = section.address,
            SectionKind::TempMem => {}
            _ => continue,
        }
        accept(&mut ranges, section.address, section.memory_size).ok_or(
            HobError::OutsideMemory {
                address: section.address,
                memory,
            },
        )?;
    }
    ranges.sort_by_key(|range| range.start);

    let descriptors: Vec<u8> = ranges.iter().flat_map(descriptor).collect();
    let end = base + u64::from(HANDOFF_LENGTH) + descriptors.len() as u64 + END_LENGTH;
    let mut blocks = handoff(end);
    blocks.extend(descriptors);
    Ok(blocks)
}

/// Returns how many of `memory` bytes q35 puts below 4 GiB.
pub(crate) const fn low_memory(memory: u64) -> u64 {
    if memory >= SPLIT { LOW } else { memory }
}

#[derive(Debug, Clone, Copy)]
struct Range {
    start: u64,
    length: u64,
    accepted: bool,
}

fn ram_map(memory: u64) -> Result<Vec<Range>, HobError> {
    if memory == 0 || !memory.is_multiple_of(PAGE) || memory > MAX_MEMORY {
        return Err(HobError::Memory { memory });
    }
    let low = low_memory(memory);
    let mut ranges = vec![Range {
        start: 0,
        length: low,
        accepted: false,
    }];
    if memory > low {
        ranges.push(Range {
            start: FOUR_GIB,
            length: memory - low,
            accepted: false,
        });
    }
    Ok(ranges)
}

/// Cuts an accepted range out of the unaccepted one around it. Returns `None` if no such range exists.
fn accept(ranges: &mut Vec<Range>, start: u64, length: u64) -> Option<()> {
    let end = start.checked_add(length)?;
    let around = ranges.iter_mut().find(|range| {
        !range.accepted && range.start <= start && end <= range.start + range.length
    })?;
    let (before, behind) = (*around, around.start + around.length);
    *around = Range {
        start,
        length,
        accepted: true,
    };
    if start > before.start {
        ranges.push(Range {
            start: before.start,
            length: start - before.start,
            accepted: false,
        });
    }
    if behind > end {
        ranges.push(Range {
            start: end,
            length: behind - end,
            accepted: false,
        });
    }
    Some(())
}

fn handoff(end: u64) -> Vec<u8> {
    let mut block = header(HANDOFF, HANDOFF_LENGTH);
    block.extend(HANDOFF_VERSION.to_le_bytes());
    // Boot mode and the four memory limits that TDVF does not use.
    block.extend([0; 4 + 4 * 8]);
    block.extend(end.to_le_bytes());
    block
}

fn descriptor(range: &Range) -> Vec<u8> {
    let kind = if range.accepted {
        SYSTEM_MEMORY
    } else {
        UNACCEPTED_MEMORY
    };
    let mut block = header(RESOURCE_DESCRIPTOR, RESOURCE_LENGTH);
    block.extend([0; 16]); // owner
    block.extend(kind.to_le_bytes());
    block.extend(RESOURCE_ATTRIBUTES.to_le_bytes());
    block.extend(range.start.to_le_bytes());
    block.extend(range.length.to_le_bytes());
    block
}

fn header(kind: u16, length: u16) -> Vec<u8> {
    let mut header = Vec::with_capacity(length.into());
    header.extend(kind.to_le_bytes());
    header.extend(length.to_le_bytes());
    header.extend([0; 4]); // reserved
    header
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha384};

    use super::{HobError, td_hob};
    use crate::{tdx::tdvf::Tdvf, test_firmware::Firmware};

    fn digest(memory: u64) -> String {
        let firmware = Firmware::like_ovmf().build();
        let blocks = td_hob(&Tdvf::parse(&firmware).unwrap(), memory).unwrap();
        hex::encode(Sha384::digest(blocks))
    }

    /// The digest that real machines logged for OVMF's classic layout.
    #[test]
    fn equals_what_hardware_measured() {
        assert_eq!(
            digest(2 << 30),
            "0b8772e5b0b41b83e6044a68397e02f49fb47066b4fbe4917ea2c45c64f323fdacbb37948f821ebaf8bc9c938ba8a749"
        );
    }

    #[test]
    fn impossible_memory_is_refused() {
        let firmware = Firmware::like_ovmf().build();
        let tdvf = Tdvf::parse(&firmware).unwrap();
        for memory in [0, 4097, !4095] {
            assert_eq!(td_hob(&tdvf, memory), Err(HobError::Memory { memory }));
        }
        assert_eq!(
            td_hob(&tdvf, 8 << 20),
            Err(HobError::OutsideMemory {
                address: 0x81_0000,
                memory: 8 << 20
            })
        );
    }
}
