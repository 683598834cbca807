//! The files of each VM, and the list of VMs: `$COCOON_STATE/vms/NAME/`, accessible to the owner only.
//!
//! | file | purpose |
//! |---|---|
//! | `lock` | held while the VM lives, by the process that owns it |
//! | `host.pid`, `qemu.pid` | process ids of the owning process and of QEMU |
//! | `ctl` | socket for `ps` and `down` |
//! | `sim` | socket of the simulator, in simulated modes |
//! | `serial.log` | the first [`SERIAL_LIMIT`](crate::up::SERIAL_LIMIT) bytes of the console's output |
//! | `log.jsonl` | console lines and the host agent's own news, with times: [`log`](crate::log) |
//! | `phases.json` | timings of the boot |
//! | `trust-root.pem` | the development root, in simulated modes |
//! | `manifest.json` | the manifest that this host publishes |
//! | `sup`, `launch.json`, `ending.json`, `supervisor.log`, `supervisor.pid` | for VMs of the daemon only: [`supervisor`](crate::supervisor) |
//! | `life.json` | for VMs of the daemon only: [`lifecycle`](crate::lifecycle) |
//!
//! The folder has mode 0700 and its files have mode 0600, whatever the umask: any process that can connect to `ctl` can
//! stop the VM.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

/// Longest path of a Unix socket, in bytes.
const SOCKET_MAX: usize = 107;
/// Longest name of a VM, in characters.
pub(crate) const NAME_MAX: usize = 32;
/// Files that are meaningless once the VM is gone.
const TRANSIENT: [&str; 4] = ["host.pid", "qemu.pid", "ctl", "sim"];

/// Why a VM's folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The name is not safe as a file name.
    #[error(
        "{0:?} cannot name a VM: use 1 to {NAME_MAX} letters, digits, '-', '_' or '.', beginning with a letter"
    )]
    Name(String),
    /// Another process owns the folder: the VM is running.
    #[error(
        "a VM named {0:?} is running already: choose another --name, or stop that one with `cocoon-host down`"
    )]
    Running(String),
    /// No folder for state is known.
    #[error("there is no home folder to keep state in: set COCOON_STATE to a folder of your own")]
    NoHome,
    /// The folder's path is too long for its sockets.
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
    /// Any other failure of a file operation.
    #[error("cannot {operation} {path:?}")]
    File {
        /// The operation, such as "write".
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
}

/// Returns a function that turns an I/O error into one that tells the operator what to do.
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

/// Returns the state folder: `$COCOON_STATE`, `$XDG_STATE_HOME/cocoon` or `~/.local/state/cocoon`.
///
/// # Errors
/// [`StateError::NoHome`] if none of these variables is set.
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

/// Returns the sorted names of all VMs that have a folder, running or not.
///
/// # Errors
/// [`StateError::File`] if the folder exists but cannot be read.
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

/// Returns the folder of the VM `name`, whether or not it exists.
///
/// # Errors
/// [`StateError::Name`] if the name is not safe as a file name.
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

/// Creates the folder of the VM `name` if necessary and restricts it to its owner.
///
/// # Errors
/// [`StateError`] if the name is unsafe, the path is too long or the folder cannot be created.
pub(crate) fn prepare(root: &Path, name: &str) -> Result<PathBuf, StateError> {
    let path = folder(root, name)?;
    if path.as_os_str().len() + "/ctl".len() > SOCKET_MAX {
        return Err(StateError::TooLong { path });
    }
    folder_of_ours(&root.join("vms"))?;
    folder_of_ours(&path)?;
    Ok(path)
}

/// Replaces a whole file, accessible to its owner only. Readers see the old contents or the new ones.
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

/// Creates an empty file beside `path` that will replace it.
fn begin(path: &Path) -> Result<(File, PathBuf), StateError> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let file = private().truncate(true).open(&partial);
    Ok((file.map_err(fail("write", &partial))?, partial))
}

/// Writes as `write` does, and returns only when the data is on disk, so that it survives a power failure.
pub(crate) fn write_durably(path: &Path, bytes: &[u8]) -> Result<(), StateError> {
    write_with(path, bytes, File::sync_all)?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(fail("keep", folder))
}

/// Listens at `path` for this user only, and replaces a socket that was left behind. Needs a Tokio runtime.
pub(crate) fn listen(path: &Path) -> Result<UnixListener, StateError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(fail("replace", path)(error)),
        _ => bind(path),
    }
}

fn bind(path: &Path) -> Result<UnixListener, StateError> {
    let listener = UnixListener::bind(path).map_err(fail("listen on", path))?;
    // Until this call the umask decides the socket's mode, but no other user can enter the folder.
    restrict(path, 0o600)?;
    Ok(listener)
}

/// The folder of a VM that this process owns. Dropping it removes the transient files and releases the lock.
#[derive(Debug)]
pub struct VmFolder {
    path: PathBuf,
    /// The lock lasts as long as this file is open.
    _lock: File,
}

impl VmFolder {
    /// Takes the folder of `name`, creating it if necessary.
    ///
    /// # Errors
    /// [`StateError`], in particular [`StateError::Running`] if the VM is running.
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

    /// Returns the path of a file in the folder.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Replaces a whole file. Readers see the old contents or the new ones.
    ///
    /// # Errors
    /// [`StateError::NoSpace`] or [`StateError::File`] if it cannot be written.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<PathBuf, StateError> {
        let path = self.file(name);
        write(&path, bytes)?;
        Ok(path)
    }

    /// Creates an empty file in place of the last run's and opens it for writing. A reader of the old one can tell that
    /// it was replaced.
    ///
    /// # Errors
    /// [`StateError::NoSpace`] or [`StateError::File`] if it cannot be created.
    pub fn create(&self, name: &str) -> Result<File, StateError> {
        let path = self.file(name);
        let (file, partial) = begin(&path)?;
        fs::rename(&partial, &path).map_err(fail("replace", &path))?;
        Ok(file)
    }

    /// Listens on a socket in the folder, for this user only. Needs a Tokio runtime.
    ///
    /// # Errors
    /// [`StateError::NoSpace`] or [`StateError::File`] if it cannot be bound.
    pub fn listen(&self, name: &str) -> Result<UnixListener, StateError> {
        bind(&self.file(name))
    }

    fn clean(&self) {
        for name in TRANSIENT {
            // A missing file needs no removal, and one that cannot be removed is replaced at the next start.
            let _ = fs::remove_file(self.file(name));
        }
    }
}

impl Drop for VmFolder {
    fn drop(&mut self) {
        self.clean();
    }
}

/// Creates a folder that only its owner can enter, or restricts an existing one.
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
        // The new file does not truncate the last run's, which a reader may have open.
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
