//! Fragment: the initrd. Agent, engine and kernel modules, and nothing else: no shell, no tool, no library.

pub mod cpio;

use std::io::Write as _;

use cocoon_inputs::report::Reporter;
use thiserror::Error;

use crate::kernel::Module;
use cpio::{Cpio, CpioError};

/// zstd's level: the best that the kernel unpacks without a larger window.
const LEVEL: i32 = 19;
/// Bytes handed to the compressor at once. Part of the recipe, as its output may depend on it.
const PIECE: usize = 1 << 18;

/// Mount points and folders that PID 1 finds, each with its reason.
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

/// Why there is no initrd.
#[derive(Debug, Error)]
pub enum InitrdError {
    /// The archive cannot hold it.
    #[error("cannot pack the initrd")]
    Cpio(#[from] CpioError),
    /// The compressor failed, for which memory is the only reason.
    #[error("cannot compress the initrd")]
    Compress(#[source] std::io::Error),
}

/// The compressed initrd: `/init` is `agent`, `/engine` is `engine`, `/modules.list` names the modules in load order.
///
/// # Errors
/// [`InitrdError`] when something does not fit into the archive.
pub fn build(
    agent: &[u8],
    engine: &[u8],
    modules: &[Module],
    reporter: &dyn Reporter,
) -> Result<Vec<u8>, InitrdError> {
    let mut archive = Cpio::default();
    for (folder, _) in FOLDERS {
        archive.folder(folder)?;
    }
    archive.file("init", 0o755, agent)?;
    archive.file("engine", 0o755, engine)?;
    let mut list = String::new();
    for (number, module) in modules.iter().enumerate() {
        let path = format!("lib/modules/{number:02}-{}.ko", module.name);
        archive.file(&path, 0o644, &module.bytes)?;
        list += &format!("/{path}\n");
    }
    archive.file("modules.list", 0o644, list.as_bytes())?;
    compress(&archive.finish(), reporter).map_err(InitrdError::Compress)
}

/// One thread always: with more, the output would depend on their number.
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

    #[test]
    fn holds_what_the_agent_expects_and_nothing_else() {
        let modules = [Module {
            name: "dm_mod".to_owned(),
            bytes: b"ko".to_vec(),
        }];
        let initrd = build(b"agent", b"engine", &modules, &Silent).unwrap();
        let archive = zstd::decode_all(&initrd[..]).unwrap();
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
                break;
            }
            names.push(name.to_owned());
            at = (at + 110 + name_size).next_multiple_of(4);
            at = (at + size).next_multiple_of(4);
        }
        let mut expected: Vec<_> = FOLDERS
            .iter()
            .map(|(folder, _)| (*folder).to_owned())
            .collect();
        expected.extend(
            ["init", "engine", "lib/modules/00-dm_mod.ko", "modules.list"].map(str::to_owned),
        );
        assert_eq!(names, expected);
    }

    #[test]
    fn every_folder_has_a_reason() {
        assert_eq!(
            FOLDERS.iter().find(|(_, reason)| reason.trim().is_empty()),
            None
        );
    }
}
