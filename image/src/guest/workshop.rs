//! Manages the folder in which the guest's executables are compiled: a copy of the sources, and cargo's target folder.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use cocoon_inputs::report::Reporter;

use super::recipe::{self, GNU, Recipe, RecipeError};
use super::toolchain::{self, Toolchain};
use super::{CUDA_FOLDER, FOLDER, GuestError, cargo, executable, settings, stage};
use crate::driver;
use crate::files::{self, FileError};
use crate::provenance::Sources;
use crate::sbom::{Crate, Library};

/// Message while another build holds the lock.
const BUSY: &str = "waiting for another build of the guest";
/// Name of the file that describes the toolchain with which the target folder was filled.
const STAMP: &str = "toolchain";
/// Largest such file, in bytes.
const MAX_STAMP: u64 = 1 << 20;

/// The copied sources and the target folder, locked against other builds until the value is dropped.
pub(crate) struct Workshop {
    guest: PathBuf,
    environment: recipe::Environment,
    _lock: File,
}

impl Workshop {
    /// Locks the folder `guest` and copies the sources at `source` into it.
    pub(crate) fn open(
        source: &Path,
        guest: &Path,
        reporter: &dyn Reporter,
    ) -> Result<Self, GuestError> {
        files::create_folder(guest)?;
        // The real path, as cargo sees it: cargo looks for settings in the folders above, and its paths are remapped.
        let guest = fs::canonicalize(guest).map_err(FileError::read(guest))?;
        let lock = files::exclusive(&guest, BUSY, reporter)?;
        let staged = guest.join("src");
        stage::stage(source, &staged)?;
        let environment = recipe::Environment::of_process()?;
        settings::check(&staged, environment.cargo_home())?;
        let registries = cargo::registries(&environment, &staged, reporter);
        let registries = registries.map_err(GuestError::Packages)?;
        Ok(Self {
            guest,
            environment: environment.with_registries(&registries)?,
            _lock: lock,
        })
    }

    /// Folder with the copy of the sources.
    pub(crate) fn staged(&self) -> PathBuf {
        self.guest.join("src")
    }

    /// Determines which revision of the workspace at `source` the copy is.
    pub(crate) fn judge(&self, source: &Path) -> Result<Sources, GuestError> {
        Ok(Sources::judge(source, &self.staged())?)
    }

    /// Determines the machine's C toolchain, of which `cxx` is the C++ compiler, and removes what another one has compiled.
    pub(crate) fn settle(
        &self,
        cxx: &str,
        reporter: &dyn Reporter,
    ) -> Result<Toolchain, GuestError> {
        let toolchain = Toolchain::of_machine(&self.environment.variables(), cxx)?;
        settle(&self.guest, &toolchain.to_string(), reporter)?;
        Ok(toolchain)
    }

    /// Returns the libraries that the pinned Rust toolchain adds to each program.
    pub(crate) fn rust(&self) -> Result<BTreeSet<Library>, GuestError> {
        let variables = self.environment.variables();
        Ok(toolchain::rust(&variables, &self.staged())?)
    }

    /// Builds an executable and returns its bytes and its crates. The file is read under the lock, because the next build may
    /// replace it.
    pub(crate) fn run(
        &self,
        recipe: fn(&recipe::Environment, &Path) -> Result<Recipe, RecipeError>,
        reporter: &dyn Reporter,
    ) -> Result<(Vec<u8>, BTreeSet<Crate>), GuestError> {
        let (path, crates) = self.make(recipe, reporter)?;
        Ok((executable(&path)?, crates))
    }

    /// Builds an executable and returns its path and its crates. The path is valid only while this value holds the lock.
    pub(crate) fn make(
        &self,
        recipe: impl FnOnce(&recipe::Environment, &Path) -> Result<Recipe, RecipeError>,
        reporter: &dyn Reporter,
    ) -> Result<(PathBuf, BTreeSet<Crate>), GuestError> {
        let recipe = recipe(&self.environment, &self.guest)?;
        let built = cargo::build(&recipe, &self.staged(), reporter);
        built.map_err(|source| GuestError::Cargo {
            package: recipe.package,
            source,
        })
    }
}

/// Removes everything in `guest` that was compiled with another C toolchain than that of `stamp`. Cargo would keep it, because
/// it does not track the machine's compiler, headers and static libraries, which all get into the engine. So object files are
/// removed as well, and not just the linked executables.
fn settle(guest: &Path, stamp: &str, reporter: &dyn Reporter) -> Result<(), FileError> {
    let before = files::read(&guest.join(STAMP), MAX_STAMP).ok();
    if before.as_deref() == Some(stamp.as_bytes()) {
        return Ok(());
    }
    let made = guest.join("target").join(GNU);
    if made.exists() {
        reporter.note(match before {
            Some(_) => {
                "the machine's C compiler or libraries are not those that the engine was compiled with: it is compiled again"
            }
            None => {
                "nobody has written down which C compiler and libraries the engine was compiled with: it is compiled again"
            }
        });
        fs::remove_dir_all(&made).map_err(FileError::write(&made))?;
    }
    files::write(guest, STAMP, stamp.as_bytes())?;
    Ok(())
}

