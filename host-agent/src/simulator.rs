//! The simulator's process and its socket. The host agent starts it as a child that cannot outlive it, has it measure a
//! VM, and then requests evidence from it.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc;
use std::time::Duration;

use cocoon_protocol::binding::Tee;
use cocoon_protocol::bytes::{Hex32, Hex64};
use cocoon_protocol::document::{Collateral, Evidence};
use cocoon_protocol::frame::{self, Decoder, FrameError};
use cocoon_protocol::gpu::{CollectedGpu, GpuCollateral};
use cocoon_protocol::simulator::{MAX_SIMULATOR_MESSAGE, SimulatorReply, SimulatorRequest};
use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// Name of the simulator's program.
pub const PROGRAM: &str = "cocoon-simulator";
/// How long the simulator may take to start. RSA key generation at the first start takes seconds, much longer on a busy
/// machine.
const START: Duration = Duration::from_secs(180);
/// How long an answer may take. Reading and hashing a large image dominates; signing takes milliseconds.
const ANSWER: Duration = Duration::from_secs(60);
/// How long a killed process may take to end. It takes milliseconds unless the kernel itself hangs.
const REAP: Duration = Duration::from_secs(2);

/// Why there is no simulated evidence.
#[derive(Debug, thiserror::Error)]
pub enum SimulatorError {
    /// The program was not found.
    #[error(
        "{PROGRAM} was not found beside {beside:?}: build it with `cargo build -p cocoon-simulator`, or name it with --simulator"
    )]
    Missing {
        /// The folder that was searched.
        beside: PathBuf,
    },
    /// The program cannot be started.
    #[error("cannot start the simulator {program:?}")]
    Start {
        /// The program.
        program: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The simulator ended or hung before it listened.
    #[error("the simulator {program:?} did not begin to listen: {said}")]
    NotListening {
        /// The program.
        program: PathBuf,
        /// Last line of its output.
        said: String,
    },
    /// The connection to the simulator broke.
    #[error("lost the simulator")]
    Io(#[from] io::Error),
    /// The simulator did not answer in time.
    #[error("the simulator did not answer within {} seconds", ANSWER.as_secs())]
    Late,
    /// An earlier request has no complete answer yet, so the next answer could be to that one.
    #[error(
        "the simulator left an earlier question unanswered, so that its next answer could be to that one: start the VM again"
    )]
    Unanswered,
    /// The simulator's answer cannot be decoded.
    #[error("the simulator's answer cannot be read")]
    Frame(#[from] FrameError),
    /// The simulator answered a different request.
    #[error("the simulator answered another question")]
    OutOfStep,
    /// The simulator refused the request.
    #[error("{0}")]
    Refused(String),
}

/// A running simulator. Dropping it kills it.
#[derive(Debug)]
pub struct Simulator {
    /// Child process. It also holds the simulator's standard input: the simulator ends when that closes, however this
    /// process ends.
    child: Child,
    socket: PathBuf,
}

impl Simulator {
    /// Returns the program `named`, or the one beside this executable or one folder above it, where tests run.
    ///
    /// # Errors
    /// [`SimulatorError::Missing`] if there is none.
    pub fn find(named: Option<&Path>) -> Result<PathBuf, SimulatorError> {
        if let Some(named) = named {
            return Ok(named.to_owned());
        }
        let own = std::env::current_exe()?;
        let beside = own.parent().unwrap_or(Path::new("/")).to_owned();
        let candidates = [beside.join(PROGRAM), beside.join("..").join(PROGRAM)];
        candidates
            .into_iter()
            .find(|path| path.is_file())
            .ok_or(SimulatorError::Missing { beside })
    }

