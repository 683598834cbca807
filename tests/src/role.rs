//! One executable in two roles: itself, and the simulator's process when it is started by the
//! simulator's name.
//!
//! The simulator must be a process of its own, and `cargo run` builds one executable only.

use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The name under which an executable is the simulator.
const SIMULATOR: &str = "cocoon-simulator";

/// Runs the simulator and returns its exit code when this process was started by its name.
pub fn simulator_if_named() -> Option<ExitCode> {
    let name = std::env::args_os().next()?;
    let named = Path::new(&name).file_name()? == SIMULATOR;
    named.then(cocoon_simulator::command::main)
}

/// A way to start `executable` as the simulator: a link of that name in `folder`.
pub fn simulator_link(executable: &Path, folder: &Path) -> io::Result<PathBuf> {
    let link = folder.join(SIMULATOR);
    match symlink(executable, &link) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(link),
    }
}
