//! The deployment of an appliance on disk: `deployment.json` in its folder, replaced atomically, and beside it the
//! manifests of updates.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use cocoon_protocol::bytes::Hex32;
use serde::{Deserialize, Serialize};

use super::check::Checked;
use super::{Deployment, Update};
use crate::state::{self, StateError};

/// Name of the file in the appliance's folder.
const FILE: &str = "deployment.json";
/// Name of the folder of manifests in the appliance's folder.
const MANIFESTS: &str = "manifests";
/// Largest size of the file in bytes, for writing and reading.
const MAX_LEN: u64 = 64 * 1024;

/// One of the two slots in which an appliance's VM may live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Slot {
    /// `vms/NAME` in the state folder.
    A,
    /// `b/vms/NAME` in the state folder.
    B,
}

impl Slot {
    /// Returns the other slot.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// Returns the folder whose `vms` folder holds the VM's.
    #[must_use]
    pub fn root(self, state: &Path) -> PathBuf {
        match self {
            Self::A => state.to_owned(),
            Self::B => state.join("b"),
        }
    }
}

/// Contents of `deployment.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    /// Image and manifest that the configuration named when this was written. If it names others now, those take precedence.
    pub file: (PathBuf, Option<PathBuf>),
    /// Slot of the appliance's VM.
    pub slot: Slot,
    /// The deployment that the appliance runs.
    pub current: Deployment,
    /// The deployment before, for a rollback.
    pub previous: Option<Deployment>,
    /// The update under way, or the last one.
    pub update: Option<Update>,
}

impl Kept {
    /// Returns the state before any update: the deployment that the configuration names.
    #[must_use]
    pub fn first(image: &Path, manifest: Option<&Path>) -> Self {
        Self {
            file: (image.to_owned(), manifest.map(Path::to_owned)),
            slot: Slot::A,
            current: Deployment::read(image, manifest),
            previous: None,
            update: None,
        }
    }

    /// Applies an edit of the configuration, if there was one: the deployment that it names becomes current, and the one
    /// before becomes the target of a rollback.
    #[must_use]
    pub fn of_file(self, image: &Path, manifest: Option<&Path>) -> Self {
        let first = Self::first(image, manifest);
        if self.file == first.file {
            return self;
        }
        Self {
            file: first.file,
            current: first.current,
            previous: Some(self.current),
            ..self
        }
    }

    /// Returns the update under way.
    #[must_use]
    pub fn under_way(&self) -> Option<&Update> {
        self.update.as_ref().filter(|update| !update.is_over())
    }

    /// Makes the update's deployment the current one.
    pub fn commit(&mut self) {
        if let Some(update) = &self.update {
            let to = update.to.clone();
            self.previous = Some(std::mem::replace(&mut self.current, to));
            self.slot = self.slot.other();
        }
    }
}

impl Deployment {
    /// Returns the deployment of an image, with what its manifest says as far as that can be read.
    #[must_use]
    pub fn read(image: &Path, manifest: Option<&Path>) -> Self {
        let opened = crate::image::manifest(image, manifest).ok();
        Self {
            image: image.to_owned(),
            manifest: manifest.map(Path::to_owned),
            manifest_id: opened.as_ref().map(|(id, _)| *id),
            release: opened.as_ref().map(|(_, manifest)| manifest.release),
            not_after: opened.map(|(_, manifest)| manifest.not_after),
        }
    }

    /// Takes over the contents of the manifest at `path` if its identity is `id`. Returns whether it is.
    pub fn is_now(&mut self, path: &Path, id: Option<Hex32>) -> bool {
        let read = Self::read(&self.image, Some(path));
        if read.manifest_id != id {
            return false;
        }
        let manifest = self.manifest.take();
        *self = Self { manifest, ..read };
        true
    }
}

/// Why `deployment.json` cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The appliance's folder or the file cannot be read.
    #[error(transparent)]
    State(#[from] StateError),
    /// The file's contents are damaged.
    #[error("{path:?} is damaged")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The position and kind of the damage.
        #[source]
        source: serde_json::Error,
    },
}

/// Loads what was kept for `name`, if anything.
///
/// # Errors
/// [`LoadError`] if the file cannot be read or is damaged.
pub fn load(root: &Path, name: &str) -> Result<Option<Kept>, LoadError> {
    let path = state::folder(root, name)?.join(FILE);
    let bytes = match read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(state::fail("read", &path))?,
    };
    let kept = serde_json::from_slice(&bytes);
    kept.map(Some)
        .map_err(|source| LoadError::Damaged { path, source })
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    io::Read::read_to_end(
        &mut io::Read::take(fs::File::open(path)?, MAX_LEN),
        &mut bytes,
    )?;
    Ok(bytes)
}

/// Saves `kept` durably, so that an update survives a power failure.
///
/// # Errors
/// [`StateError`] if it cannot be written or is too long to be read back. The previous contents then stay.
pub fn save(root: &Path, name: &str, kept: &Kept) -> Result<(), StateError> {
    let path = state::prepare(root, name)?.join(FILE);
    // It holds only numbers, names and paths, so serialisation cannot fail.
    let bytes = serde_json::to_vec_pretty(kept).unwrap_or_default();
    if bytes.len() as u64 > MAX_LEN {
        let text = format!(
            "{} bytes are more than the {MAX_LEN} that are read back",
            bytes.len()
        );
        return Err(state::fail("keep", &path)(io::Error::other(text)));
    }
    state::write_durably(&path, &bytes)
}

