//! The collector's process: serves the agent over a socket, its standard input, until that closes.

use std::ffi::OsString;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;

use cocoon_gpu::nvml::Nvml;
use cocoon_gpu::{jail, serve};

const USAGE: &str =
    "usage: cocoon-gpu [DEVICES] (started by the guest agent, with its socket as standard input)";

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let devices: OsString = arguments.next().unwrap_or_else(|| "/dev".into());
    let stdin = std::io::stdin();
    let Some(socket) =
        socket(stdin.as_fd().try_clone_to_owned()).filter(|_| arguments.next().is_none())
    else {
        eprintln!("cocoon-gpu: {USAGE}");
        return ExitCode::from(2);
    };
    // Entered before the driver's library is loaded, and while there is only one thread.
    let devices = PathBuf::from(devices);
    if let Err(error) = jail::enter(&devices) {
        return fail(&error);
    }
    match serve::serve(socket, Nvml::load, &devices) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn socket(stdin: std::io::Result<OwnedFd>) -> Option<UnixStream> {
    let socket = UnixStream::from(stdin.ok()?);
    // Fails if standard input is not a Unix socket.
    socket.local_addr().is_ok().then_some(socket)
}

fn fail(error: &dyn std::error::Error) -> ExitCode {
    // Goes to /dev/null in the appliance. Elsewhere a person may read it.
    let cause = error
        .source()
        .map(|cause| format!(": {cause}"))
        .unwrap_or_default();
    eprintln!("cocoon-gpu: {error}{cause}");
    ExitCode::from(2)
}
