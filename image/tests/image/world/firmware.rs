//! Makes firmware, kernel and executables for tests: tiny, but with every structure in its real format.

use cocoon_measurements::guid::Guid;

const FOOTER: &str = "96b582de-1fb2-45f7-baea-a366c55a082d";
const SIZE: usize = 16384;

/// Returns TDX firmware: two pages of variable store, two of code, and TDVF metadata.
pub fn tdx() -> Vec<u8> {
    let sections: [([u32; 2], [u64; 2], [u32; 2]); 4] = [
        ([8192, 8192], [0xffff_e000, 8192], [0, 1]),
        ([0, 8192], [0xffff_c000, 8192], [1, 0]),
        ([0, 0], [0x80_9000, 0x2000], [2, 0]),
        ([0, 0], [0x81_0000, 0x1_0000], [3, 0]),
    ];
    let mut metadata = b"TDVF".to_vec();
    metadata.extend([16 + 32 * 4_u32, 1, 4].map(u32::to_le_bytes).concat());
    for (data, memory, kind) in sections {
        metadata.extend(data.map(u32::to_le_bytes).concat());
        metadata.extend(memory.map(u64::to_le_bytes).concat());
        metadata.extend(kind.map(u32::to_le_bytes).concat());
    }
    image(
        &metadata,
        &[("e47a6535-984a-4798-865e-4685a7bf8ec2", distance())],
    )
}

/// Returns SNP firmware: code, SEV metadata, and a page for the kernel's hashes.
pub fn snp() -> Vec<u8> {
    let sections: [[u32; 3]; 4] = [
        [0x80_0000, 0x9000, 1],
        [0x80_a000, 0x1000, 2],
        [0x80_d000, 0x1000, 3],
        [0x81_0000, 0x1000, 0x10],
    ];
    let mut metadata = b"ASEV".to_vec();
    metadata.extend([16 + 12 * 4_u32, 1, 4].map(u32::to_le_bytes).concat());
    for section in sections {
        metadata.extend(section.map(u32::to_le_bytes).concat());
    }
    let entries = [
        ("dc886566-984a-4798-a75e-5585a7bf67cc", distance()),
        (
            "7255371f-3a3b-4b04-927b-1da6efa8d454",
            [0x81_0c00_u32, 0x400].map(u32::to_le_bytes).concat(),
        ),
        (
            "00f771de-1a7e-4fcb-890e-68c77e2fb44e",
            0x80_b004_u32.to_le_bytes().to_vec(),
        ),
    ];
    image(&metadata, &entries)
}

/// Returns a blank variable store for [`tdx`].
pub fn varstore() -> Vec<u8> {
    let mut store = vec![0xff; 8192];
    store[40..44].copy_from_slice(b"_FVH");
    store
}

/// Returns an EFI executable with the Linux boot header.
pub fn kernel() -> Vec<u8> {
    const PE: usize = 0x80;
    const OPTIONAL: usize = PE + 24;
    let mut image = noise(9, 0x600);
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"MZ");
    put(0x3c, &0x80_u32.to_le_bytes());
    put(PE, b"PE\0\0");
    put(PE + 6, &1_u16.to_le_bytes());
    put(PE + 20, &0xf0_u16.to_le_bytes());
    put(OPTIONAL, &0x20b_u16.to_le_bytes());
    put(OPTIONAL + 60, &0x400_u32.to_le_bytes());
    put(OPTIONAL + 108, &16_u32.to_le_bytes());
    put(OPTIONAL + 112 + 32, &[0; 8]);
    put(
        OPTIONAL + 0xf0 + 16,
        &[0x100_u32.to_le_bytes(), 0x400_u32.to_le_bytes()].concat(),
    );
    put(0x202, b"HdrS");
    image
}

/// Returns a static x86-64 executable that does nothing.
pub fn executable(seed: u64, length: usize) -> Vec<u8> {
    let mut elf = noise(seed, length);
    elf[..120].fill(0);
    elf[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1]);
    for (at, value) in [
        (16, 2_u8),
        (18, 62),
        (20, 1),
        (32, 64),
        (52, 64),
        (54, 56),
        (56, 1),
        (64, 1),
    ] {
        elf[at] = value;
    }
    elf
}

/// Returns pseudorandom bytes, which are always the same for a seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[4]
    };
    std::iter::repeat_with(next).take(length).collect()
}

fn distance() -> Vec<u8> {
    0x800_u32.to_le_bytes().to_vec()
}

/// Returns an image with `metadata` 0x800 bytes before its end, and a table of GUIDs.
fn image(metadata: &[u8], entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut table = Vec::new();
    for (guid, data) in entries {
        table.extend(data);
        table.extend(u16::try_from(data.len() + 18).unwrap().to_le_bytes());
        table.extend(Guid::parse(guid).0);
    }
    table.extend(u16::try_from(table.len() + 18).unwrap().to_le_bytes());
    table.extend(Guid::parse(FOOTER).0);
    let mut image = noise(7, SIZE);
    image[SIZE - 0x800..SIZE - 0x800 + metadata.len()].copy_from_slice(metadata);
    image[SIZE - 32 - table.len()..SIZE - 32].copy_from_slice(&table);
    image
}
