//! Reads from ELF files what programs and libraries are linked to.

use std::collections::BTreeSet;

use object::read::elf::{Dyn as _, ElfFile64, FileHeader as _, ProgramHeader as _};
use object::{Endianness, elf};
use thiserror::Error;

/// Why a file cannot be in the runtime volume.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum LinkError {
    /// The file is not ELF for x86-64.
    #[error("it is no ELF file for x86-64")]
    NotElf,
    /// The tables of the dynamic section contradict each other.
    #[error("its dynamic section is damaged")]
    Damaged,
    /// The program is static, or starts with another loader.
    #[error("it asks for the loader {found:?}, expected {expected}")]
    Loader {
        /// Loader that the program names; `None` if it is static.
        found: Option<String>,
        /// Loader of the runtime volume.
        expected: String,
    },
}

type Elf<'a> = ElfFile64<'a, Endianness>;

/// Returns the libraries that a file names (`DT_NEEDED`), in the order of the file.
pub(super) fn needed(bytes: &[u8]) -> Result<Vec<String>, LinkError> {
    let elf = parse(bytes)?;
    let (endian, data) = (elf.endian(), elf.data());
    let sections = elf.elf_section_table();
    let Some((dynamic, strings)) = sections
        .dynamic(endian, data)
        .map_err(|_| LinkError::Damaged)?
    else {
        return Ok(Vec::new());
    };
    let strings = sections
        .strings(endian, data, strings)
        .map_err(|_| LinkError::Damaged)?;
    let mut names = Vec::new();
    for entry in dynamic {
        if entry.tag(endian) == elf::DT_NEEDED {
            let name = entry
                .string(endian, strings)
                .map_err(|_| LinkError::Damaged)?;
            names.push(text(name));
        }
    }
    Ok(names)
}

/// Checks that a program starts with the loader at `expected`.
pub(super) fn check_program(bytes: &[u8], expected: &str) -> Result<(), LinkError> {
    let elf = parse(bytes)?;
    let endian = elf.endian();
    let mut found = None;
    for segment in elf.elf_program_headers() {
        if let Ok(Some(name)) = segment.interpreter(endian, elf.data()) {
            found = Some(text(name));
        }
    }
    if found.as_deref() == Some(expected) {
        return Ok(());
    }
    Err(LinkError::Loader {
        found,
        expected: expected.to_owned(),
    })
}

/// Returns the symbol versions that a file needs, each with the name of the library. The loader starts nothing without them.
pub(super) fn versions_needed(bytes: &[u8]) -> Result<BTreeSet<(String, String)>, LinkError> {
    let damaged = |_| LinkError::Damaged;
    let elf = parse(bytes)?;
    let (endian, data) = (elf.endian(), elf.data());
    let sections = elf.elf_section_table();
    let mut versions = BTreeSet::new();
    let Some((libraries, strings)) = sections.gnu_verneed(endian, data).map_err(damaged)? else {
        return Ok(versions);
    };
    let strings = sections.strings(endian, data, strings).map_err(damaged)?;
    for library in libraries {
        let (library, needed) = library.map_err(damaged)?;
        let library = library.file(endian, strings).map_err(damaged)?;
        for version in needed {
            let version = version.map_err(damaged)?;
            // The loader only prints a warning if a weak version is missing.
            if version.vna_flags.get(endian).0 & elf::VER_FLG_WEAK.0 != 0 {
                continue;
            }
            let version = version.name(endian, strings).map_err(damaged)?;
            versions.insert((text(library), text(version)));
        }
    }
    Ok(versions)
}

/// Returns the symbol versions that a library defines.
pub(super) fn versions_defined(bytes: &[u8]) -> Result<BTreeSet<String>, LinkError> {
    let damaged = |_| LinkError::Damaged;
    let elf = parse(bytes)?;
    let (endian, data) = (elf.endian(), elf.data());
    let sections = elf.elf_section_table();
    let mut versions = BTreeSet::new();
    let Some((defined, strings)) = sections.gnu_verdef(endian, data).map_err(damaged)? else {
        return Ok(versions);
    };
    let strings = sections.strings(endian, data, strings).map_err(damaged)?;
    for version in defined {
        let (_, mut names) = version.map_err(damaged)?;
        // Further names are those of the versions that this one inherits from.
        if let Some(name) = names.next().map_err(damaged)? {
            versions.insert(text(name.name(endian, strings).map_err(damaged)?));
        }
    }
    Ok(versions)
}

fn text(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

fn parse(bytes: &[u8]) -> Result<Elf<'_>, LinkError> {
    let elf = Elf::parse(bytes).map_err(|_| LinkError::NotElf)?;
    match elf.elf_header().e_machine(elf.endian()) {
        elf::EM_X86_64 => Ok(elf),
        _ => Err(LinkError::NotElf),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_of_this_machine_names_its_libraries_and_loader() {
        let shell = std::fs::read("/bin/sh").unwrap();
        assert!(needed(&shell).unwrap().contains(&"libc.so.6".to_owned()));
        assert_eq!(check_program(&shell, "/lib64/ld-linux-x86-64.so.2"), Ok(()));
        let error = check_program(&shell, "/runtime/ld-linux-x86-64.so.2").unwrap_err();
        assert_eq!(
            error.to_string(),
            "it asks for the loader Some(\"/lib64/ld-linux-x86-64.so.2\"), expected /runtime/ld-linux-x86-64.so.2"
        );
        assert_eq!(needed(b"#!/bin/sh"), Err(LinkError::NotElf));
    }

    #[test]
    fn versions_that_a_program_needs_are_among_those_of_its_library() {
        let shell = std::fs::read("/bin/sh").unwrap();
        let needed = versions_needed(&shell).unwrap();
        let first = ("libc.so.6".to_owned(), "GLIBC_2.2.5".to_owned());
        assert!(needed.contains(&first), "{needed:?}");
        let library = std::fs::read("/lib/x86_64-linux-gnu/libc.so.6").unwrap();
        let defined = versions_defined(&library).unwrap();
        assert!(defined.contains("GLIBC_2.2.5") && defined.contains("GLIBC_PRIVATE"));
        for (library, version) in needed {
            assert!(
                library != "libc.so.6" || defined.contains(&version),
                "{version}"
            );
        }
        assert!(versions_defined(&shell).unwrap().is_empty());
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(at in 0_usize..4096, value: u8, cut in 0_usize..4096) {
            let mut bytes = std::fs::read("/bin/sh").unwrap();
            bytes[at] = value;
            let _ = needed(&bytes);
            let _ = check_program(&bytes, "x");
            let _ = (versions_needed(&bytes), versions_defined(&bytes));
            bytes.truncate(cut);
            let _ = needed(&bytes);
        }
    }
}