/// Keeps a manifest and its signatures, so that what was checked is what is published, whatever happens to the originals.
///
/// # Errors
/// [`StateError`] if they cannot be written.
pub fn keep(root: &Path, name: &str, checked: &Checked) -> Result<Deployment, StateError> {
    let folder = state::prepare(root, name)?.join(MANIFESTS);
    state::folder_of_ours(&folder)?;
    let path = folder.join(format!("{}.json", checked.id));
    state::write_durably(
        &folder.join(format!("{}.json.dsse", checked.id)),
        &checked.envelope,
    )?;
    state::write_durably(&path, &checked.manifest)?;
    Ok(Deployment {
        image: checked.image.clone(),
        manifest: Some(path),
        manifest_id: Some(checked.id),
        release: Some(checked.release),
        not_after: Some(checked.not_after),
    })
}

/// Removes manifests that `kept` no longer names.
pub fn prune(root: &Path, name: &str, kept: &Kept) {
    let Ok(folder) = state::folder(root, name) else {
        return;
    };
    let to = kept.under_way().map(|update| &update.to);
    let named = [Some(&kept.current), kept.previous.as_ref(), to];
    let ids: Vec<Hex32> = named
        .into_iter()
        .flatten()
        .filter_map(|deployment| deployment.manifest_id)
        .collect();
    for entry in fs::read_dir(folder.join(MANIFESTS))
        .into_iter()
        .flatten()
        .flatten()
    {
        let name = entry.file_name();
        let id = name.to_str().and_then(|name| name.split('.').next());
        let wanted = id.and_then(|id| id.parse::<Hex32>().ok());
        if !wanted.is_some_and(|id| ids.contains(&id)) {
            // A file that stays takes little space and is tried again after the next update.
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::update::{Phase, Way};

    fn kept() -> Kept {
        Kept::first(Path::new("/image"), None)
    }

    fn deployment(image: &str) -> Deployment {
        Deployment {
            image: image.into(),
            manifest: None,
            manifest_id: None,
            release: None,
            not_after: None,
        }
    }

    #[test]
    fn what_was_updated_holds_until_the_file_names_another_image() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(load(root.path(), "first").unwrap(), None);
        let mut kept = kept();
        kept.update = Some(Update {
            number: 1,
            rollback: false,
            way: Way::Beside,
            phase: Phase::Retiring,
            since: 1,
            until: None,
            to: deployment("/newer"),
            ran: true,
            policy: None,
        });
        kept.commit();
        assert_eq!((kept.slot, &kept.current), (Slot::B, &deployment("/newer")));
        assert_eq!(kept.previous, Some(deployment("/image")));
        save(root.path(), "first", &kept).unwrap();
        let again = load(root.path(), "first").unwrap().unwrap();
        assert_eq!(again, kept);
        assert_eq!(again.clone().of_file(Path::new("/image"), None), kept);
        let edited = again.of_file(Path::new("/image"), Some(Path::new("/signed")));
        assert_eq!(edited.previous, Some(deployment("/newer")));
        assert_eq!(
            edited.current.manifest.as_deref(),
            Some(Path::new("/signed"))
        );
        assert_eq!(edited.slot, Slot::B);

        let path = root.path().join("vms/first").join(FILE);
        let mut long = kept.clone();
        if let Some(update) = &mut long.update {
            let reason = "x".repeat(70_000);
            update.phase = Phase::Failed { reason };
        }
        let error = save(root.path(), "first", &long).unwrap_err();
        let error = crate::text::chain(&error);
        assert!(
            error.starts_with(&format!("cannot keep {path:?}: 70"))
                && error.ends_with(" bytes are more than the 65536 that are read back"),
            "{error}"
        );
        assert_eq!(load(root.path(), "first").unwrap().unwrap(), kept);
        fs::write(&path, "{").unwrap();
        let error = load(root.path(), "first").unwrap_err().to_string();
        assert_eq!(error, format!("{path:?} is damaged"));
    }

    #[test]
    fn manifests_are_kept_as_long_as_they_are_named() {
        let root = tempfile::tempdir().unwrap();
        let checked = |byte| Checked {
            image: "/newer".into(),
            manifest: vec![byte],
            envelope: vec![byte, byte],
            id: Hex32::sha256(&[byte]),
            release: 2,
            not_after: 9,
            basis: String::new(),
        };
        let mut kept = kept();
        kept.current = keep(root.path(), "first", &checked(1)).unwrap();
        keep(root.path(), "first", &checked(2)).unwrap();
        prune(root.path(), "first", &kept);
        let folder = root.path().join("vms/first").join(MANIFESTS);
        let mut left: Vec<_> = fs::read_dir(folder).unwrap().flatten().collect();
        left.sort_by_key(|entry| entry.path().as_os_str().len());
        let read = |index: usize| fs::read(left[index].path()).unwrap();
        assert_eq!((left.len(), read(0), read(1)), (2, vec![1], vec![1, 1]));
        assert_eq!(kept.current.manifest, Some(left[0].path()));
    }
}
