//! Checks the functions that the engine imports from NVIDIA's libraries: none may allocate or copy memory without passing
//! through `kernels/src/interposed.rs`.

use object::read::elf::ElfFile64;
use object::{Endianness, Object as _, ObjectSymbol as _};
use thiserror::Error;

/// Prefixes of the names of functions that deal with memory.
const MEMORY: &[&str] = &[
    "cuArray",
    "cuExternalMemory",
    "cuImportExternalMemory",
    "cuIpc",
    "cuMem",
    "cuMipmap",
    "cudaArray",
    "cudaFree",
    "cudaHost",
    "cudaImportExternalMemory",
    "cudaIpc",
    "cudaMalloc",
    "cudaMem",
];
/// Prefixes of the names of functions that look up other functions at run time.
const FINDERS: &[&str] = &["cuGetProcAddress", "cudaGetDriverEntryPoint"];
/// Memory functions that are allowed: they neither allocate nor free memory, nor copy between GPU and host.
const HARMLESS: &[&str] = &[
    "cuMemAdvise_v2",
    "cuMemGetAddressRange_v2",
    "cuMemGetInfo_v2",
    "cuMemPoolCreate",
    "cuMemPoolDestroy",
    "cuMemPoolGetAttribute",
    "cuMemPoolSetAttribute",
    "cuMemPoolTrimTo",
    "cuMemPrefetchAsync_v2",
    "cuMemcpyDtoDAsync_v2",
    "cuMemcpyDtoD_v2",
    "cuMemcpyPeerAsync",
    "cuMemsetD8Async",
    "cuMemsetD8_v2",
    "cudaMemsetAsync_ptsz",
    "cudaMemset_ptds",
];
/// Functions that every engine for GPUs imports. A program without them is not linked to the driver.
const EXPECTED: &[&str] = &["cuInit", "cuLaunchKernel", "cuMemsetD8Async"];

/// Why an engine is refused.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ImportError {
    /// The file is not a 64-bit ELF file.
    #[error("it is no ELF file of 64 bits")]
    NotElf,
    /// The engine imports functions that bypass its memory table.
    #[error(
        "it takes {} from NVIDIA's libraries, and what is done with memory so is neither counted nor scrubbed: \
         kernels/src/interposed.rs must define it, and nothing may be looked up at run time",
        names.join(", ")
    )]
    Unwatched {
        /// Names of the functions.
        names: Vec<String>,
    },
    /// The engine is not linked to the driver.
    #[error("it does not take {name} from the driver: it is not the engine for GPUs")]
    NotLinked {
        /// Name of the missing function.
        name: &'static str,
    },
}

/// Checks the undefined dynamic symbols of the program `engine`.
///
/// # Errors
/// [`ImportError`].
pub fn check(engine: &[u8]) -> Result<(), ImportError> {
    let elf = ElfFile64::<Endianness>::parse(engine).map_err(|_| ImportError::NotElf)?;
    let names: Vec<&str> = elf
        .dynamic_symbols()
        .filter(|symbol| symbol.is_undefined())
        .filter_map(|symbol| symbol.name().ok())
        .collect();
    judge(&names)
}

fn judge(undefined: &[&str]) -> Result<(), ImportError> {
    if let Some(name) = EXPECTED.iter().find(|name| !undefined.contains(name)) {
        return Err(ImportError::NotLinked { name });
    }
    let unwatched = |name: &&&str| {
        let begins = |names: &[&str]| names.iter().any(|start| name.starts_with(start));
        begins(FINDERS) || (begins(MEMORY) && !HARMLESS.contains(name))
    };
    let names: Vec<String> = undefined
        .iter()
        .filter(unwatched)
        .map(ToString::to_string)
        .collect();
    match names.is_empty() {
        true => Ok(()),
        false => Err(ImportError::Unwatched { names }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_that_nobody_watches_are_named() {
        let linked = ["cuInit", "cuLaunchKernel", "cuMemsetD8Async", "malloc"];
        assert_eq!(judge(&linked), Ok(()));
        let more = [&linked[..], &["cuMemcpyAsync", "cudaHostAlloc"]].concat();
        assert_eq!(
            judge(&more).unwrap_err().to_string(),
            "it takes cuMemcpyAsync, cudaHostAlloc from NVIDIA's libraries, and what is done with memory so is neither counted \
             nor scrubbed: kernels/src/interposed.rs must define it, and nothing may be looked up at run time"
        );
        for finder in [
            "cuGetProcAddress",
            "cuGetProcAddress_v2",
            "cudaGetDriverEntryPoint",
            "cudaGetDriverEntryPointByVersion_ptsz",
        ] {
            let names = vec![finder.to_owned()];
            let finding = [&linked[..], &[finder]].concat();
            assert_eq!(judge(&finding), Err(ImportError::Unwatched { names }));
        }
    }

    #[test]
    fn other_programs_are_no_engines() {
        assert_eq!(check(b"#!/bin/sh"), Err(ImportError::NotElf));
        let shell = std::fs::read("/bin/sh").unwrap();
        assert_eq!(
            check(&shell).unwrap_err().to_string(),
            "it does not take cuInit from the driver: it is not the engine for GPUs"
        );
    }
}
