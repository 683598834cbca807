//! Lets one executable play three roles, chosen by the name it is started with: itself, the simulator's process, and
//! the supervisor process that owns a VM of the daemon.
//!
//! Simulator and supervisor must be separate processes, and `cargo run` builds only one executable.

use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Name under which the executable runs the simulator.
const SIMULATOR: &str = "cocoon-simulator";
/// Name under which the executable runs a supervisor.
const SUPERVISOR: &str = "cocoon-supervisor";

/// Runs the simulator or a supervisor if this process was started under its name, and returns the exit code.
pub fn other_if_named() -> Option<ExitCode> {
    let name = std::env::args_os().next()?;
    let name = Path::new(&name).file_name()?;
    if name == SIMULATOR {
        return Some(cocoon_simulator::command::main());
    }
    (name == SUPERVISOR).then(|| match supervise() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{SUPERVISOR}: {error:#}");
            ExitCode::from(2)
        }
    })
}

/// Does what `cocoon-host supervise ROOT NAME RUN` does.
fn supervise() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, _, root, name, run] = &arguments[..] else {
        anyhow::bail!("started without root, name and run");
    };
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(cocoon_host_agent::supervisor::supervise(
        Path::new(root),
        name,
        run.parse()?,
    ))
}

/// Makes a link to `executable` in `folder`; started through it, the executable is the simulator.
pub fn simulator_link(executable: &Path, folder: &Path) -> io::Result<PathBuf> {
    link(executable, folder, SIMULATOR)
}

/// Makes a link to `executable` in `folder`; started through it, the executable is a supervisor.
pub fn supervisor_link(executable: &Path, folder: &Path) -> io::Result<PathBuf> {
    link(executable, folder, SUPERVISOR)
}

fn link(executable: &Path, folder: &Path, name: &str) -> io::Result<PathBuf> {
    let link = folder.join(name);
    match symlink(executable, &link) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(link),
    }
}
