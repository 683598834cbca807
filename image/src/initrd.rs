//! Fragment: the initrd. It holds agent, engine and kernel modules, and no shell, tool or library. In an image for real GPUs,
//! it also holds NVIDIA's modules, and the engine is in the runtime volume.

pub mod cpio;

use std::io::Write as _;

use cocoon_inputs::report::Reporter;
use thiserror::Error;

use crate::driver::Driver;
use crate::foreign::GPU_FIRMWARE;
use crate::kernel::Module;
use cpio::{Cpio, CpioError};

/// zstd level: the highest one that needs no larger window to unpack.
const LEVEL: i32 = 19;
/// Number of bytes that the compressor gets at once. It must not change, because the output may depend on it.
const PIECE: usize = 1 << 18;

/// Mount points and folders that PID 1 expects, each with its reason.
pub const FOLDERS: &[(&str, &str)] = &[
    (
        "dev",
        "devtmpfs: the console, the disk, the device mapper and the control port",
    ),
    (
        "proc",
        "the agent reads the command line and hands its children their file descriptors there",
    ),
    (
        "sys",
        "devices by serial and name, configfs, kernel lockdown",
    ),
    ("tmp", "empty root for the engine, which sees nothing else"),
    ("model", "the weights, in unevictable memory"),
    ("lib", "holds the modules' folder"),
    ("lib/modules", "the modules, in load order"),
];

/// Additional folders of an image for real GPUs, each with its reason.
pub const GPU_FOLDERS: &[(&str, &str)] = &[
    (
        "runtime",
        "the programs and libraries that use the GPUs, in unevictable memory",
    ),
    ("lib/firmware", "where the kernel looks for firmware"),
    ("lib/firmware/nvidia", "the same, for NVIDIA's driver"),
];

/// Content of the initrd.
pub struct Parts<'a> {
    /// The agent, which is PID 1.
    pub agent: &'a [u8],
    /// The inference worker, if it is statically linked.
    pub engine: Option<&'a [u8]>,
    /// The kernel's modules, in load order.
    pub modules: &'a [Module],
    /// NVIDIA's kernel modules, in an image for real GPUs.
    pub driver: Option<&'a Driver>,
}

