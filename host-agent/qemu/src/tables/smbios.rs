//! Finds the SMBIOS table that the firmware has published in guest memory (DMTF DSP0134, chapter 5).

use super::TablesError;
use crate::qtest::{Qtest, READ_MAX};

/// Address and length of the memory in which a PC BIOS publishes its entry point.
const SEGMENT: (u64, u32) = (0xf_0000, 0x1_0000);
/// UEFI firmware publishes its entry point within this distance, in bytes, of the end of low memory.
const BELOW_END: u64 = 256 << 20;
const ALIGNMENT: usize = 16;
/// Largest accepted table in bytes. QEMU's has a few hundred bytes, and some more for each 16 GiB of memory.
const TABLE_MAX: u32 = 1 << 20;
/// RAM size in MiB from which q35 places only 2 GiB below 4 GiB. Smaller RAM lies below 4 GiB entirely.
const SPLIT_MIB: u32 = 2816;

/// Returns the one table that entry points with valid checksums name.
pub(super) async fn find(qtest: &mut Qtest, memory_mib: u32) -> Result<Vec<u8>, TablesError> {
    let low_mib = if memory_mib >= SPLIT_MIB {
        2048
    } else {
        memory_mib
    };
    let end = u64::from(low_mib) << 20;
    let step = u64::from(READ_MAX);
    let mut parts = vec![SEGMENT];
    let mut at = end;
    while at > step && end - at < BELOW_END {
        at -= step;
        parts.push((at, READ_MAX));
    }
    let mut table: Option<Vec<u8>> = None;
    for (address, length) in parts {
        let memory = qtest.read(address, length).await?;
        for (at, length) in memory
            .chunks_exact(ALIGNMENT)
            .enumerate()
            .filter_map(|(index, _)| {
                entry_point(memory.get(index * ALIGNMENT..).unwrap_or_default())
            })
        {
            if length > TABLE_MAX || at + u64::from(length) > end {
                continue;
            }
            let Some(found) = whole(qtest.read(at, length).await?) else {
                continue;
            };
            match &table {
                Some(other) if *other != found => return Err(TablesError::SeveralSmbios),
                _ => table = Some(found),
            }
        }
    }
    table.ok_or(TablesError::NoSmbios)
}

/// Returns address and greatest length of the table, if `bytes` begin with an entry point of either kind.
fn entry_point(bytes: &[u8]) -> Option<(u64, u32)> {
    let sums_up = |length: usize| {
        let bytes = bytes.get(..length)?;
        let sum = bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
        (sum == 0).then_some(())
    };
    let (address, length) = if bytes.starts_with(b"_SM3_") {
        sums_up((*bytes.get(6)?).into())?;
        let length = u32::from_le_bytes(*bytes.get(0x0c..)?.first_chunk()?);
        (
            u64::from_le_bytes(*bytes.get(0x10..)?.first_chunk()?),
            length,
        )
    } else if bytes.starts_with(b"_SM_") && bytes.get(0x10..0x15)? == b"_DMI_" {
        sums_up((*bytes.get(5)?).into())?;
        let length = u16::from_le_bytes(*bytes.get(0x16..)?.first_chunk()?);
        (
            u32::from_le_bytes(*bytes.get(0x18..)?.first_chunk()?).into(),
            length.into(),
        )
    } else {
        return None;
    };
    (address != 0 && length != 0).then_some((address, length))
}

/// Returns the structures up to and including the end-of-table structure, without any bytes after it.
fn whole(mut table: Vec<u8>) -> Option<Vec<u8>> {
    const END_OF_TABLE: u8 = 127;
    let mut at = 0;
    loop {
        let rest = table.get(at..)?;
        let (kind, length) = (*rest.first()?, usize::from(*rest.get(1)?));
        let strings = rest.get(length..).filter(|_| length >= 4)?;
        let end = strings.windows(2).position(|pair| pair == [0, 0])?;
        at += length + end + 2;
        if kind == END_OF_TABLE {
            table.truncate(at);
            return Some(table);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summed(mut entry: Vec<u8>, checksum: usize) -> Vec<u8> {
        let sum = entry.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
        entry[checksum] = entry[checksum].wrapping_sub(sum);
        entry
    }

    fn old() -> Vec<u8> {
        let mut entry = b"_SM_\0\x1f\x02\x08".to_vec();
        entry.resize(16, 0);
        entry.extend(b"_DMI_\0");
        entry.extend([0x89, 1, 0, 0x90, 0x36, 0x3c, 9, 0, 0x28]);
        summed(entry, 4)
    }

    fn new() -> Vec<u8> {
        let mut entry = b"_SM3_\0\x18\x03\0\0\x01\0".to_vec();
        entry.extend(0x1234_u32.to_le_bytes());
        entry.extend(0x1_0000_0000_u64.to_le_bytes());
        summed(entry, 5)
    }

    #[test]
    fn both_entry_points_are_read_when_their_sums_hold() {
        assert_eq!(entry_point(&old()), Some((0x3c36_9000, 0x189)));
        assert_eq!(entry_point(&new()), Some((0x1_0000_0000, 0x1234)));
        for entry in [old(), new()] {
            for at in 0..entry.len() {
                let mut other = entry.clone();
                other[at] ^= 0x10;
                assert_eq!(entry_point(&other), None, "byte {at}");
            }
            assert_eq!(entry_point(&entry[..entry.len() - 1]), None);
        }
    }

    #[test]
    fn a_table_ends_where_it_says() {
        let table = b"\x01\x05\0\0\x01QEMU\0\0\x7f\x04\0\0\0\0".to_vec();
        let longer = [table.clone(), vec![7; 9]].concat();
        assert_eq!(whole(longer), Some(table.clone()));
        assert_eq!(whole(table[..table.len() - 1].to_vec()), None);
        assert_eq!(whole(b"\x01\x03\0\0\0".to_vec()), None);
    }
}
