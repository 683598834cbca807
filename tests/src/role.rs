//! One executable in three roles: itself, the simulator's process when it is started by the
//! simulator's name, and the process that owns a VM of the daemon when it is started by that one's.
//!
//! Both must be processes of their own, and `cargo run` builds one executable only.

use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The name under which an executable is the simulator.
const SIMULATOR: &str = "cocoon-simulator";
/// The name under which an executable is a supervisor.
const SUPERVISOR: &str = "cocoon-supervisor";

/// Runs the simulator or a supervisor and returns its exit code when this process was started by its name.
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

/// As `cocoon-host supervise ROOT NAME RUN`.
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

/// A way to start `executable` as the simulator: a link of that name in `folder`.
pub fn simulator_link(executable: &Path, folder: &Path) -> io::Result<PathBuf> {
    link(executable, folder, SIMULATOR)
}

/// A way to start `executable` as a supervisor: a link of that name in `folder`.
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
