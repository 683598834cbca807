//! The simulated machine as the host agent sees it: frames of `cocoon_protocol::simulator` on a unix socket, one
//! connection per VM, `Launch` first and then `Evidence` for as long as the VM lives.

use std::error::Error;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use cocoon_protocol::frame::{self, Decoder, FrameError};
use cocoon_protocol::gpu::MAX_GPUS;
use cocoon_protocol::simulator::{MAX_SIMULATOR_MESSAGE, SimulatorReply, SimulatorRequest};

use crate::launch::{LaunchOptions, Launched};
use crate::nvidia::GpuSimulator;
use crate::opened::Opened;
use crate::roots::Roots;

/// VMs at once.
pub const MAX_CONNECTIONS: usize = 64;
/// Largest request, in bytes: a configuration and a path.
pub const MAX_REQUEST: usize = 64 * 1024;

/// Why the socket cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Something that is no socket, or a living one.
    #[error("{0:?} exists and is in use; remove it or name another path")]
    InUse(PathBuf),
    /// Binding or accepting.
    #[error(
        "cannot {operation} the socket {path:?}; its folder must exist and its path have at most 107 bytes"
    )]
    Socket {
        /// What was tried.
        operation: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Listens at `path`, for this user alone; a dead socket that lies there is replaced.
///
/// # Errors
/// [`ServerError`] says what stands in the way.
pub fn listen(path: &Path) -> Result<UnixListener, ServerError> {
    let fail = |operation| {
        move |source| ServerError::Socket {
            operation,
            path: path.to_owned(),
            source,
        }
    };
    if let Ok(found) = fs::symlink_metadata(path) {
        if !found.file_type().is_socket() || UnixStream::connect(path).is_ok() {
            return Err(ServerError::InUse(path.to_owned()));
        }
        fs::remove_file(path).map_err(fail("replace"))?;
    }
    let listener = UnixListener::bind(path).map_err(fail("bind"))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(fail("protect"))?;
    Ok(listener)
}

/// Serves connections until `listener` fails, one thread each.
///
/// # Errors
/// The listener's, which then accepts no more.
pub fn serve(listener: &UnixListener, roots: &Arc<Roots>) -> io::Result<()> {
    let open = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        let mut stream = match stream {
            Ok(stream) => stream,
            // The peer left before it was accepted.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => return Err(error),
        };
        let guard = Guard(Arc::clone(&open));
        if open.fetch_add(1, Ordering::Relaxed) >= MAX_CONNECTIONS {
            let message = format!("{MAX_CONNECTIONS} VMs are connected already; stop one");
            // Whether it hears this or not, the connection ends here.
            let _ = reply(&mut stream, &SimulatorReply::Error { message });
            continue;
        }
        let roots = Arc::clone(roots);
        std::thread::Builder::new()
            .name("vm".into())
            .spawn(move || {
                let _guard = guard;
                // A connection that breaks is a VM that ended; there is nobody to tell.
                let _ = connection(&mut stream, &roots);
            })?;
    }
    Ok(())
}

/// Counts a connection off when it ends, in whatever way.
struct Guard(Arc<AtomicUsize>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Serves one VM: returns when the peer closes or breaks the protocol.
fn connection(stream: &mut UnixStream, roots: &Roots) -> io::Result<()> {
    let mut decoder = Decoder::new(MAX_REQUEST);
    let mut launched = None;
    loop {
        let request = match receive(stream, &mut decoder)? {
            Ok(Some(request)) => request,
            Ok(None) => return Ok(()),
            Err(error) => {
                return reply(
                    stream,
                    &SimulatorReply::Error {
                        message: chain(&error),
                    },
                );
            }
        };
        let answer =
            answer(request, &mut launched, roots).unwrap_or_else(|error| SimulatorReply::Error {
                message: chain(error.as_ref()),
            });
        reply(stream, &answer)?;
    }
}

/// A launched VM and its simulated GPUs, if its measured command line asks for some.
struct Vm<'a> {
    launched: Launched<'a>,
    gpus: Option<GpuSimulator>,
}

