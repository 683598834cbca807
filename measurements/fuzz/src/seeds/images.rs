//! Seeds with firmware and kernel images: small, with every structure in its real format.

use cocoon_measurements::guid::Guid;
use cocoon_measurements::guid_table::FOOTER;
use cocoon_measurements::snp::firmware::{HASH_TABLE, METADATA_OFFSET as SEV, RESET_BLOCK};
use cocoon_measurements::tdx::tdvf::METADATA_OFFSET as TDX;

/// Size of an image: one page, because SEV-SNP measures whole pages.
const SIZE: u32 = 4 << 10;
/// Offset of the descriptors, counted from the end of the image.
const FROM_END: u32 = 0x400;

/// Returns TDX firmware with a small variable store, code, and temporary memory as in OVMF.
pub fn firmware_tdx() -> Vec<Vec<u8>> {
    // Data offset and size, memory address and size, type and attributes.
    let code = section([1024, 1024], [0xffff_f000, 4096], [0, 1]);
    let store = section([0, 1024], [0xffff_e000, 4096], [1, 0]);
    let hob = section([0, 0], [0x80_9000, 0x2000], [2, 0]);
    let temporary = section([0, 0], [0x81_0000, 0x1_0000], [3, 0]);
    let later = section([0, 0], [0x90_0000, 0x1_0000], [4, 2]);
    let usual = [&code[..], &store, &hob, &temporary].concat();
    let without_store = [&code[..], &hob].concat();
    let with_later = [&usual[..], &later].concat();
    [usual, without_store, with_later]
        .iter()
        .map(|sections| image(&[(TDX, FROM_END.to_le_bytes())], *b"TDVF", sections, 32))
        .collect()
}

/// Returns SEV-SNP firmware with the sections of OVMF's AmdSev build, with and without a place for kernel hashes.
pub fn firmware_snp() -> Vec<Vec<u8>> {
    let section = |address: u32, length: u32, kind: u32| {
        [address, length, kind].map(u32::to_le_bytes).concat()
    };
    let common = [
        section(0x80_0000, 0x9000, 1),
        section(0x80_d000, 0x1000, 2),
        section(0x80_e000, 0x1000, 3),
        section(0x80_f000, 0x1000, 4),
    ]
    .concat();
    let hashed = [&common[..], &section(0x81_0000, 0x1000, 0x10)].concat();
    let reset = (RESET_BLOCK, 0x80_b004_u32.to_le_bytes());
    let metadata = (SEV, FROM_END.to_le_bytes());
    let table = (HASH_TABLE, 0x81_0c00_u32.to_le_bytes());
    vec![
        image(&[reset, metadata, table], *b"ASEV", &hashed, 12),
        image(&[reset, metadata], *b"ASEV", &common, 12),
    ]
}

/// Returns a PE32+ image with a section, trailing data and certificates, and a PE32 image without data directories.
pub fn pe() -> Vec<Vec<u8>> {
    const PE: usize = 0x80;
    const OPTIONAL: usize = PE + 24;
    let build = |magic: u16, optional: u16, count_at: usize, directories: u32| {
        let mut image = vec![0x5a; 0x600];
        let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
        put(0x3c, &0x80_u32.to_le_bytes());
        put(PE, b"PE\0\0");
        put(PE + 6, &1_u16.to_le_bytes());
        put(PE + 20, &optional.to_le_bytes());
        put(OPTIONAL, &magic.to_le_bytes());
        put(OPTIONAL + 60, &0x400_u32.to_le_bytes());
        put(OPTIONAL + count_at, &directories.to_le_bytes());
        if directories > 4 {
            put(OPTIONAL + count_at + 36, &0x5c0_u32.to_le_bytes());
            put(OPTIONAL + count_at + 40, &0x40_u32.to_le_bytes());
        }
        let table = OPTIONAL + usize::from(optional);
        put(table + 16, &0x100_u32.to_le_bytes());
        put(table + 20, &0x400_u32.to_le_bytes());
        image
    };
    vec![build(0x20b, 0xf0, 108, 16), build(0x10b, 96, 92, 0)]
}

fn section(data: [u32; 2], memory: [u64; 2], kind: [u32; 2]) -> Vec<u8> {
    let mut section = data.map(u32::to_le_bytes).concat();
    section.extend(memory.map(u64::to_le_bytes).concat());
    section.extend(kind.map(u32::to_le_bytes).concat());
    section
}

/// Returns an image with `entries` in its GUID table and one descriptor of `sections`, each of `step` bytes.
fn image(entries: &[(Guid, [u8; 4])], name: [u8; 4], sections: &[u8], step: usize) -> Vec<u8> {
    let mut image: Vec<u8> = (0..=250).cycle().take(SIZE as usize).collect();
    let mut descriptor = name.to_vec();
    for field in [16 + sections.len(), 1, sections.len() / step] {
        descriptor.extend(u32::try_from(field).unwrap_or(u32::MAX).to_le_bytes());
    }
    descriptor.extend(sections);
    let place = (SIZE - FROM_END) as usize;
    image[place..place + descriptor.len()].copy_from_slice(&descriptor);
    let mut table = Vec::new();
    for (guid, value) in entries {
        table.extend(value);
        table.extend(22_u16.to_le_bytes());
        table.extend(guid.0);
    }
    table.extend(
        u16::try_from(table.len() + 18)
            .unwrap_or(u16::MAX)
            .to_le_bytes(),
    );
    table.extend(FOOTER.0);
    let end = image.len() - 32;
    image[end - table.len()..end].copy_from_slice(&table);
    image
}
