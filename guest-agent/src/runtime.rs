//! The runtime volume of an image with GPUs: the engine, the collector and their libraries. Both programs are dynamically
//! linked, because NVIDIA's libraries are. The measured command line names it: `cocoon.runtime=ROOT:SALT:DATA_BLOCKS`.
//!
//! It is read into memory and sealed like the model. The engine and the collector can be executed but not read, so that the
//! user who runs them cannot dump their memory. Libraries can only be read.

use std::path::{Path, PathBuf};

use crate::volume::{self, Verity, Volume, VolumeError};

/// Name of the command line token.
const TOKEN: &str = "cocoon.runtime=";
/// Folder of the volume's files, which the programs' loader path names.
pub const FOLDER: &str = "/runtime";
const ENGINE: &str = "engine";
const COLLECTOR: &str = "cocoon-gpu";
/// Environment variable with which programs find their libraries: the guest has no other place for libraries.
pub const LIBRARIES: (&str, &str) = ("LD_LIBRARY_PATH", FOLDER);

static VOLUME: Volume = Volume {
    what: "runtime",
    serial: "cocoon-runtime",
    folder: FOLDER,
    programs: &[
        (ENGINE, 0o511),
        (COLLECTOR, 0o511),
        ("ld-linux-x86-64.so.2", 0o555),
    ],
};

/// Why the runtime volume could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The token is missing.
    #[error(
        "kernel command line: cocoon.runtime= is missing, and this image has its programs there"
    )]
    Missing,
    /// The token occurs more than once.
    #[error("kernel command line: cocoon.runtime= stands more than once")]
    Repeated,
    /// The token's value is malformed.
    #[error("kernel command line: cocoon.runtime= is not ROOT:SALT:DATA_BLOCKS")]
    Malformed,
    /// The volume failed to load.
    #[error(transparent)]
    Volume(#[from] VolumeError),
}

/// Proof that every byte below [`FOLDER`] was verified by dm-verity and that the disk is detached.
#[derive(Debug)]
pub struct Runtime(());

impl Runtime {
    /// Returns the path of the engine.
    pub fn engine(&self) -> PathBuf {
        Path::new(FOLDER).join(ENGINE)
    }

    /// Returns the path of the collector, the process that holds the GPUs.
    pub fn collector(&self) -> PathBuf {
        Path::new(FOLDER).join(COLLECTOR)
    }
}

/// Reads the volume that the kernel command line names. `progress` receives the bytes read and the total.
///
/// # Errors
/// [`RuntimeError`].
pub fn load(cmdline: &str, progress: impl FnMut(u64, u64)) -> Result<Runtime, RuntimeError> {
    volume::load(&VOLUME, &named(cmdline)?, progress)?;
    Ok(Runtime(()))
}

fn named(cmdline: &str) -> Result<Verity, RuntimeError> {
    let mut values = cmdline
        .split_ascii_whitespace()
        .filter_map(|word| word.strip_prefix(TOKEN));
    let value = values.next().ok_or(RuntimeError::Missing)?;
    if values.next().is_some() {
        return Err(RuntimeError::Repeated);
    }
    let parts: Vec<&str> = value.split(':').collect();
    match parts[..] {
        [root, salt, blocks] => Verity::parse(root, salt, blocks).ok_or(RuntimeError::Malformed),
        _ => Err(RuntimeError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_names_it_once() {
        let hash = "ab".repeat(32);
        let token = format!("cocoon.runtime={hash}:{hash}:42");
        let verity = named(&format!("quiet {token} panic=-1\n")).unwrap();
        assert_eq!(
            (verity.root.to_string(), verity.data_blocks),
            (hash.clone(), 42)
        );
        let refused = |cmdline: &str| named(cmdline).unwrap_err().to_string();
        assert_eq!(
            refused("quiet"),
            "kernel command line: cocoon.runtime= is missing, and this image has its programs there"
        );
        assert_eq!(
            refused(&format!("{token} {token}")),
            "kernel command line: cocoon.runtime= stands more than once"
        );
        for wrong in [
            format!("cocoon.runtime={hash}:{hash}"),
            format!("cocoon.runtime={hash}:{hash}:0"),
            format!("cocoon.runtime={hash}:{hash}:42:1"),
            format!("cocoon.runtime={hash}:{}:42", "ab".repeat(31)),
        ] {
            assert_eq!(
                refused(&wrong),
                "kernel command line: cocoon.runtime= is not ROOT:SALT:DATA_BLOCKS",
                "{wrong}"
            );
        }
    }
}
