//! The simulated machine as the host agent sees it: frames of `cocoon_protocol::simulator` on a Unix socket. Each connection
//! is one VM: `Launch` comes first, and then requests for evidence as long as the VM lives.

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

/// Largest number of VMs at once.
pub const MAX_CONNECTIONS: usize = 64;
/// Largest request, in bytes: a configuration and a path.
pub const MAX_REQUEST: usize = 64 * 1024;

/// Why the simulator cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The path exists and is not a socket, or another process listens on it.
    #[error("{0:?} exists and is in use; remove it or name another path")]
    InUse(PathBuf),
    /// An operation on the socket failed.
    #[error(
        "cannot {operation} the socket {path:?}; its folder must exist and its path have at most 107 bytes"
    )]
    Socket {
        /// Failed operation.
        operation: &'static str,
        /// Path of the socket.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
}

/// Listens at `path`, with access for this user only. Replaces a socket on which no process listens.
///
/// # Errors
/// [`ServerError`] names the obstacle.
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

/// Serves each connection in a thread of its own until accepting fails.
///
/// # Errors
/// Accepting a connection or starting a thread failed. No further connections are accepted.
pub fn serve(listener: &UnixListener, roots: &Arc<Roots>) -> io::Result<()> {
    let open = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        let mut stream = match stream {
            Ok(stream) => stream,
            // The peer disconnected before it was accepted.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => return Err(error),
        };
        let guard = Guard(Arc::clone(&open));
        if open.fetch_add(1, Ordering::Relaxed) >= MAX_CONNECTIONS {
            let message = format!("{MAX_CONNECTIONS} VMs are connected already; stop one");
            // The connection is closed whether the peer reads the message or not.
            let _ = reply(&mut stream, &SimulatorReply::Error { message });
            continue;
        }
        let roots = Arc::clone(roots);
        std::thread::Builder::new()
            .name("vm".into())
            .spawn(move || {
                let _guard = guard;
                // A broken connection means that the VM ended, so no peer is left to receive an error.
                let _ = connection(&mut stream, &roots);
            })?;
    }
    Ok(())
}

/// Decrements the count of connections when a connection ends for any reason.
struct Guard(Arc<AtomicUsize>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Serves one VM. Returns when the peer closes the connection or violates the protocol.
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

/// A launched VM and its simulated GPUs, if its measured command line requests any.
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

/// Returns how many simulated GPUs the command line requests. Only measured data decides this.
fn gpus_wanted(command_line: &str) -> u16 {
    let wanted = command_line
        .split_ascii_whitespace()
        .find_map(|word| word.strip_prefix("cocoon.gpu=simulated:"));
    // The guest itself refuses its command line if the number is malformed or too large.
    wanted
        .and_then(|count| count.parse().ok())
        .and_then(|count: usize| u16::try_from(count.min(MAX_GPUS)).ok())
        .unwrap_or(0)
}

const NO_GPUS: &str =
    "this VM has no simulated GPUs: its command line asks for none (cocoon.gpu=simulated:N)";

type Received = Result<Option<SimulatorRequest>, FrameError>;

/// Returns the next request, or `None` if the peer closed the connection.
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

/// Returns an error and its causes on one line.
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