    /// Starts `program` on `socket` with the development roots in `roots`, and waits until it listens. Its progress
    /// goes to `notice`, line by line.
    ///
    /// # Errors
    /// [`SimulatorError`] if the program cannot be started, or does not listen in time.
    pub async fn start(
        program: &Path,
        socket: &Path,
        roots: &Path,
        notice: impl Fn(&str),
    ) -> Result<Self, SimulatorError> {
        let child = Command::new(program)
            .args([
                "--until-stdin-closes".as_ref(),
                "--socket".as_ref(),
                socket.as_os_str(),
                "--roots".as_ref(),
            ])
            .arg(roots)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C in the terminal is meant for the host agent, which ends the simulator when it is done with it.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| SimulatorError::Start {
                program: program.to_owned(),
                source,
            })?;
        // From here on, dropping this future kills the program, even while it still prepares itself.
        let mut started = Self {
            child,
            socket: socket.to_owned(),
        };
        let mut said = String::from("it said nothing");
        let pipes = (started.child.stdout.take(), started.child.stderr.take());
        let (Some(stdout), Some(stderr)) = pipes else {
            return Err(SimulatorError::Io(io::ErrorKind::BrokenPipe.into()));
        };
        let (mut ready, mut progress) = (
            BufReader::new(stdout).lines(),
            BufReader::new(stderr.take(1 << 20)).lines(),
        );
        let listening = async {
            loop {
                tokio::select! {
                    line = ready.next_line() => break line,
                    Ok(Some(line)) = progress.next_line() => {
                        said = crate::text::plain(&line, 400);
                        notice(&said);
                    }
                }
            }
        };
        let listening = timeout(START, listening).await;
        if !matches!(listening, Ok(Ok(Some(ref line))) if line == "listening") {
            while let Ok(Ok(Some(line))) =
                timeout(Duration::from_secs(1), progress.next_line()).await
            {
                said = crate::text::plain(&line, 400);
            }
            return Err(SimulatorError::NotListening {
                program: program.to_owned(),
                said,
            });
        }
        // Standard error is read to its end: a late message must not end the simulator with a broken pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = progress.next_line().await {} });
        Ok(started)
    }

    /// Opens a connection for one VM.
    ///
    /// # Errors
    /// [`SimulatorError::Io`] if the socket cannot be connected to.
    pub async fn connect(&self) -> Result<Connection, SimulatorError> {
        let stream = UnixStream::connect(&self.socket).await?;
        Ok(Connection {
            stream,
            decoder: Decoder::new(MAX_SIMULATOR_MESSAGE),
            asked: false,
        })
    }
}

impl Drop for Simulator {
    /// Kills and reaps the simulator: where nothing adopts orphans, a process that is only killed stays a zombie.
    fn drop(&mut self) {
        // Killing fails only if the process has ended.
        let _ = self.child.start_kill();
        if let Some(pid) = self.child.id().and_then(|id| i32::try_from(id).ok()) {
            await_end(Pid::from_raw(pid), REAP);
        }
        // This reaps the process.
        let _ = self.child.try_wait();
    }
}

/// Waits until the child has ended, or until `patience` is over: then it hangs inside the kernel, and nothing more can
/// be done. The child is not reaped, so its process id stays reserved.
fn await_end(child: Pid, patience: Duration) {
    let (ended, end) = mpsc::channel();
    let wait = move || {
        let ending = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        while waitid(Id::Pid(child), ending) == Err(Errno::EINTR) {}
        // The receiver is gone after the deadline.
        let _ = ended.send(());
    };
    // If no thread can be started, there is no wait.
    if std::thread::Builder::new().spawn(wait).is_ok() {
        let _ = end.recv_timeout(patience);
    }
}

/// What the simulator measures in addition to the files that QEMU uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// Process id of QEMU.
    pub pid: u32,
    /// The TEE to simulate.
    pub tee: Tee,
    /// The SNP firmware.
    pub snp_firmware: PathBuf,
    /// CPU model for SEV-SNP.
    pub cpu_model: String,
    /// Canonical operator configuration.
    pub config: Vec<u8>,
}

