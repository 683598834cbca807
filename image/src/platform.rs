//! Adds the shape of a real machine to a manifest: the events of RTMR0 that follow from its firmware and its tables.
//!
//! The signer computes the tables with `cocoon-host tables` on a machine of their own. Signing the manifest vouches for them,
//! because a rebuild of the image predicts all other events again, but cannot compute these tables.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cocoon_inputs::report::Reporter;
use cocoon_measurements::tdx::event::{Rtmr, replay};
use cocoon_measurements::tdx::rtmr0::{PlatformDigests, PlatformTables};
use cocoon_measurements::tdx::smbios::{ProcessorId, SmbiosError};
use cocoon_protocol::bytes::{Hex, Hex32, Hex48};
use cocoon_protocol::manifest::{
    Artefact, MAX_MANIFEST_LEN, Manifest, ManifestError, PlatformSource, TdxPlatform, manifest_id,
};
use serde::Serialize;
use thiserror::Error;

use crate::assemble::name;
use crate::beside;
use crate::files::{self, FileError};
use crate::firmware::MAX_FIRMWARE;
use crate::reference::{self, ReferenceError, Size};

/// Longest name of a machine shape, in characters. Verdicts show it in one line.
pub const MAX_NAME: usize = 100;
/// Largest table, in bytes; QEMU's have at most some hundred KiB.
const MAX_TABLE: u64 = 4 << 20;

/// Shape of a real machine.
#[derive(Debug, Clone, Copy)]
pub struct Shape<'a> {
    /// Name for verdicts, unique in the manifest.
    pub name: &'a str,
    /// Memory, number of vCPUs, and window for a GPU.
    pub size: Size,
    /// Folder with the files named in [`PlatformTables::FILES`].
    pub tables: &'a Path,
    /// CPUID values of the real machine's processor, which replace those of the emulated one in SMBIOS.
    pub processor: ProcessorId,
}

/// Result of adding a shape.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// How the manifest changed.
    pub change: Change,
    /// RTMR0 of a machine with the shape.
    pub rtmr0: Hex48,
    /// Identity of the manifest after the change.
    pub manifest_id: Hex32,
    /// Whether signatures over the old manifest were removed.
    pub signatures_removed: bool,
}

/// How the manifest changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// There was no shape with that name.
    Added,
    /// There was a shape with that name and other values.
    Replaced,
    /// The manifest had the same shape already.
    Unchanged,
}

/// Why a shape cannot be added.
#[derive(Debug, Error)]
pub enum PlatformError {
    /// A file cannot be read or written.
    #[error("cannot add the machine shape")]
    File(#[from] FileError),
    /// The file is not a valid manifest, or would not be one with another shape.
    #[error("{path} is not the manifest of an image, or has no room for another machine shape")]
    Manifest {
        /// Path of the manifest.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: ManifestError,
    },
    /// A file beside the manifest is missing or is not the one that the manifest describes.
    #[error(
        "{path} is not the file that the manifest describes: put the manifest beside its own image"
    )]
    Altered {
        /// Path of the file.
        path: PathBuf,
    },
    /// The name is empty, too long, or has control characters.
    #[error("{name:?} is no name for a machine shape: use 1 to {MAX_NAME} printable characters")]
    Name {
        /// Name of the shape.
        name: String,
    },
    /// The name is that of a shape for the simulator, which follows from the image.
    #[error("{name:?} is a machine shape of the simulator: choose another name")]
    Simulated {
        /// Name of the shape.
        name: String,
    },
    /// A file with a table is empty.
    #[error("{path} is empty: compute the tables again with `cocoon-host tables`")]
    Empty {
        /// Path of the file.
        path: PathBuf,
    },
    /// The SMBIOS table is not one that firmware would measure.
    #[error("cannot measure {path}")]
    Smbios {
        /// Path of the file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: SmbiosError,
    },
    /// RTMR0 cannot be predicted.
    #[error("cannot predict RTMR0 of the machine shape")]
    Reference(#[from] ReferenceError),
}

/// Adds `shape` to the manifest at `path`, or replaces the shape with the same name. The image must lie beside the manifest.
/// If the manifest changes, its signatures are removed, because they are over the old bytes.
///
/// # Errors
/// [`PlatformError`]. The manifest and its signatures are unchanged, except when removing the signatures fails: then they
/// remain beside the new manifest, for which they are not valid.
pub fn add(
    path: &Path,
    shape: &Shape<'_>,
    reporter: &dyn Reporter,
) -> Result<Outcome, PlatformError> {
    check_name(shape.name)?;
    let not_a_manifest = |source| PlatformError::Manifest {
        path: path.to_owned(),
        source,
    };
    let before = files::read(path, MAX_MANIFEST_LEN as u64)?;
    let mut manifest = Manifest::parse(&before).map_err(not_a_manifest)?;
    let folder = files::folder_of(path);
    let digests = digests(shape)?;
    let firmware = firmware(folder, &manifest.artefacts)?;
    check_artefacts(folder, &manifest.artefacts, reporter)?;

    let platform = reference::platform(&firmware, shape.name, &shape.size, digests)?;
    let rtmr0 = register(&platform);
    let change = put(&mut manifest.tdx.platforms, platform)?;
    let mut outcome = Outcome {
        change,
        rtmr0,
        manifest_id: manifest_id(&before),
        signatures_removed: false,
    };
    if change == Change::Unchanged {
        return Ok(outcome);
    }
    let after = manifest.to_json();
    Manifest::parse(&after).map_err(not_a_manifest)?;
    let envelope = envelope_path(path);
    outcome.signatures_removed = envelope.exists();
    files::write_to(path, &after)?;
    files::remove_if_present(&envelope)?;
    outcome.manifest_id = manifest_id(&after);
    Ok(outcome)
}

