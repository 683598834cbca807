//! Makes kernel modules for unit and integration tests: the smallest ELF files that are accepted as such.

/// Returns a minimal module: ELF header, three section headers, section names and `.modinfo`.
pub fn module(depends: &str, signed: bool) -> Vec<u8> {
    let modinfo = format!("license=GPL\0depends={depends}\0intree=Y\0");
    let names = b"\0.modinfo\0.shstrtab\0";
    let mut elf = vec![0_u8; 64 + 3 * 64];
    elf[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1]);
    let put = |elf: &mut Vec<u8>, at: usize, value: u64, size: usize| {
        elf[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
    };
    for (at, value, size) in [
        (16, 1, 2),
        (18, 62, 2),
        (20, 1, 4),
        (40, 64, 8),
        (52, 64, 2),
        (58, 64, 2),
    ] {
        put(&mut elf, at, value, size);
    }
    put(&mut elf, 60, 3, 2);
    put(&mut elf, 62, 2, 2);
    let (names_at, modinfo_at) = (elf.len() as u64, (elf.len() + names.len()) as u64);
    for (number, name, kind, at, size) in [
        (1, 1, 1, modinfo_at, modinfo.len()),
        (2, 10, 3, names_at, names.len()),
    ] {
        let header = 64 + number * 64;
        put(&mut elf, header, name, 4);
        put(&mut elf, header + 4, kind, 4);
        put(&mut elf, header + 24, at, 8);
        put(&mut elf, header + 32, size as u64, 8);
    }
    elf.extend(names);
    elf.extend(modinfo.bytes());
    if signed {
        elf.extend(b"~Module signature appended~\n");
    }
    elf
}
