//! A thread for each QEMU process that starts it, waits for it and reaps it.
//!
//! The kernel sends the parent-death signal when the *thread* that forked ends, not the process. A worker of an async
//! runtime may end at any time, so QEMU gets a thread of its own that lives exactly as long as QEMU does.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{ChildStderr, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::{Pid, getpid, getppid};
use tokio::sync::watch;

/// How long a killed process may take to end. It takes milliseconds unless the kernel itself hangs.
const REAP: Duration = Duration::from_secs(2);

/// A process whose end is awaited by its supervising thread.
#[derive(Debug)]
pub(crate) struct Supervised {
    pid: Pid,
    life: Arc<Life>,
    exit: watch::Receiver<Option<ExitStatus>>,
}

#[derive(Debug)]
struct Life {
    /// False once the process is reaped: from then on its id may be reused.
    alive: Mutex<bool>,
    reaped: Condvar,
}

impl Supervised {
    /// Starts `command` with exactly `descriptors` in addition to the standard streams, under their own numbers.
    pub(crate) fn start(
        mut command: Command,
        descriptors: Vec<OwnedFd>,
    ) -> io::Result<(Self, ChildStderr)> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        // Ctrl-C in the terminal signals the foreground group, and QEMU must survive it until it is told to end.
        command.process_group(0);
        prepare(&mut command, &descriptors);
        let (started, begun) = mpsc::channel();
        let life = Arc::new(Life {
            alive: Mutex::new(true),
            reaped: Condvar::new(),
        });
        let (sender, exit) = watch::channel(None);
        let lived = Arc::clone(&life);
        std::thread::Builder::new()
            .name("qemu-supervisor".into())
            .spawn(move || run(command, descriptors, &started, &lived, &sender))?;
        let gone = |_| io::Error::other("the supervising thread ended early");
        let (pid, stderr) = begun.recv().map_err(gone)??;
        Ok((Self { pid, life, exit }, stderr))
    }

    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// Sends `signal` to the process group, unless the process has been reaped.
    pub(crate) fn signal(&self, signal: Signal) {
        let alive = self.life.alive.lock();
        let alive = alive.unwrap_or_else(PoisonError::into_inner);
        if *alive {
            // The only possible failure is that the process has ended and is about to be reaped.
            let _ = killpg(self.pid, signal);
        }
    }

    /// Waits for the end of the process. Returns `None` only if the supervising thread ended without the status.
    pub(crate) async fn wait(&self) -> Option<ExitStatus> {
        let mut exit = self.exit.clone();
        exit.wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|status| *status)
    }
}

impl Drop for Supervised {
    /// Kills the process and waits until it is reaped. The supervising thread ends with this process, which may be about to
    /// end, and where nothing adopts orphans, a process that is only killed stays a zombie.
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
        let alive = self.life.alive.lock();
        let alive = alive.unwrap_or_else(PoisonError::into_inner);
        // After the deadline, the process hangs inside the kernel and nothing more can be done.
        let _ = self
            .life
            .reaped
            .wait_timeout_while(alive, REAP, |alive| *alive);
    }
}

fn run(
    mut command: Command,
    descriptors: Vec<OwnedFd>,
    started: &mpsc::Sender<io::Result<(Pid, ChildStderr)>>,
    life: &Life,
    exit: &watch::Sender<Option<ExitStatus>>,
) {
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            let _ = started.send(Err(error));
            return;
        }
    };
    // The child needed the descriptors until now. They are closed here, so that peers notice when QEMU ends.
    drop(descriptors);
    let Ok(id) = i32::try_from(child.id()) else {
        return;
    };
    let pid = Pid::from_raw(id);
    if let Some(stderr) = child.stderr.take() {
        let _ = started.send(Ok((pid, stderr)));
    }
    // Waits without reaping: until the lock is held, the process id still belongs to this child.
    while waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT)
        == Err(nix::errno::Errno::EINTR)
    {}
    let mut alive = life.alive.lock().unwrap_or_else(PoisonError::into_inner);
    let status = child.wait();
    *alive = false;
    drop(alive);
    life.reaped.notify_all();
    if let Ok(status) = status {
        exit.send_replace(Some(status));
    }
}

#[expect(
    unsafe_code,
    reason = "only code between fork and exec can tie a child to its parent and choose its files"
)]
fn prepare(command: &mut Command, descriptors: &[OwnedFd]) {
    let inherited: Vec<i32> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let parent = getpid();
    let hook = move || {
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
        if getppid() != parent {
            // The parent died before `set_pdeathsig`, so no signal would come.
            return Err(io::Error::from(io::ErrorKind::BrokenPipe));
        }
        // SAFETY: close_range takes three integers and touches no memory; it only marks descriptors.
        let marked = unsafe { nix::libc::close_range(3, u32::MAX, CLOSE_ON_EXEC) };
        if marked != 0 {
            return Err(io::Error::last_os_error());
        }
        for &fd in &inherited {
            // SAFETY: the owner lives in the supervising thread until after the spawn, so `fd` is open.
            let fd = unsafe { BorrowedFd::borrow_raw(fd) };
            nix::fcntl::fcntl(
                fd,
                nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()),
            )?;
        }
        Ok(())
    };
    // SAFETY: the hook makes only async-signal-safe system calls and allocates nothing.
    unsafe { command.pre_exec(hook) };
}

/// `CLOSE_RANGE_CLOEXEC` of linux/close_range.h, since Linux 5.11.
const CLOSE_ON_EXEC: i32 = 1 << 2;
