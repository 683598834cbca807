//! What each VM keeps on disk, and the list of VMs: `$COCOON_STATE/vms/NAME/`, the owner's alone.
//!
//! | file | is |
//! |---|---|
//! | `lock` | held while the VM lives, by the process that owns it |
//! | `host.pid`, `qemu.pid` | that process, and QEMU |
//! | `ctl` | socket for `ps` and `down` |
//! | `sim` | socket of the simulator, in simulated modes |
//! | `serial.log` | the console, its first [`SERIAL_LIMIT`](crate::up::SERIAL_LIMIT) bytes |
//! | `log.jsonl` | the console's lines and our own news, each with its time: [`log`](crate::log) |
//! | `phases.json` | timings |
//! | `trust-root.pem` | the development root, in simulated modes |
//! | `manifest.json` | what this host publishes |
//! | `sup`, `launch.json`, `ending.json`, `supervisor.log`, `supervisor.pid` | of the daemon's VMs: [`supervisor`](crate::supervisor) |
//! | `life.json` | of the daemon's VMs: [`lifecycle`](crate::lifecycle) |
//!
//! The folder's mode is 0700 and the modes of what lies in it 0600, whatever the umask: whoever can connect to `ctl`
//! can stop the VM.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

/// Longest path of a unix socket, in bytes.
const SOCKET_MAX: usize = 107;
/// Longest name of a VM.
pub(crate) const NAME_MAX: usize = 32;
/// Files that say nothing once the VM is gone.
const TRANSIENT: [&str; 4] = ["host.pid", "qemu.pid", "ctl", "sim"];

/// Why a VM's folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A name that is not safe as a file name.
    #[error(
        "{0:?} cannot name a VM: use 1 to {NAME_MAX} letters, digits, '-', '_' or '.', beginning with a letter"
    )]
    Name(String),
    /// Another process owns it.
    #[error(
        "a VM named {0:?} is running already: choose another --name, or stop that one with `cocoon-host down`"
    )]
    Running(String),
    /// Nowhere to keep state.
    #[error("there is no home folder to keep state in: set COCOON_STATE to a folder of your own")]
    NoHome,
    /// Sockets do not fit.
    #[error(
        "the folder {path:?} is too long for a unix socket (at most {SOCKET_MAX} bytes with the file name): set COCOON_STATE to a shorter one"
    )]
    TooLong {
        /// The folder.
        path: PathBuf,
    },
    /// The disk is full.
    #[error(
        "no space left for {path:?}: free some, or set COCOON_STATE to a folder on another disk"
    )]
    NoSpace {
        /// The file.
        path: PathBuf,
    },
    /// Anything else.
    #[error("cannot {operation} {path:?}")]
    File {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Turns an I/O error into one that says what to do.
pub(crate) fn fail(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateError {
    let path = path.to_owned();
    move |source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StateError::NoSpace { path },
        _ => StateError::File {
            operation,
            path,
            source,
        },
    }
}

/// `$COCOON_STATE`, or `$XDG_STATE_HOME/cocoon`, or `~/.local/state/cocoon`.
///
/// # Errors
/// [`StateError::NoHome`] when none of them is known.
pub fn root() -> Result<PathBuf, StateError> {
    let variable = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    variable("COCOON_STATE")
        .or_else(|| Some(variable("XDG_STATE_HOME")?.join("cocoon")))
        .or_else(|| Some(variable("HOME")?.join(".local/state/cocoon")))
        .ok_or(StateError::NoHome)
}

/// The names of all VMs that have a folder, running or not, in order.
///
/// # Errors
/// [`StateError::File`] when the folder cannot be read; that it is not there is no error.
pub fn names(root: &Path) -> Result<Vec<String>, StateError> {
    let folder = root.join("vms");
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        entries => entries.map_err(fail("read", &folder))?,
    };
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.retain(|name| check(name).is_ok());
    names.sort();
    Ok(names)
}

/// The folder of the VM `name`, whether it exists or not.
///
/// # Errors
/// [`StateError::Name`].
pub fn folder(root: &Path, name: &str) -> Result<PathBuf, StateError> {
    check(name)?;
    Ok(root.join("vms").join(name))
}

pub(crate) fn check(name: &str) -> Result<(), StateError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let good = name.len() <= NAME_MAX
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(plain);
    if good {
        Ok(())
    } else {
        Err(StateError::Name(name.to_owned()))
    }
}

/// The folder of the VM `name`, made if necessary, its owner's alone.
///
/// # Errors
/// [`StateError`].
pub(crate) fn prepare(root: &Path, name: &str) -> Result<PathBuf, StateError> {
    let path = folder(root, name)?;
    if path.as_os_str().len() + "/ctl".len() > SOCKET_MAX {
        return Err(StateError::TooLong { path });
    }
    folder_of_ours(&root.join("vms"))?;
    folder_of_ours(&path)?;
    Ok(path)
}

/// Writes a whole file for its owner alone: readers see the old one or the new one.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), StateError> {
    write_with(path, bytes, |_| Ok(()))
}

fn write_with(
    path: &Path,
    bytes: &[u8],
    sync: impl FnOnce(&File) -> io::Result<()>,
) -> Result<(), StateError> {
    let (mut file, partial) = begin(path)?;
    file.write_all(bytes).map_err(fail("write", &partial))?;
    sync(&file).map_err(fail("write", &partial))?;
    fs::rename(&partial, path).map_err(fail("replace", path))
}

