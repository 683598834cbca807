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

/// A process that has closed its socket is gone in no time; one that is not is killed.
const REAP: Duration = Duration::from_secs(2);
/// How long QEMU may take to end after its supervisor, besides what the kernel needs for its private memory.
const MACHINE: Duration = Duration::from_secs(30);

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
    /// It had closed its socket, lives, and speaks again: it may not have heard what it was told last.
    Back,
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
    process: Option<Process>,
    /// QEMU's, once it has told its number.
    machine: Option<Process>,
    /// How long the kernel may take that one's memory back.
    reclaim: Duration,
    /// Whether its VM came as far as QEMU.
    pub(crate) begun: bool,
    /// Whether it has said anything since it was connected to.
    heard: bool,
    /// Whether it was connected to again, and has not spoken since.
    lost: bool,
    /// What it said when it came back.
    first: Option<Box<Report>>,
    ended: Option<Ending>,
    /// Since when there is nothing more to hear.
    closed: Option<Instant>,
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
        if let Some(pid) = link.child.as_ref().and_then(Child::id)
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

    /// The supervisor of `name` in its run `run`, if it is alive, or its QEMU is ([`Link::is_orphan`]); else how it ended.
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
                let process = Process::numbered(&folder.join(PID));
                let mut link = Self::over(folder, run, stream, None);
                link.process = process;
                Ok(link)
            }
            Err(_) => Self::orphan(folder, run),
        }
    }

    /// The QEMU of a supervisor that was killed, whose memory the kernel may still be taking back.
    fn orphan(folder: PathBuf, run: u64) -> Result<Self, Ending> {
        if let Some(ending) = Ended::kept(&folder, run) {
            return Err(ending);
        }
        let reason = GONE.to_owned();
        let gone = Ending::Failed { reason };
        // Removed by whoever ends in good order. A number that has become another's costs the wait, which is bounded.
        let machine =
            Process::numbered(&folder.join("qemu.pid")).filter(|machine| !machine.has_ended());
        // What is closed already is heard of at once.
        let (Some(machine), Ok((stream, _))) = (machine, UnixStream::pair()) else {
            return Err(gone);
        };
        let mut link = Self::over(folder, run, stream, None);
        link.machine = Some(machine);
        link.ended = Some(gone);
        Ok(link)
    }

    /// Whether QEMU was found without a supervisor: all that can be heard is its end.
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

    /// The next thing heard; after [`Heard::Ended`] there is nothing more. Cancelling is harmless.
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
        match (&mut self.child, &self.process) {
            // The only failure is that it has ended.
            (Some(child), _) => drop(child.start_kill()),
            (None, Some(process)) => process.kill(),
            (None, None) => {}
        }
    }

    /// The processes that it speaks of. Its socket is open, so the numbers are still their own.
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

    /// Two daemons of different releases cannot share a VM: the operator's configuration is started anew.
    fn misunderstood(&mut self, why: &str) {
        self.kill();
        self.ended = Some(Ending::Failed {
            reason: why.to_owned(),
        });
    }

    /// Connects to it again: it lives where it closed the connection of who reads too slowly. That it can be connected to
    /// says little, because the socket of a process that is being killed still takes connections: whoever says nothing at
    /// all then is on its way out.
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

    /// How it ended, once it and QEMU are gone, and with them its lock, its listener and the devices.
    async fn ending(&mut self) -> Ending {
        let since = *self.closed.get_or_insert_with(Instant::now);
        let mut status = self.gone(since + REAP).await;
        if status.is_none() {
            // It may stand still, and whoever starts another one must not meet this one's socket.
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

    /// Waits for its end until `limit`: its status, as far as that can be learnt; `None` while it lives.
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
