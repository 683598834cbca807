//! Life cycle state on disk: `life.json` in each VM's folder, written before the state is acted on.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::lifecycle::{Lifecycle, Millis};
use crate::state::{self, StateError};

/// Name of the file in the VM's folder.
const FILE: &str = "life.json";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    /// Identifier of the machine's boot; no process of an earlier boot still runs.
    boot: String,
    life: Lifecycle,
}

/// Why stored state cannot be used.
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

/// Loads the stored state of `name`, if any, as of `now`. A boot of the machine resets all but the number of runs.
pub(super) fn load(root: &Path, name: &str, now: Millis) -> Result<Option<Lifecycle>, LoadError> {
    let path = state::folder(root, name)?.join(FILE);
    let bytes = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(state::fail("read", &path))?,
    };
    let mut kept: Kept = match serde_json::from_slice(&bytes) {
        Ok(kept) => kept,
        Err(source) => return Err(LoadError::Damaged { path, source }),
    };
    if kept.boot == boot() {
        kept.life.date(now);
        return Ok(Some(kept.life));
    }
    Ok(Some(Lifecycle {
        run: kept.life.run,
        ..Lifecycle::new(now)
    }))
}

/// Stores `life`.
pub(super) fn save(root: &Path, name: &str, life: &Lifecycle) -> Result<(), StateError> {
    let path = state::prepare(root, name)?.join(FILE);
    let kept = Kept {
        boot: boot(),
        life: life.clone(),
    };
    // Serialisation of numbers and strings cannot fail.
    state::write(&path, &serde_json::to_vec_pretty(&kept).unwrap_or_default())
}

/// The kernel's identifier of this boot. Without one, each daemon starts anew.
fn boot() -> String {
    let read = fs::read_to_string("/proc/sys/kernel/random/boot_id");
    let own = || format!("process {}", std::process::id());
    read.map_or_else(|_| own(), |id| id.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::State;

    #[test]
    fn a_life_is_kept_until_the_machine_boots() {
        let root = tempfile::tempdir().unwrap();
        let load = |now| load(root.path(), "first", now);
        assert!(load(3).unwrap().is_none());
        let life = Lifecycle {
            state: State::Serving,
            run: 7,
            failures: 2,
            refusals: 1,
            last_failure: Some("no".into()),
            since: 3,
        };
        save(root.path(), "first", &life).unwrap();
        assert_eq!(load(5).unwrap().as_ref(), Some(&life));
        // The clock was wrong when the state was stored, and has been corrected since.
        assert_eq!(load(2).unwrap().unwrap().since, 2);

        let path = root.path().join("vms/first").join(FILE);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace(&boot(), "another")).unwrap();
        let anew = Lifecycle {
            run: 7,
            ..Lifecycle::new(5)
        };
        assert_eq!(load(5).unwrap().unwrap(), anew);

        fs::write(&path, "{").unwrap();
        let error = load(5).unwrap_err().to_string();
        assert_eq!(error, format!("{path:?} is damaged"));
    }
}