/// Returns the path of the signatures of the manifest at `path`.
pub fn envelope_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".dsse");
    name.into()
}

fn check_name(name: &str) -> Result<(), PlatformError> {
    let length = name.chars().count();
    if (1..=MAX_NAME).contains(&length) && !name.chars().any(char::is_control) {
        return Ok(());
    }
    Err(PlatformError::Name {
        name: name.to_owned(),
    })
}

fn digests(shape: &Shape<'_>) -> Result<PlatformDigests, PlatformError> {
    let paths = PlatformTables::FILES.map(|name| shape.tables.join(name));
    let read = |path: &PathBuf| -> Result<Vec<u8>, PlatformError> {
        let bytes = files::read(path, MAX_TABLE)?;
        if bytes.is_empty() {
            return Err(PlatformError::Empty { path: path.clone() });
        }
        Ok(bytes)
    };
    let [loader, rsdp, acpi, smbios] = &paths;
    let tables = PlatformTables {
        acpi_loader: &read(loader)?,
        acpi_rsdp: &read(rsdp)?,
        acpi_tables: &read(acpi)?,
        smbios: &read(smbios)?,
    };
    PlatformDigests::of_tables(&tables, shape.processor).map_err(|source| PlatformError::Smbios {
        path: smbios.clone(),
        source,
    })
}

/// Reads the TDX firmware and compares it with the manifest. The prediction uses these very bytes, so they are not read again.
fn firmware(
    folder: &Path,
    artefacts: &BTreeMap<String, Artefact>,
) -> Result<Vec<u8>, PlatformError> {
    let path = folder.join(name::TDX);
    let bytes = files::read(&path, MAX_FIRMWARE)?;
    if artefacts.get(name::TDX) == Some(&files::artefact(&bytes)) {
        Ok(bytes)
    } else {
        Err(PlatformError::Altered { path })
    }
}

/// Checks all artefacts. RTMR0 depends on the firmware only, but the next signature over the manifest vouches for all of them.
fn check_artefacts(
    folder: &Path,
    artefacts: &BTreeMap<String, Artefact>,
    reporter: &dyn Reporter,
) -> Result<(), PlatformError> {
    let beside = beside::look(folder, artefacts, reporter)?;
    let mut wrong = beside.altered.iter().chain(&beside.absent);
    wrong.next().map_or(Ok(()), |name| {
        let path = folder.join(name);
        Err(PlatformError::Altered { path })
    })
}

fn put(platforms: &mut Vec<TdxPlatform>, new: TdxPlatform) -> Result<Change, PlatformError> {
    let old = platforms.iter_mut().find(|old| old.name == new.name);
    Ok(match old {
        Some(old) if old.source == PlatformSource::Simulator => {
            return Err(PlatformError::Simulated { name: new.name });
        }
        Some(old) if *old == new => Change::Unchanged,
        Some(old) => {
            *old = new;
            Change::Replaced
        }
        None => {
            platforms.push(new);
            Change::Added
        }
    })
}

fn register(platform: &TdxPlatform) -> Hex48 {
    let events = platform.rtmr0_events.iter();
    let registers = replay(events.map(|event| (Rtmr::Rtmr0, &event.digest.0)));
    Hex(registers[Rtmr::Rtmr0.index()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_a_line() {
        for good in ["x", "2 vCPUs, 1024 MiB, QEMU 10.1.0", &"é".repeat(MAX_NAME)] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "a\nb", "\u{1b}[31m", &"x".repeat(MAX_NAME + 1)] {
            let error = check_name(bad).unwrap_err().to_string();
            let expected = format!(
                "{bad:?} is no name for a machine shape: use 1 to 100 printable characters"
            );
            assert_eq!(error, expected);
        }
    }

    #[test]
    fn signatures_lie_beside_the_manifest() {
        let path = envelope_path(Path::new("image/manifest.json"));
        assert_eq!(path, Path::new("image/manifest.json.dsse"));
        assert_eq!(files::folder_of(Path::new("manifest.json")), Path::new("."));
    }
}
