//! The life of each appliance on disk: `life.json` in its folder, written before anything is done about it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::lifecycle::{Lifecycle, State};
use crate::state::{self, StateError};

/// Its name in the VM's folder.
const FILE: &str = "life.json";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    /// Of the machine's boot: nothing that ran before it runs now.
    boot: String,
    life: Lifecycle,
}

/// Why there is no life to go on with.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error("{path:?} is damaged")]
    Damaged {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
}

/// The life that was kept, if any. After a boot of the machine it begins anew, but for the numbers of its runs.
pub(super) fn load(root: &Path, name: &str) -> Result<Option<Lifecycle>, LoadError> {
    let path = state::folder(root, name)?.join(FILE);
    let bytes = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(state::fail("read", &path))?,
    };
    let kept: Kept = match serde_json::from_slice(&bytes) {
        Ok(kept) => kept,
        Err(source) => return Err(LoadError::Damaged { path, source }),
    };
    if kept.boot == boot() {
        return Ok(Some(kept.life));
    }
    let state = State::Created;
    Ok(Some(Lifecycle {
        state,
        failures: 0,
        last_failure: None,
        ..kept.life
    }))
}

/// Keeps `life`.
pub(super) fn save(root: &Path, name: &str, life: &Lifecycle) -> Result<(), StateError> {
    let path = state::prepare(root, name)?.join(FILE);
    let kept = Kept {
        boot: boot(),
        life: life.clone(),
    };
    // Numbers and strings: serialisation cannot fail.
    state::write(&path, &serde_json::to_vec_pretty(&kept).unwrap_or_default())
}

/// The kernel's name for this boot; without one every daemon begins anew.
fn boot() -> String {
    let read = fs::read_to_string("/proc/sys/kernel/random/boot_id");
    let own = || format!("process {}", std::process::id());
    read.map_or_else(|_| own(), |id| id.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_is_kept_until_the_machine_boots() {
        let root = tempfile::tempdir().unwrap();
        assert!(load(root.path(), "first").unwrap().is_none());
        let life = Lifecycle {
            state: State::Serving,
            run: 7,
            failures: 2,
            last_failure: Some("no".into()),
            since: 3,
        };
        save(root.path(), "first", &life).unwrap();
        assert_eq!(load(root.path(), "first").unwrap().as_ref(), Some(&life));

        let path = root.path().join("vms/first").join(FILE);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace(&boot(), "another")).unwrap();
        let anew = load(root.path(), "first").unwrap().unwrap();
        assert_eq!(
            (anew.run, anew.failures, anew.state),
            (7, 0, State::Created)
        );

        fs::write(&path, "{").unwrap();
        let error = load(root.path(), "first").unwrap_err().to_string();
        assert_eq!(error, format!("{path:?} is damaged"));
    }
}