/// Why the initrd cannot be made.
#[derive(Debug, Error)]
pub enum InitrdError {
    /// The archive format cannot hold a file.
    #[error("cannot pack the initrd")]
    Cpio(#[from] CpioError),
    /// The compressor failed, which happens only when memory is short.
    #[error("cannot compress the initrd")]
    Compress(#[source] std::io::Error),
}

/// Returns the compressed initrd. `/init` is the agent and `/engine` the engine. `/modules.list` names the modules in load
/// order, and `/driver.list` those of NVIDIA's driver, which are loaded after the GPUs have been reset.
///
/// # Errors
/// [`InitrdError`] when a file does not fit into the archive.
pub fn build(parts: &Parts<'_>, reporter: &dyn Reporter) -> Result<Vec<u8>, InitrdError> {
    let mut archive = Cpio::default();
    let gpu_folders = GPU_FOLDERS.iter().filter(|_| parts.driver.is_some());
    for (folder, _) in FOLDERS.iter().chain(gpu_folders) {
        archive.folder(folder)?;
    }
    archive.file("init", 0o755, parts.agent)?;
    if let Some(engine) = parts.engine {
        archive.file("engine", 0o755, engine)?;
    }
    let list = pack(&mut archive, 0, parts.modules)?;
    archive.file("modules.list", 0o644, list.as_bytes())?;
    if let Some(driver) = parts.driver {
        let list = pack(&mut archive, parts.modules.len(), &driver.modules)?;
        archive.file("driver.list", 0o644, list.as_bytes())?;
        // The kernel opens this link when a GPU is first used. By then, its target in the runtime volume exists.
        let folder = format!("lib/firmware/nvidia/{}", driver.version);
        archive.folder(&folder)?;
        let place = format!("{folder}/{GPU_FIRMWARE}");
        archive.link(&place, &format!("/runtime/{GPU_FIRMWARE}"))?;
    }
    compress(&archive.finish(), reporter).map_err(InitrdError::Compress)
}

/// Adds modules, numbered from `first`, and returns the list of their paths.
fn pack(archive: &mut Cpio, first: usize, modules: &[Module]) -> Result<String, CpioError> {
    let mut list = String::new();
    for (number, module) in modules.iter().enumerate() {
        let path = format!("lib/modules/{:02}-{}.ko", first + number, module.name);
        archive.file(&path, 0o644, &module.bytes)?;
        list += &format!("/{path}\n");
    }
    Ok(list)
}

/// Compresses with a single thread: with several, the output would depend on their number.
fn compress(archive: &[u8], reporter: &dyn Reporter) -> std::io::Result<Vec<u8>> {
    let task = reporter.start("compressing the initrd", Some(archive.len() as u64));
    let mut encoder = zstd::Encoder::new(Vec::new(), LEVEL)?;
    encoder.set_pledged_src_size(Some(archive.len() as u64))?;
    encoder.include_checksum(true)?;
    for (number, piece) in archive.chunks(PIECE).enumerate() {
        encoder.write_all(piece)?;
        task.position((number * PIECE + piece.len()) as u64);
    }
    let initrd = encoder.finish()?;
    task.finish(&format!("{} bytes", initrd.len()));
    Ok(initrd)
}

#[cfg(test)]
mod tests {
    use cocoon_inputs::report::Silent;

    use super::*;

    /// Returns every path of a compressed archive, in its order.
    fn names(initrd: &[u8]) -> Vec<String> {
        let archive = zstd::decode_all(initrd).unwrap();
        let mut names = Vec::new();
        let mut at = 0;
        loop {
            let field = |n: usize| {
                let text = std::str::from_utf8(&archive[at + 6 + 8 * n..at + 14 + 8 * n]).unwrap();
                usize::from_str_radix(text, 16).unwrap()
            };
            let (size, name_size) = (field(6), field(11));
            let name = std::str::from_utf8(&archive[at + 110..at + 110 + name_size - 1]).unwrap();
            if name == "TRAILER!!!" {
                return names;
            }
            names.push(name.to_owned());
            at = (at + 110 + name_size).next_multiple_of(4);
            at = (at + size).next_multiple_of(4);
        }
    }

    fn module(name: &str) -> Module {
        Module {
            name: name.to_owned(),
            bytes: b"ko".to_vec(),
        }
    }

    fn folders(more: &[(&str, &str)]) -> Vec<String> {
        let all = FOLDERS.iter().chain(more);
        all.map(|(folder, _)| (*folder).to_owned()).collect()
    }

    #[test]
    fn holds_what_the_agent_expects_and_nothing_else() {
        let parts = Parts {
            agent: b"agent",
            engine: Some(b"engine"),
            modules: &[module("dm_mod")],
            driver: None,
        };
        let mut expected = folders(&[]);
        expected.extend(
            ["init", "engine", "lib/modules/00-dm_mod.ko", "modules.list"].map(str::to_owned),
        );
        assert_eq!(names(&build(&parts, &Silent).unwrap()), expected);
    }

    #[test]
    fn with_gpus_it_holds_the_driver_and_no_engine() {
        let driver = Driver {
            version: "1.2".to_owned(),
            modules: vec![module("nvidia")],
        };
        let parts = Parts {
            agent: b"agent",
            engine: None,
            modules: &[module("dm_mod")],
            driver: Some(&driver),
        };
        let mut expected = folders(GPU_FOLDERS);
        expected.extend(
            [
                "init",
                "lib/modules/00-dm_mod.ko",
                "modules.list",
                "lib/modules/01-nvidia.ko",
                "driver.list",
                "lib/firmware/nvidia/1.2",
                "lib/firmware/nvidia/1.2/gsp_ga10x.bin",
            ]
            .map(str::to_owned),
        );
        assert_eq!(names(&build(&parts, &Silent).unwrap()), expected);
    }

    #[test]
    fn every_folder_has_a_reason() {
        let mut all = FOLDERS.iter().chain(GPU_FOLDERS);
        assert_eq!(all.find(|(_, reason)| reason.trim().is_empty()), None);
    }
}