/// An empty file beside `path`, to take its place.
fn begin(path: &Path) -> Result<(File, PathBuf), StateError> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let file = private().truncate(true).open(&partial);
    Ok((file.map_err(fail("write", &partial))?, partial))
}

/// The same, on the disk itself before it returns: for what must survive a power cut.
pub(crate) fn write_durably(path: &Path, bytes: &[u8]) -> Result<(), StateError> {
    write_with(path, bytes, File::sync_all)?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(fail("keep", folder))
}

/// Listens at `path` for this user alone; a socket that was left behind there is replaced. Needs a runtime.
pub(crate) fn listen(path: &Path) -> Result<UnixListener, StateError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(fail("replace", path)(error)),
        _ => bind(path),
    }
}

fn bind(path: &Path) -> Result<UnixListener, StateError> {
    let listener = UnixListener::bind(path).map_err(fail("listen on", path))?;
    // Between the two calls the umask decides, inside a folder that nobody else can enter.
    restrict(path, 0o600)?;
    Ok(listener)
}

/// The folder of a VM that this process owns. Dropping it lets go: transient files are removed.
#[derive(Debug)]
pub struct VmFolder {
    path: PathBuf,
    /// The lock lasts as long as the file is open.
    _lock: File,
}

impl VmFolder {
    /// Takes the folder of `name`, made if necessary.
    ///
    /// # Errors
    /// [`StateError`]; in particular when the VM runs already.
    pub fn take(root: &Path, name: &str) -> Result<Self, StateError> {
        let path = prepare(root, name)?;
        let lock_path = path.join("lock");
        let lock = private()
            .open(&lock_path)
            .map_err(fail("open", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StateError::Running(name.to_owned())),
            Err(TryLockError::Error(source)) => return Err(fail("lock", &lock_path)(source)),
        }
        let folder = Self { path, _lock: lock };
        folder.clean();
        folder.write("host.pid", format!("{}\n", std::process::id()).as_bytes())?;
        Ok(folder)
    }

    /// The path of a file in the folder.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Writes a whole file: readers see the old one or the new one.
    ///
    /// # Errors
    /// [`StateError::NoSpace`] or [`StateError::File`].
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<PathBuf, StateError> {
        let path = self.file(name);
        write(&path, bytes)?;
        Ok(path)
    }

    /// Opens an empty file to write on, in the place of the last run's: who follows that one sees that there is another.
    ///
    /// # Errors
    /// [`StateError::NoSpace`] or [`StateError::File`].
    pub fn create(&self, name: &str) -> Result<File, StateError> {
        let path = self.file(name);
        let (file, partial) = begin(&path)?;
        fs::rename(&partial, &path).map_err(fail("replace", &path))?;
        Ok(file)
    }

    /// Listens on a socket in the folder, for this user alone. Needs a runtime.
    ///
    /// # Errors
    /// [`StateError::NoSpace`] or [`StateError::File`].
    pub fn listen(&self, name: &str) -> Result<UnixListener, StateError> {
        bind(&self.file(name))
    }

    fn clean(&self) {
        for name in TRANSIENT {
            // What is not there needs no removing; what cannot be removed is replaced at the next start.
            let _ = fs::remove_file(self.file(name));
        }
    }
}

impl Drop for VmFolder {
    fn drop(&mut self) {
        self.clean();
    }
}

/// Makes a folder that only we can enter, or makes an old one so.
pub(crate) fn folder_of_ours(path: &Path) -> Result<(), StateError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(fail("create", path))?;
    restrict(path, 0o700)
}

pub(crate) fn restrict(path: &Path, mode: u32) -> Result<(), StateError> {
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(fail("restrict", path))
}

pub(crate) fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_owner_and_is_left_clean() {
        let root = tempfile::tempdir().unwrap();
        let vm = VmFolder::take(root.path(), "first").unwrap();
        assert!(vm.file("host.pid").is_file());
        let error = VmFolder::take(root.path(), "first")
            .unwrap_err()
            .to_string();
        let text = "a VM named \"first\" is running already: choose another --name, or stop that one with \
                    `cocoon-host down`";
        assert_eq!(error, text);
        // A file of the last run is another one, also for who has it open.
        let mut last = vm.create("log").unwrap();
        last.write_all(b"a whole run").unwrap();
        let next = vm.create("log").unwrap();
        assert_eq!(last.metadata().unwrap().len(), 11);
        assert_eq!(next.metadata().unwrap().len(), 0);
        let pid = vm.file("host.pid");
        drop(vm);
        assert!(!pid.exists());
        VmFolder::take(root.path(), "first").unwrap();
        assert_eq!(names(root.path()).unwrap(), ["first"]);
    }

    #[test]
    fn names_cannot_leave_the_folder() {
        for name in ["", "..", "a/b", "-x", "a\n", &"a".repeat(33)] {
            assert!(
                matches!(folder(Path::new("/"), name), Err(StateError::Name(_))),
                "{name:?}"
            );
        }
        let error = VmFolder::take(Path::new(&format!("/{}", "x".repeat(100))), "a").unwrap_err();
        assert!(matches!(error, StateError::TooLong { .. }));
    }
}
