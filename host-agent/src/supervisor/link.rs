//! The daemon's end of the protocol: starts or finds a supervisor, receives its reports and always notices its end.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use cocoon_protocol::frame::{self, Decoder};
use cocoon_qemu::socket::{self, SocketError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, timeout, timeout_at};

use super::process::Process;
use super::{
    ENDING, Ended, GONE, LAUNCH, Launch, MAX_MESSAGE, OWN_PROGRAM, Order, PID, Report, SOCKET,
    VERSION, WORDS,
};
use crate::lifecycle::{Ending, Stage};
use crate::state::{self, StateError};
use crate::text::{chain, plain};

/// How long a supervisor may live after its socket closed; one that lives longer is killed.
const REAP: Duration = Duration::from_secs(2);
/// How long QEMU may take to end after its supervisor, in addition to what the kernel needs for its private memory.
const MACHINE: Duration = Duration::from_secs(30);

/// Why a supervisor cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The VM's folder cannot be prepared.
    #[error(transparent)]
    State(#[from] StateError),
    /// The supervisor's socket cannot be made.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The supervisor's process cannot be started.
    #[error("cannot start the supervisor {program:?}")]
    Start {
        /// The program.
        program: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
}

/// What the daemon learns from a supervisor.
#[derive(Debug)]
pub enum Heard {
    /// The state of the VM.
    Report(Box<Report>),
    /// The supervisor closed the connection but lives and reports again. It may have missed the latest orders.
    Back,
    /// The supervisor is gone, and its VM with it.
    Ended(Ending),
}

/// The connection to a supervisor.
pub struct Link {
    folder: PathBuf,
    run: u64,
    stream: UnixStream,
    decoder: Decoder,
    buffer: Vec<u8>,
    /// The child process, if this daemon started the supervisor.
    child: Option<Child>,
    process: Option<Process>,
    /// Process of QEMU, once it was reported.
    machine: Option<Process>,
    /// How long the kernel may take to reclaim QEMU's memory.
    reclaim: Duration,
    /// Whether the VM got as far as QEMU.
    pub(crate) begun: bool,
    /// Whether a report has arrived on the current connection.
    heard: bool,
    /// Whether the connection was lost and made again, with no report since.
    lost: bool,
    /// The first report after a reconnection, which follows [`Heard::Back`].
    first: Option<Box<Report>>,
    ended: Option<Ending>,
    /// When the last connection closed for good.
    closed: Option<Instant>,
}

impl Link {
    /// Starts a supervisor for `launch` with `program`, usually this one. State is kept in `root`, fetched files in
    /// `cache`. The supervisor outlives the daemon.
    ///
    /// # Errors
    /// [`LinkError`] if the supervisor cannot be started. Failures of the VM itself are reported later.
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
        // A launch holds only numbers, names and paths, so serialisation cannot fail.
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
        // The socket is made here, so that the connection succeeds before the supervisor runs. The daemon's copy is
        // closed, so that the socket closes when the supervisor ends.
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
            // Shows the usual name in process lists.
            command.arg0("cocoon-host");
        }
        if let Some(cache) = cache {
            command.env("COCOON_CACHE", cache);
        }
        let child = command.spawn().map_err(fail)?;
        // The command held the listening socket until now.
        drop(command);
        let mut link = Self::over(folder, launch.run, stream, Some(child));
        if let Some(pid) = link.child.as_ref().and_then(Child::id)
            && let Err(error) = state::write(&link.folder.join(PID), pid.to_string().as_bytes())
        {
            // The next daemon could not end this supervisor. It must be gone before another one uses the same socket.
            link.kill();
            if let Some(child) = &mut link.child {
                let _ = timeout(REAP, child.wait()).await;
            }
            return Err(error.into());
        }
        Ok(link)
    }

    /// Finds the supervisor of `name` in run `run`, or its QEMU if only that is still alive ([`Link::is_orphan`]).
    ///
    /// # Errors
    /// Returns the [`Ending`], as far as it is known, if neither is alive.
    pub async fn find(root: &Path, name: &str, run: u64) -> Result<Self, Ending> {
        let unknown = |error: &dyn std::error::Error| Ending::Failed {
            reason: chain(error),
        };
        let folder = state::folder(root, name).map_err(|error| unknown(&error))?;
        match UnixStream::connect(folder.join(SOCKET)).await {
            Ok(stream) => {
                // The socket is open, so the process lives and its id was not reused, even before its first report.
                let process = Process::numbered(&folder.join(PID));
                let mut link = Self::over(folder, run, stream, None);
                link.process = process;
                Ok(link)
            }
            Err(_) => Self::orphan(folder, run),
        }
    }

    /// Finds the QEMU of a supervisor that was killed, whose memory the kernel may still be reclaiming.
    fn orphan(folder: PathBuf, run: u64) -> Result<Self, Ending> {
        if let Some(ending) = Ended::kept(&folder, run) {
            return Err(ending);
        }
        let reason = GONE.to_owned();
        let gone = Ending::Failed { reason };
        // A supervisor that ends in good order removes this file. A reused process id costs only a bounded wait.
        let machine =
            Process::numbered(&folder.join("qemu.pid")).filter(|machine| !machine.has_ended());
        // The other end is closed at once, so that `next` starts to wait for QEMU's end immediately.
        let (Some(machine), Ok((stream, _))) = (machine, UnixStream::pair()) else {
            return Err(gone);
        };
        let mut link = Self::over(folder, run, stream, None);
        link.machine = Some(machine);
        link.ended = Some(gone);
        Ok(link)
    }

    /// Returns whether only QEMU was found, without its supervisor. All that [`Link::next`] can return is its end.
    #[must_use]
    pub fn is_orphan(&self) -> bool {
        self.ended.is_some() && !self.heard
    }

    fn over(folder: PathBuf, run: u64, stream: UnixStream, child: Option<Child>) -> Self {
        let launch = Launch::read(&folder);
        Self {
            folder,
            run,
            stream,
            decoder: Decoder::new(MAX_MESSAGE),
            buffer: vec![0; 16 * 1024],
            child,
            process: None,
            machine: None,
            reclaim: launch.map_or(Duration::ZERO, |launch| launch.reclaim()),
            begun: false,
            heard: false,
            lost: false,
            first: None,
            ended: None,
            closed: None,
        }
    }

    /// Returns the next message; after [`Heard::Ended`] there are no more. Cancel-safe.
    pub async fn next(&mut self) -> Heard {
        loop {
            if let Some(first) = self.first.take() {
                return Heard::Report(first);
            }
            match self.decoder.next::<Report>() {
                Ok(Some(report)) if report.version == VERSION && report.run == self.run => {
                    self.know(&report);
                    if report.ended.is_some() {
                        self.ended = report.ended;
                        continue;
                    }
                    let report = Box::new(report);
                    if std::mem::take(&mut self.lost) {
                        self.first = Some(report);
                        return Heard::Back;
                    }
                    return Heard::Report(report);
                }
                Ok(Some(report)) => {
                    self.know(&report);
                    self.misunderstood(&format!(
                        "its supervisor reports run {} in version {}, expected were run {} and version {VERSION}",
                        report.run, report.version, self.run
                    ));
                }
                Ok(None) => match self.stream.read(&mut self.buffer).await {
                    Ok(0) | Err(_) if self.again().await => {}
                    Ok(0) | Err(_) => return Heard::Ended(self.ending().await),
                    Ok(count) => self.decoder.push(&self.buffer[..count]),
                },
                Err(error) => {
                    self.misunderstood(&format!("its supervisor is not understood: {error}"));
                    // The socket closes when the supervisor ends, and another one must not be started before that.
                    let gone = async {
                        while matches!(self.stream.read(&mut self.buffer).await, Ok(1..)) {}
                    };
                    let _ = timeout(REAP, gone).await;
                    return Heard::Ended(self.ending().await);
                }
            }
        }
    }

    /// Sends an order. Returns false if it cannot be sent.
    pub async fn tell(&mut self, order: &Order) -> bool {
        let Ok(bytes) = frame::encode(order, MAX_MESSAGE) else {
            return false;
        };
        self.stream.write_all(&bytes).await.is_ok()
    }

    /// Kills the supervisor, and with it QEMU and the simulator.
    pub fn kill(&mut self) {
        match (&mut self.child, &self.process) {
            // Killing fails only if the process has ended.
            (Some(child), _) => drop(child.start_kill()),
            (None, Some(process)) => process.kill(),
            (None, None) => {}
        }
    }

    /// Opens handles of the processes that the report names. The socket is open, so their ids cannot have been reused.
    fn know(&mut self, report: &Report) {
        self.heard = true;
        self.begun |= report.stage > Stage::Preparing;
        let known = |process: &Option<Process>, pid| {
            process.as_ref().is_some_and(|process| process.pid() == pid)
        };
        if self.child.is_none() && !known(&self.process, report.pid) {
            self.process = Process::open(report.pid);
        }
        if let Some(pid) = report.qemu_pid.filter(|pid| !known(&self.machine, *pid)) {
            self.machine = Process::open(pid);
        }
    }

    /// A supervisor with another protocol version is unusable: the VM is ended and started anew.
    fn misunderstood(&mut self, why: &str) {
        self.kill();
        self.ended = Some(Ending::Failed {
            reason: why.to_owned(),
        });
    }

    /// Reconnects to a supervisor that lives but closed the connection, as it does with a daemon that reads too slowly.
    /// A successful connection proves little: the socket of a process that is being killed still accepts connections. A
    /// supervisor that then sends nothing is treated as ending.
    async fn again(&mut self) -> bool {
        if !self.heard || self.ended.is_some() || self.closed.is_some() {
            return false;
        }
        let Ok(stream) = UnixStream::connect(self.folder.join(SOCKET)).await else {
            return false;
        };
        self.stream = stream;
        self.decoder = Decoder::new(MAX_MESSAGE);
        self.heard = false;
        self.lost = true;
        true
    }

    /// Returns how the VM ended, after supervisor and QEMU are gone and their lock, listener and devices are free.
    async fn ending(&mut self) -> Ending {
        let since = *self.closed.get_or_insert_with(Instant::now);
        let mut status = self.gone(since + REAP).await;
        if status.is_none() {
            // The supervisor may hang, and another one must not be started while this one's socket exists.
            self.kill();
            status = self.gone(since + 2 * REAP).await;
        }
        let mut stuck = None;
        if let Some(machine) = &self.machine {
            let limit = since + 2 * REAP + MACHINE + self.reclaim;
            if timeout_at(limit, machine.ended()).await.is_err() {
                stuck = Some(format!(
                    "; QEMU (process {}) is not gone: it hangs inside the kernel",
                    machine.pid()
                ));
            }
        }
        let mut ending = self.told(status.flatten());
        if let (Ending::Failed { reason }, Some(stuck)) = (&mut ending, stuck) {
            reason.push_str(&stuck);
        }
        ending
    }

    /// Waits until `limit` for the supervisor's end. Returns its exit status if known; `None` if it still lives.
    async fn gone(&mut self, limit: Instant) -> Option<Option<ExitStatus>> {
        match (&mut self.child, &self.process) {
            (Some(child), _) => timeout_at(limit, child.wait()).await.ok().map(Result::ok),
            (None, Some(process)) => timeout_at(limit, process.ended()).await.ok().map(|()| None),
            (None, None) => Some(None),
        }
    }

    fn told(&mut self, status: Option<ExitStatus>) -> Ending {
        if let Some(ended) = self
            .ended
            .take()
            .or_else(|| Ended::kept(&self.folder, self.run))
        {
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

#[cfg(test)]
mod tests;
