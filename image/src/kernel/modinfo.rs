//! Reads a kernel module's description from the `.modinfo` section of its ELF file, and whether it is signed.

use object::read::elf::{ElfFile64, FileHeader};
use object::{Endianness, Object as _, ObjectSection as _};
use thiserror::Error;

/// End of a signed module, by which the kernel finds the signature (`include/linux/module_signature.h`).
const SIGNATURE_MARK: &[u8] = b"~Module signature appended~\n";

/// Why a file is not a module.
#[derive(Debug, Error)]
pub enum ModinfoError {
    /// The file is not ELF.
    #[error("it is not an ELF file")]
    Elf(#[source] object::Error),
    /// The file has no `.modinfo` section.
    #[error("it has no .modinfo section")]
    Missing,
}

/// Description of a module.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Modinfo {
    /// Names of the modules that must be loaded before.
    pub depends: Vec<String>,
    /// Whether a signature is appended. Only the kernel checks it.
    pub signed: bool,
    /// Version magic: release and configuration of the kernel that the module is made for. The kernel compares it with its own.
    pub vermagic: String,
}

/// Reads the description of the uncompressed module `bytes`.
///
/// # Errors
/// [`ModinfoError`] when it is not a module.
pub fn parse(bytes: &[u8]) -> Result<Modinfo, ModinfoError> {
    let data = section(&parse_elf(bytes)?)?;
    let values = data
        .split(|byte| *byte == 0)
        .filter_map(|entry| std::str::from_utf8(entry).ok());
    let mut vermagic = String::new();
    let depends = values.filter_map(|entry| {
        if let Some(text) = entry.strip_prefix("vermagic=") {
            text.clone_into(&mut vermagic);
        }
        entry.strip_prefix("depends=")
    });
    let depends = depends
        .flat_map(|list| list.split(','))
        .filter(|name| !name.is_empty());
    Ok(Modinfo {
        depends: depends.map(str::to_owned).collect(),
        signed: bytes.ends_with(SIGNATURE_MARK),
        vermagic,
    })
}

fn parse_elf(bytes: &[u8]) -> Result<ElfFile64<'_, Endianness>, ModinfoError> {
    ElfFile64::<Endianness>::parse(bytes).map_err(ModinfoError::Elf)
}

fn section<'a, H: FileHeader>(
    elf: &object::read::elf::ElfFile<'a, H>,
) -> Result<&'a [u8], ModinfoError> {
    let section = elf
        .section_by_name(".modinfo")
        .ok_or(ModinfoError::Missing)?;
    section.data().map_err(ModinfoError::Elf)
}

#[cfg(test)]
mod tests {
    use super::super::test_module::module;
    use super::*;

    #[test]
    fn reads_dependencies_and_signature() {
        let parsed = parse(&module("dm-mod,dm_bufio", true)).unwrap();
        assert_eq!(
            parsed,
            Modinfo {
                depends: vec!["dm-mod".to_owned(), "dm_bufio".to_owned()],
                signed: true,
                vermagic: String::new(),
            }
        );
        assert_eq!(parse(&module("", false)).unwrap(), Modinfo::default());
    }

    #[test]
    fn what_is_not_a_module_is_refused() {
        assert_eq!(
            parse(b"#!/bin/sh").unwrap_err().to_string(),
            "it is not an ELF file"
        );
        let mut nameless = module("", false);
        let at = nameless
            .windows(8)
            .position(|window| window == b".modinfo")
            .unwrap();
        nameless[at] = b'_';
        assert_eq!(
            parse(&nameless).unwrap_err().to_string(),
            "it has no .modinfo section"
        );
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(at in 0_usize..400, value: u8, cut in 0_usize..400) {
            let mut bytes = module("a,b", true);
            let length = bytes.len();
            bytes[at % length] = value;
            bytes.truncate(cut.min(length));
            let _ = parse(&bytes);
        }
    }
}
