//! The simulator's process and its socket, as seen from the host agent: started as a child that cannot outlive us,
//! asked to measure a VM, and then for evidence.

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

/// The program's name.
pub const PROGRAM: &str = "cocoon-simulator";
/// Making RSA keys at the first start takes seconds, much longer on a busy machine.
const START: Duration = Duration::from_secs(180);
/// Reading and hashing a large image; signing takes milliseconds.
const ANSWER: Duration = Duration::from_secs(60);
/// A killed process is gone in milliseconds unless the kernel itself hangs.
const REAP: Duration = Duration::from_secs(2);

/// Why there is no simulated evidence.
#[derive(Debug, thiserror::Error)]
pub enum SimulatorError {
    /// The program is not there.
    #[error(
        "{PROGRAM} was not found beside {beside:?}: build it with `cargo build -p cocoon-simulator`, or name it with --simulator"
    )]
    Missing {
        /// The folder that was searched.
        beside: PathBuf,
    },
    /// It does not start.
    #[error("cannot start the simulator {program:?}")]
    Start {
        /// The program.
        program: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It ended, or hangs, before it listened.
    #[error("the simulator {program:?} did not begin to listen: {said}")]
    NotListening {
        /// The program.
        program: PathBuf,
        /// Its last words.
        said: String,
    },
    /// Its socket broke.
    #[error("lost the simulator")]
    Io(#[from] io::Error),
    /// It did not answer in time.
    #[error("the simulator did not answer within {} seconds", ANSWER.as_secs())]
    Late,
    /// A question before this one has no answer, or half of one: the next thing that comes is not this one's.
    #[error(
        "the simulator left an earlier question unanswered, so that its next answer could be to that one: start the VM again"
    )]
    Unanswered,
    /// It answered something else.
    #[error("the simulator's answer cannot be read")]
    Frame(#[from] FrameError),
    /// It answered a question that was not asked.
    #[error("the simulator answered another question")]
    OutOfStep,
    /// It refused.
    #[error("{0}")]
    Refused(String),
}

/// A running simulator. Dropping it kills it.
#[derive(Debug)]
pub struct Simulator {
    /// Its standard input: it ends when this closes, however we end.
    child: Child,
    socket: PathBuf,
}

impl Simulator {
    /// The program `named`, or the one beside this executable (or one folder up, where tests run).
    ///
    /// # Errors
    /// [`SimulatorError::Missing`].
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
    /// [`SimulatorError`].
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
            // Ctrl-C in the terminal is for us; it ends when we are done with it.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| SimulatorError::Start {
                program: program.to_owned(),
                source,
            })?;
        // From here on it is gone when this call is, be it given up while the program prepares itself.
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
        // Keep its standard error open and empty, so that a late word cannot kill it.
        tokio::spawn(async move { while let Ok(Some(_)) = progress.next_line().await {} });
        Ok(started)
    }

    /// Connects for one VM.
    ///
    /// # Errors
    /// [`SimulatorError::Io`].
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
    /// Kills and reaps: where nobody adopts orphans, a process that is only killed stays behind as a zombie.
    fn drop(&mut self) {
        // The only failure is that it has ended.
        let _ = self.child.start_kill();
        if let Some(pid) = self.child.id().and_then(|id| i32::try_from(id).ok()) {
            await_end(Pid::from_raw(pid), REAP);
        }
        // Reaps it.
        let _ = self.child.try_wait();
    }
}

/// Waits until the child has ended, or no longer than `patience`: then it hangs inside the kernel, and nobody can do more.
/// It is not reaped, so that the number stays its own.
fn await_end(child: Pid, patience: Duration) {
    let (ended, end) = mpsc::channel();
    let wait = move || {
        let ending = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        while waitid(Id::Pid(child), ending) == Err(Errno::EINTR) {}
        // Nobody listens after the deadline.
        let _ = ended.send(());
    };
    // Without a thread nobody waits.
    if std::thread::Builder::new().spawn(wait).is_ok() {
        let _ = end.recv_timeout(patience);
    }
}

/// What is measured beside QEMU's own files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// QEMU's process.
    pub pid: u32,
    /// Which TEE to imitate.
    pub tee: Tee,
    /// SNP firmware.
    pub snp_firmware: PathBuf,
    /// CPU model for SNP.
    pub cpu_model: String,
    /// Canonical operator configuration.
    pub config: Vec<u8>,
}

/// One VM's connection.
pub struct Connection {
    stream: UnixStream,
    decoder: Decoder,
    /// A question is under way, or was given up: answers have no numbers.
    asked: bool,
}

impl Connection {
    /// Has the VM measured; gives endorsements and the development root, PEM.
    ///
    /// # Errors
    /// [`SimulatorError::Refused`] with the simulator's reason, or that the connection broke.
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

    /// Evidence over `report_data`.
    ///
    /// # Errors
    /// As [`Self::launch`].
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

    /// What the VM's simulated GPUs show for `nonce`.
    ///
    /// # Errors
    /// As [`Self::launch`].
    pub async fn gpus(&mut self, nonce: Hex32) -> Result<Vec<CollectedGpu>, SimulatorError> {
        match self.ask(&SimulatorRequest::GpuEvidence { nonce }).await? {
            SimulatorReply::GpuEvidence { gpus } => Ok(gpus),
            SimulatorReply::Error { message } => Err(SimulatorError::Refused(message)),
            _ => Err(SimulatorError::OutOfStep),
        }
    }

    /// What NVIDIA would say about them.
    ///
    /// # Errors
    /// As [`Self::launch`].
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
