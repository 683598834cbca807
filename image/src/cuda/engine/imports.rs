//! What the engine takes from NVIDIA's libraries: nothing that allocates or copies memory past `kernels/src/interposed.rs`.

use object::read::elf::ElfFile64;
use object::{Endianness, Object as _, ObjectSymbol as _};
use thiserror::Error;

/// Functions that have to do with memory begin so.
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
/// With these a program finds functions that it does not name.
const FINDERS: &[&str] = &["cuGetProcAddress", "cudaGetDriverEntryPoint"];
/// Of those with memory, what neither allocates, frees, nor crosses to the host or from it.
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
/// That the program is linked to the driver at all shows in these.
const EXPECTED: &[&str] = &["cuInit", "cuLaunchKernel", "cuMemsetD8Async"];

/// Why an engine is refused.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ImportError {
    /// Not a program.
    #[error("it is no ELF file of 64 bits")]
    NotElf,
    /// Calls pass the table by.
    #[error(
        "it takes {} from NVIDIA's libraries, and what is done with memory so is neither counted nor scrubbed: \
         kernels/src/interposed.rs must define it, and nothing may be looked up at run time",
        names.join(", ")
    )]
    Unwatched {
        /// Which functions.
        names: Vec<String>,
    },
    /// Not linked to the driver.
    #[error("it does not take {name} from the driver: it is not the engine for GPUs")]
    NotLinked {
        /// What is missing.
        name: &'static str,
    },
}

/// Checks the undefined symbols of a dynamic program.
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
