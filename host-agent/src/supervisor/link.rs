//! The daemon's end: starts a supervisor or finds one, hears its reports, and notices its end whatever that is.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use cocoon_protocol::frame::{self, Decoder};
use cocoon_qemu::socket::{self, SocketError};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use super::{
    ENDING, Ended, LAUNCH, Launch, MAX_MESSAGE, OWN_PROGRAM, Order, PID, Report, SOCKET, VERSION,
    WORDS,
};
use crate::lifecycle::Ending;
use crate::state::{self, StateError};
use crate::text::{chain, plain};

/// A process that has closed its socket is gone in no time.
const REAP: Duration = Duration::from_secs(2);
/// How often it is looked for one that is not our child, for which there is no event.
const LOOK: Duration = Duration::from_millis(5);

/// Why a supervisor does not start.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The VM's folder.
    #[error(transparent)]
    State(#[from] StateError),
    /// Its socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// Its process.
    #[error("cannot start the supervisor {program:?}")]
    Start {
        /// The program.
        program: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// What comes from a supervisor.
#[derive(Debug)]
pub enum Heard {
    /// How its VM is.
    Report(Box<Report>),
    /// It is gone, and its VM with it.
    Ended(Ending),
}

/// A supervisor.
pub struct Link {
    folder: PathBuf,
    run: u64,
    stream: UnixStream,
    decoder: Decoder,
    buffer: Vec<u8>,
    /// As long as this daemon started it.
    child: Option<Child>,
    pid: Option<u32>,
    ended: Option<Ending>,
}

impl Link {
    /// Starts a supervisor for `launch` with `program`, this one as a rule; state is kept in `root`, fetched files in
    /// `cache`. It outlives us.
    ///
    /// # Errors
    /// [`LinkError`]. What the VM itself lacks is heard later.
    pub async fn start(
        program: &Path,
        root: &Path,
        cache: Option<&Path>,
        launch: &Launch,
    ) -> Result<Self, LinkError> {
        let folder = state::prepare(root, &launch.name)?;
        let words = folder.join(WORDS);
        let fail = |source| LinkError::Start {
            program: program.to_owned(),
            source,
        };
        // A launch is numbers, names and paths: serialisation cannot fail.
        let bytes = serde_json::to_vec_pretty(launch).unwrap_or_default();
        state::write(&folder.join(LAUNCH), &bytes)?;
        for old in [ENDING, PID] {
            match fs::remove_file(folder.join(old)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(state::fail("remove", &folder.join(old))(error).into());
                }
                _ => {}
            }
        }
        let stderr = File::options()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(&words)
            .map_err(state::fail("write", &words))?;
        // Made here, so that we can connect before it runs, and closed here, so that its end is the socket's.
        let path = folder.join(SOCKET);
        let listener = socket::listen(&path)?;
        state::restrict(&path, 0o600)?;
        let stream = UnixStream::connect(&path).await.map_err(fail)?;
        let mut command = Command::new(program);
        command
            .arg("supervise")
            .arg(root)
            .args([&launch.name, &launch.run.to_string()])
            .stdin(Stdio::from(listener.fd))
            .stdout(Stdio::null())
            .stderr(stderr)
            .kill_on_drop(false);
        if program == Path::new(OWN_PROGRAM) {
            // For the list of processes.
            command.arg0("cocoon-host");
        }
        if let Some(cache) = cache {
            command.env("COCOON_CACHE", cache);
        }
        let child = command.spawn().map_err(fail)?;
        // Standard input was kept by the command until now.
        drop(command);
        let mut link = Self::over(folder, launch.run, stream, Some(child));
        if let Some(pid) = link.pid
            && let Err(error) = state::write(&link.folder.join(PID), pid.to_string().as_bytes())
        {
            // The next daemon could not end it. Whoever starts another one must not meet this one's socket.
            link.kill();
            if let Some(child) = &mut link.child {
                let _ = timeout(REAP, child.wait()).await;
            }
            return Err(error.into());
        }
        Ok(link)
    }

    /// The supervisor of `name` in its run `run`, if it is alive; else how it ended.
    ///
    /// # Errors
    /// The ending, as far as it is known.
    pub async fn find(root: &Path, name: &str, run: u64) -> Result<Self, Ending> {
        let unknown = |error: &dyn std::error::Error| Ending::Failed {
            reason: chain(error),
        };
        let folder = state::folder(root, name).map_err(|error| unknown(&error))?;
        match UnixStream::connect(folder.join(SOCKET)).await {
            Ok(stream) => {
                // Its socket is open, so the number is still its own, also before it has said a word.
                let pid = fs::read_to_string(folder.join(PID)).ok();
                let mut link = Self::over(folder, run, stream, None);
                link.pid = pid.and_then(|text| text.trim().parse().ok());
                Ok(link)
            }
            Err(_) => Err(kept(&folder, run).unwrap_or_else(|| Ending::Failed {
                reason: "it was gone when the daemon came back".to_owned(),
            })),
        }
    }

    fn over(folder: PathBuf, run: u64, stream: UnixStream, child: Option<Child>) -> Self {
        Self {
            folder,
            run,
            stream,
            decoder: Decoder::new(MAX_MESSAGE),
            buffer: vec![0; 16 * 1024],
            pid: child.as_ref().and_then(Child::id),
            child,
            ended: None,
        }
    }

    /// The next thing heard; after [`Heard::Ended`] there is nothing more. Cancelling is harmless.
    pub async fn next(&mut self) -> Heard {
        loop {
            match self.decoder.next::<Report>() {
                Ok(Some(report)) if report.version == VERSION && report.run == self.run => {
                    self.pid = Some(report.pid);
                    if report.ended.is_some() {
                        self.ended = report.ended;
                        continue;
                    }
                    return Heard::Report(Box::new(report));
                }
                Ok(Some(report)) => {
                    self.pid = Some(report.pid);
                    self.misunderstood(&format!(
                        "its supervisor reports run {} in version {}, expected were run {} and version {VERSION}",
                        report.run, report.version, self.run
                    ));
                }
                Ok(None) => match self.stream.read(&mut self.buffer).await {
                    Ok(0) | Err(_) => return Heard::Ended(self.ending().await),
                    Ok(count) => self.decoder.push(&self.buffer[..count]),
                },
                Err(error) => {
                    self.misunderstood(&format!("its supervisor is not understood: {error}"));
                    // Its end is the socket's: who starts another one must not meet this one's.
                    let gone = async {
                        while matches!(self.stream.read(&mut self.buffer).await, Ok(1..)) {}
                    };
                    let _ = timeout(REAP, gone).await;
                    return Heard::Ended(self.ending().await);
                }
            }
        }
    }

    /// Tells it something; false when it cannot be told.
    pub async fn tell(&mut self, order: &Order) -> bool {
        let Ok(bytes) = frame::encode(order, MAX_MESSAGE) else {
            return false;
        };
        self.stream.write_all(&bytes).await.is_ok()
    }

    /// Kills it, and QEMU and the simulator with it.
    pub fn kill(&mut self) {
        if let Some(child) = &mut self.child {
            // The only failure is that it has ended.
            let _ = child.start_kill();
        } else if let Some(pid) = self.pid.and_then(|pid| i32::try_from(pid).ok())
            && pid > 1
        {
            // Its socket is open, so the number is still its own.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }

    /// Two daemons of different releases cannot share a VM: the operator's configuration is started anew.
    fn misunderstood(&mut self, why: &str) {
        self.kill();
        self.ended = Some(Ending::Failed {
            reason: why.to_owned(),
        });
    }

    /// Waits for the end of a supervisor that is not our child: its socket closes a moment before it is gone, and with it
    /// its lock and its listener.
    async fn gone(&self) {
        let Some(pid) = self.pid.and_then(|pid| i32::try_from(pid).ok()) else {
            return;
        };
        let dead = async {
            while kill(Pid::from_raw(pid), None).is_ok() {
                sleep(LOOK).await;
            }
        };
        // A number that another process got meanwhile costs this much and no more.
        let _ = timeout(REAP, dead).await;
    }

    async fn ending(&mut self) -> Ending {
        let status = match &mut self.child {
            Some(child) => timeout(REAP, child.wait()).await.ok().and_then(Result::ok),
            None => {
                self.gone().await;
                None
            }
        };
        if let Some(ended) = self.ended.take().or_else(|| kept(&self.folder, self.run)) {
            return ended;
        }
        let words = fs::read(self.folder.join(WORDS)).unwrap_or_default();
        let words = String::from_utf8_lossy(&words);
        let last = words.lines().last().map(|line| plain(line, 400));
        let how = status.map_or("ended".to_owned(), how);
        let reason = match last.filter(|last| !last.is_empty()) {
            Some(last) => format!("its supervisor {how}: {last}"),
            None => format!("its supervisor {how}"),
        };
        Ending::Failed { reason }
    }
}

fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with code {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

/// What the supervisor of run `run` left behind.
fn kept(folder: &Path, run: u64) -> Option<Ending> {
    let bytes = fs::read(folder.join(ENDING)).ok()?;
    let ended: Ended = serde_json::from_slice(&bytes).ok()?;
    (ended.run == run).then_some(ended.ending)
}