/// Removes everything in `cache` that builds have compiled. Waits for a running build.
///
/// # Errors
/// [`FileError`] when something cannot be removed.
pub fn clear(cache: &Path, reporter: &dyn Reporter) -> Result<(), FileError> {
    for folder in [FOLDER, CUDA_FOLDER, driver::FOLDER] {
        let folder = cache.join(folder);
        if !folder.is_dir() {
            continue;
        }
        let _lock = files::exclusive(&folder, BUSY, reporter)?;
        for entry in fs::read_dir(&folder).map_err(FileError::read(&folder))? {
            let entry = entry.map_err(FileError::read(&folder))?;
            // A process that waits for the lock would then hold one on a removed file, which no other process would notice.
            if entry.file_name() == files::LOCK {
                continue;
            }
            let path = entry.path();
            let kind = entry.file_type().map_err(FileError::read(&path))?;
            let removed = match kind.is_dir() {
                true => fs::remove_dir_all(&path),
                false => fs::remove_file(&path),
            };
            removed.map_err(FileError::write(&path))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{self, Sender};
    use std::time::Duration;

    use cocoon_inputs::report::{Silent, Task};

    use super::*;

    /// Sends on every task and note.
    struct Heard(Sender<String>);

    impl Reporter for Heard {
        fn start(&self, what: &str, _: Option<u64>) -> Box<dyn Task> {
            self.note(what);
            Box::new(Silent)
        }

        fn note(&self, line: &str) {
            self.0.send(line.to_owned()).unwrap();
        }
    }

    #[test]
    fn clearing_waits_for_a_build_and_leaves_its_lock() {
        let cache = tempfile::tempdir().unwrap();
        let guest = cache.path().join(FOLDER);
        let building = files::exclusive(&guest, BUSY, &Silent).unwrap();
        fs::create_dir_all(guest.join("target/debug")).unwrap();
        fs::write(guest.join(STAMP), "x").unwrap();
        fs::create_dir_all(cache.path().join(driver::FOLDER).join("key")).unwrap();
        let names = |folder: &Path| {
            let entries = fs::read_dir(folder).unwrap().flatten();
            let mut names: Vec<_> = entries.map(|entry| entry.file_name()).collect();
            names.sort();
            names
        };
        let (sender, heard) = mpsc::channel();
        std::thread::scope(|scope| {
            let clearing = scope.spawn(|| clear(cache.path(), &Heard(sender)));
            let said = heard.recv_timeout(Duration::from_secs(60)).unwrap();
            assert_eq!(said, "waiting for another build of the guest");
            assert_eq!(names(&guest), ["lock", "target", "toolchain"]);
            drop(building);
            clearing.join().unwrap().unwrap();
        });
        assert_eq!(names(&guest), ["lock"]);
        assert_eq!(names(&cache.path().join(driver::FOLDER)), ["lock"]);
        assert_eq!(names(cache.path()), ["driver", "guest"]);
    }

    #[test]
    fn another_toolchain_compiles_the_engine_again_and_the_agent_not() {
        let guest = tempfile::tempdir().unwrap();
        let guest = guest.path();
        let (sender, heard) = mpsc::channel();
        let reporter = Heard(sender);
        let (engine, agent) = (
            guest.join("target/x86_64-unknown-linux-gnu/engine"),
            guest.join("target/x86_64-unknown-linux-musl/agent"),
        );
        let settled = |stamp: &str| {
            fs::create_dir_all(&engine).unwrap();
            fs::create_dir_all(&agent).unwrap();
            settle(guest, stamp, &reporter).unwrap();
            assert!(agent.exists());
            (engine.exists(), heard.try_iter().collect::<Vec<_>>())
        };
        let unknown = "nobody has written down which C compiler and libraries the engine was compiled with: it is compiled again";
        let other = "the machine's C compiler or libraries are not those that the engine was compiled with: it is compiled again";
        assert_eq!(settled("cc 12"), (false, vec![unknown.to_owned()]));
        assert_eq!(settled("cc 12"), (true, vec![]));
        assert_eq!(settled("cc 14"), (false, vec![other.to_owned()]));
        assert_eq!(settled("cc 14"), (true, vec![]));

        // If nothing was compiled before, there is nothing to report.
        fs::remove_dir_all(guest.join("target")).unwrap();
        settle(guest, "cc 15", &reporter).unwrap();
        assert_eq!(heard.try_iter().count(), 0);
        assert_eq!(fs::read(guest.join(STAMP)).unwrap(), b"cc 15");
    }
}
