//! Synthetic firmware images for tests: small, but with every structure in its real format.

use crate::{guid::Guid, guid_table::FOOTER, tdx::tdvf::METADATA_OFFSET};

/// One TDVF section, whose fields may be invalid.
#[derive(Clone, Debug)]
pub(crate) struct TdxSection {
    pub data_offset: u32,
    pub raw_size: u32,
    pub address: u64,
    pub memory_size: u64,
    pub kind: u32,
    pub attributes: u32,
}

/// An image under construction.
#[derive(Clone)]
pub(crate) struct Firmware {
    pub size: usize,
    pub tdx: Vec<TdxSection>,
    /// SEV metadata sections: address, length, type.
    pub sev: Vec<(u32, u32, u32)>,
    pub entries: Vec<(Guid, Vec<u8>)>,
}

const fn section(
    data: (u32, u32),
    address: u64,
    memory_size: u64,
    kind: u32,
    attributes: u32,
) -> TdxSection {
    TdxSection {
        data_offset: data.0,
        raw_size: data.1,
        address,
        memory_size,
        kind,
        attributes,
    }
}

impl Firmware {
    /// An image of 16 KiB: two pages of variable store, two of code.
    pub(crate) fn small() -> Self {
        let tdx = vec![
            section((8192, 8192), 0xffff_e000, 8192, 0, 1),
            section((0, 8192), 0xffff_c000, 8192, 1, 0),
            section((0, 0), 0x80_9000, 0x2000, 2, 0),
            section((0, 0), 0x81_0000, 0x1_0000, 3, 0),
        ];
        Self {
            size: 16384,
            tdx,
            sev: Vec::new(),
            entries: Vec::new(),
        }
    }

    /// The memory layout of OVMF up to stable202411 and of IntelTdx builds.
    pub(crate) fn like_ovmf() -> Self {
        let mut firmware = Self::small();
        firmware.tdx.truncate(2);
        firmware.tdx.extend([
            section((0, 0), 0x81_0000, 0x1_0000, 3, 0),
            section((0, 0), 0x80_b000, 0x2000, 3, 0),
            section((0, 0), 0x80_9000, 0x2000, 2, 0),
            section((0, 0), 0x80_0000, 0x6000, 3, 0),
        ]);
        firmware
    }

    pub(crate) fn build(&self) -> Vec<u8> {
        let mut image: Vec<u8> = (0..=250).cycle().take(self.size).collect();
        let mut entries = self.entries.clone();
        let mut descriptors = Vec::new();
        let place = self.size - 0x800;
        if !self.tdx.is_empty() {
            entries.push((METADATA_OFFSET, distance(self.size - place)));
            descriptors.extend(self.tdx_descriptor());
        }
        if !self.sev.is_empty() {
            let at = place + descriptors.len();
            entries.push((
                crate::snp::firmware::METADATA_OFFSET,
                distance(self.size - at),
            ));
            descriptors.extend(self.sev_descriptor());
        }
        image[place..place + descriptors.len()].copy_from_slice(&descriptors);
        let entries: Vec<(Guid, &[u8])> = entries
            .iter()
            .map(|(guid, data)| (*guid, data.as_slice()))
            .collect();
        let table = guid_table(&entries);
        let end = self.size - 32;
        image[end - table.len()..end].copy_from_slice(&table);
        image
    }

    fn tdx_descriptor(&self) -> Vec<u8> {
        let mut descriptor = b"TDVF".to_vec();
        for field in [16 + 32 * self.tdx.len(), 1, self.tdx.len()] {
            descriptor.extend(u32::try_from(field).unwrap().to_le_bytes());
        }
        for s in &self.tdx {
            descriptor.extend([s.data_offset.to_le_bytes(), s.raw_size.to_le_bytes()].concat());
            descriptor.extend([s.address.to_le_bytes(), s.memory_size.to_le_bytes()].concat());
            descriptor.extend([s.kind.to_le_bytes(), s.attributes.to_le_bytes()].concat());
        }
        descriptor
    }

    fn sev_descriptor(&self) -> Vec<u8> {
        let mut descriptor = b"ASEV".to_vec();
        for field in [16 + 12 * self.sev.len(), 1, self.sev.len()] {
            descriptor.extend(u32::try_from(field).unwrap().to_le_bytes());
        }
        for (address, length, kind) in &self.sev {
            descriptor.extend(
                [
                    address.to_le_bytes(),
                    length.to_le_bytes(),
                    kind.to_le_bytes(),
                ]
                .concat(),
            );
        }
        descriptor
    }
}

fn distance(bytes: usize) -> Vec<u8> {
    u32::try_from(bytes).unwrap().to_le_bytes().to_vec()
}

/// Encodes a GUIDed table of `entries`, with its footer.
pub(crate) fn guid_table(entries: &[(Guid, &[u8])]) -> Vec<u8> {
    let mut table = Vec::new();
    for (guid, data) in entries {
        table.extend(*data);
        table.extend(u16::try_from(data.len() + 18).unwrap().to_le_bytes());
        table.extend(guid.0);
    }
    table.extend(u16::try_from(table.len() + 18).unwrap().to_le_bytes());
    table.extend(FOOTER.0);
    table
}
