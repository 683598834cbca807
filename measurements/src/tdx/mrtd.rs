//! MRTD: the digest of the pages that the loader adds before a trust domain starts.
//!
//! The TDX module extends one SHA-384 stream at every `TDH.MEM.PAGE.ADD` and `TDH.MR.EXTEND` (TDX Module Base
//! Architecture 348549, "TD measurement"). The module fixes what is hashed, the loader fixes the order.

use sha2::{Digest, Sha384};

use super::tdvf::{ATTRIBUTE_AUG, ATTRIBUTE_EXTEND, PAGE, Section, Tdvf};

/// Bytes that one `TDH.MR.EXTEND` measures.
const CHUNK: usize = 256;

/// The order in which the loader adds and measures pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum PageOrder {
    /// Each page is added, then measured: upstream KVM (Linux 6.16 or later) with QEMU 10.1 or later.
    #[default]
    SinglePass,
    /// All pages of a section are added, then all are measured: the older stacks outside the upstream trees
    /// (Ubuntu 24.04's QEMU 8.2.2).
    TwoPass,
}

/// Returns the MRTD that hardware computes for `firmware` loaded in `order`.
#[must_use]
pub fn mrtd(firmware: &Tdvf<'_>, order: PageOrder) -> [u8; 48] {
    let mut hash = Sha384::new();
    // Pages that are added later are not measured, and nothing bounds their number.
    let added = |section: &&Section| section.attributes & ATTRIBUTE_AUG == 0;
    for section in firmware.sections().iter().filter(added) {
        let pages = || (section.address..section.address + section.memory_size).step_by(PAGE_STEP);
        match order {
            PageOrder::SinglePass => pages().for_each(|page| {
                add(&mut hash, page);
                extend(&mut hash, firmware, section, page);
            }),
            PageOrder::TwoPass => {
                pages().for_each(|page| add(&mut hash, page));
                pages().for_each(|page| extend(&mut hash, firmware, section, page));
            }
        }
    }
    hash.finalize().into()
}

const PAGE_STEP: usize = 4096;
const _: () = assert!(PAGE_STEP as u64 == PAGE, "one page at a time");

fn add(hash: &mut Sha384, page: u64) {
    record(hash, b"MEM.PAGE.ADD", page);
}

fn extend(hash: &mut Sha384, firmware: &Tdvf<'_>, section: &Section, page: u64) {
    if section.attributes & ATTRIBUTE_EXTEND == 0 {
        return;
    }
    let data = firmware.data(section);
    for address in (page..page + PAGE).step_by(CHUNK) {
        record(hash, b"MR.EXTEND", address);
        let mut chunk = [0; CHUNK];
        let behind = usize::try_from(address - section.address)
            .ok()
            .and_then(|start| data.get(start..));
        for (to, from) in chunk.iter_mut().zip(behind.unwrap_or_default()) {
            *to = *from;
        }
        hash.update(chunk);
    }
}

/// Hashes the 128-byte record of an operation: its name, the address, zeroes.
fn record(hash: &mut Sha384, operation: &[u8], address: u64) {
    let mut record = [0; 128];
    record[..operation.len()].copy_from_slice(operation);
    record[16..24].copy_from_slice(&address.to_le_bytes());
    hash.update(record);
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha384};

    use super::{PageOrder, add, extend, mrtd};
    use crate::{
        tdx::tdvf::Tdvf,
        test_firmware::{Firmware, TdxSection},
    };

    #[test]
    fn the_orders_differ_and_every_measured_byte_counts() {
        let mut firmware = Firmware::small().build();
        let value = |image: &[u8], order| mrtd(&Tdvf::parse(image).unwrap(), order);
        let single = value(&firmware, PageOrder::SinglePass);
        assert_ne!(single, value(&firmware, PageOrder::TwoPass));
        // Offset 8192 is the first byte of the boot volume, offset 0 of the variable store, which is not measured.
        firmware[0] ^= 1;
        assert_eq!(single, value(&firmware, PageOrder::SinglePass));
        firmware[8192] ^= 1;
        assert_ne!(single, value(&firmware, PageOrder::SinglePass));
    }

    /// Memory that is added later is not measured. Its size, which nothing bounds, costs no time.
    #[test]
    fn what_is_added_later_leaves_no_trace() {
        let mut firmware = Firmware::small();
        let without = firmware.build();
        firmware.tdx.push(TdxSection {
            data_offset: 0,
            raw_size: 0,
            address: 0x1_0000_0000,
            memory_size: 1 << 62,
            kind: 4,
            attributes: 2,
        });
        let with = firmware.build();
        // The metadata are measured, so the values differ. The point is that they are computed in reasonable time.
        for order in [PageOrder::SinglePass, PageOrder::TwoPass] {
            let value = |image: &[u8]| mrtd(&Tdvf::parse(image).unwrap(), order);
            assert_ne!(value(&with), value(&without));
        }
        let mut known = Sha384::new();
        let tdvf = Tdvf::parse(&with).unwrap();
        for section in &tdvf.sections()[..4] {
            for page in (section.address..section.address + section.memory_size).step_by(4096) {
                add(&mut known, page);
                extend(&mut known, &tdvf, section, page);
            }
        }
        assert_eq!(
            mrtd(&tdvf, PageOrder::SinglePass),
            <[u8; 48]>::from(known.finalize())
        );
    }

    /// Compares with the stream written out by hand, for firmware with two measured pages.
    #[test]
    fn follows_the_module_specification() {
        let image = Firmware::small().build();
        let tdvf = Tdvf::parse(&image).unwrap();
        let mut stream = Vec::new();
        for section in tdvf.sections() {
            for page in 0..section.memory_size / 4096 {
                let address = section.address + page * 4096;
                stream.extend(b"MEM.PAGE.ADD\0\0\0\0");
                stream.extend(address.to_le_bytes());
                stream.extend([0; 104]);
                for chunk in (0..16).filter(|_| section.attributes == 1) {
                    stream.extend(b"MR.EXTEND\0\0\0\0\0\0\0");
                    stream.extend((address + chunk * 256).to_le_bytes());
                    stream.extend([0; 104]);
                    let start =
                        section.data_offset + usize::try_from(page * 4096 + chunk * 256).unwrap();
                    stream.extend(&image[start..start + 256]);
                }
            }
        }
        assert_eq!(
            mrtd(&tdvf, PageOrder::SinglePass),
            <[u8; 48]>::from(Sha384::digest(stream))
        );
    }
}