/// The simulator connection of one VM.
pub struct Connection {
    stream: UnixStream,
    decoder: Decoder,
    /// Whether a request is outstanding or was abandoned: answers carry no numbers.
    asked: bool,
}

impl Connection {
    /// Has the VM measured. Returns its collateral and the development root as PEM.
    ///
    /// # Errors
    /// [`SimulatorError::Refused`] with the simulator's reason; any other [`SimulatorError`] if the connection fails.
    pub async fn launch(
        &mut self,
        launch: &Launch,
    ) -> Result<(Collateral, String), SimulatorError> {
        let request = SimulatorRequest::Launch {
            pid: launch.pid,
            tee: launch.tee,
            snp_firmware: Some(launch.snp_firmware.to_string_lossy().into_owned()),
            cpu_model: launch.cpu_model.clone(),
            config: launch.config.clone().into(),
        };
        match self.ask(&request).await? {
            SimulatorReply::Launched {
                collateral,
                root_pem,
            } => Ok((collateral, root_pem)),
            SimulatorReply::Error { message } => Err(SimulatorError::Refused(message)),
            _ => Err(SimulatorError::OutOfStep),
        }
    }

    /// Returns evidence over `report_data`.
    ///
    /// # Errors
    /// As for [`Self::launch`].
    pub async fn evidence(&mut self, report_data: Hex64) -> Result<Evidence, SimulatorError> {
        match self
            .ask(&SimulatorRequest::Evidence { report_data })
            .await?
        {
            SimulatorReply::Evidence { evidence } => Ok(evidence),
            SimulatorReply::Error { message } => Err(SimulatorError::Refused(message)),
            _ => Err(SimulatorError::OutOfStep),
        }
    }

    /// Returns the evidence of the VM's simulated GPUs over `nonce`.
    ///
    /// # Errors
    /// As for [`Self::launch`].
    pub async fn gpus(&mut self, nonce: Hex32) -> Result<Vec<CollectedGpu>, SimulatorError> {
        match self.ask(&SimulatorRequest::GpuEvidence { nonce }).await? {
            SimulatorReply::GpuEvidence { gpus } => Ok(gpus),
            SimulatorReply::Error { message } => Err(SimulatorError::Refused(message)),
            _ => Err(SimulatorError::OutOfStep),
        }
    }

    /// Returns the collateral that NVIDIA would provide for the simulated GPUs.
    ///
    /// # Errors
    /// As for [`Self::launch`].
    pub async fn gpu_collateral(&mut self) -> Result<GpuCollateral, SimulatorError> {
        match self.ask(&SimulatorRequest::GpuCollateral).await? {
            SimulatorReply::GpuCollateral { collateral } => Ok(collateral),
            SimulatorReply::Error { message } => Err(SimulatorError::Refused(message)),
            _ => Err(SimulatorError::OutOfStep),
        }
    }

    async fn ask(&mut self, request: &SimulatorRequest) -> Result<SimulatorReply, SimulatorError> {
        self.ask_within(ANSWER, request).await
    }

    async fn ask_within(
        &mut self,
        patience: Duration,
        request: &SimulatorRequest,
    ) -> Result<SimulatorReply, SimulatorError> {
        if std::mem::replace(&mut self.asked, true) {
            return Err(SimulatorError::Unanswered);
        }
        let reply = timeout(patience, async {
            self.stream
                .write_all(&frame::encode(request, MAX_SIMULATOR_MESSAGE)?)
                .await?;
            let mut buffer = vec![0; 64 * 1024];
            loop {
                if let Some(reply) = self.decoder.next()? {
                    return Ok(reply);
                }
                match self.stream.read(&mut buffer).await? {
                    0 => return Err(SimulatorError::Io(io::ErrorKind::UnexpectedEof.into())),
                    count => self.decoder.push(&buffer[..count]),
                }
            }
        })
        .await
        .map_err(|_| SimulatorError::Late)??;
        self.asked = false;
        Ok(reply)
    }
}

#[cfg(test)]
mod tests;