fn answer<'a>(
    request: SimulatorRequest,
    launched: &mut Option<Vm<'a>>,
    roots: &'a Roots,
) -> Result<SimulatorReply, Box<dyn Error>> {
    match (request, launched.as_ref()) {
        (SimulatorRequest::Launch { .. }, Some(_)) => {
            Err("a VM was launched on this connection already: open another for another".into())
        }
        (
            SimulatorRequest::Launch {
                pid,
                tee,
                snp_firmware,
                cpu_model,
                config,
            },
            None,
        ) => {
            let options = LaunchOptions {
                tee,
                snp_firmware: snp_firmware.map(Into::into),
                cpu_model,
                config: config.0,
            };
            let opened = Opened::by(pid)?;
            let vm = Launched::new(&opened, &options, roots)?;
            let gpus = match gpus_wanted(&opened.append) {
                0 => None,
                count => Some(roots.gpus(count)?),
            };
            let mut root_pem = roots.root_pem(tee)?;
            if let Some(gpus) = &gpus {
                root_pem.push_str(&gpus.roots_pem()?);
            }
            let reply = SimulatorReply::Launched {
                collateral: vm.collateral(now())?,
                root_pem,
            };
            *launched = Some(Vm { launched: vm, gpus });
            Ok(reply)
        }
        (_, None) => {
            Err("no VM was launched on this connection: launch before asking for evidence".into())
        }
        (SimulatorRequest::Evidence { report_data }, Some(vm)) => Ok(SimulatorReply::Evidence {
            evidence: vm.launched.evidence(&report_data)?,
        }),
        (SimulatorRequest::GpuEvidence { nonce }, Some(vm)) => Ok(SimulatorReply::GpuEvidence {
            gpus: vm.gpus.as_ref().ok_or(NO_GPUS)?.collect(&nonce)?,
        }),
        (SimulatorRequest::GpuCollateral, Some(vm)) => Ok(SimulatorReply::GpuCollateral {
            collateral: vm.gpus.as_ref().ok_or(NO_GPUS)?.collateral(now())?,
        }),
    }
}

/// How many simulated GPUs a command line asks for: what is measured decides, and nobody else.
fn gpus_wanted(command_line: &str) -> u16 {
    let wanted = command_line
        .split_ascii_whitespace()
        .find_map(|word| word.strip_prefix("cocoon.gpu=simulated:"));
    // More than a guest takes, or no number: the guest refuses its own command line.
    wanted
        .and_then(|count| count.parse().ok())
        .and_then(|count: usize| u16::try_from(count.min(MAX_GPUS)).ok())
        .unwrap_or(0)
}

const NO_GPUS: &str =
    "this VM has no simulated GPUs: its command line asks for none (cocoon.gpu=simulated:N)";

type Received = Result<Option<SimulatorRequest>, FrameError>;

/// The next request; `None` when the peer has closed.
fn receive(stream: &mut UnixStream, decoder: &mut Decoder) -> io::Result<Received> {
    let mut buffer = [0; 4096];
    loop {
        match decoder.next() {
            Ok(None) => {}
            other => return Ok(other),
        }
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(Ok(None)),
            Ok(count) => decoder.push(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn reply(stream: &mut UnixStream, reply: &SimulatorReply) -> io::Result<()> {
    let bytes = frame::encode(reply, MAX_SIMULATOR_MESSAGE).map_err(io::Error::other)?;
    stream.write_all(&bytes)
}

/// An error and its causes in one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

#[cfg(test)]
mod tests {
    use super::gpus_wanted;

    #[test]
    fn the_measured_command_line_says_how_many_gpus_there_are() {
        for (command_line, gpus) in [
            ("quiet panic=-1", 0),
            ("quiet cocoon.gpu=simulated:2 panic=-1", 2),
            ("cocoon.gpu=nvidia", 0),
            ("cocoon.gpu=simulated:", 0),
            ("cocoon.gpu=simulated:-1", 0),
            ("xcocoon.gpu=simulated:1", 0),
            ("cocoon.gpu=simulated:65535", 16),
        ] {
            assert_eq!(gpus_wanted(command_line), gpus, "{command_line}");
        }
    }
}
