//! Reaps orphaned processes, which PID 1 inherits. Only the engine's helper has another owner that waits for it.

use std::io;
use std::process::Child;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};

use crate::engine::supervisor::Process;
use crate::wait;

/// How long a killed process may take to exit.
const END: Duration = Duration::from_secs(10);

/// The one child process whose owner waits for it, if there is one.
#[derive(Clone, Default)]
pub(super) struct Children(Arc<Mutex<Option<Pid>>>);

/// Starts the task that reaps orphans.
pub(super) fn start() -> io::Result<Children> {
    let children = Children::default();
    let (mut died, ours) = (signal(SignalKind::child())?, children.clone());
    tokio::spawn(async move {
        while died.recv().await.is_some() {
            ours.bury_orphans();
        }
    });
    Ok(children)
}

impl Children {
    /// Takes a child that the reaper must leave to its owner.
    pub fn adopt(&self, child: Child) -> Box<dyn Process> {
        *self.lock() = pid(&child);
        Box::new(Adopted {
            child,
            children: self.clone(),
        })
    }

    fn bury_orphans(&self) {
        let owned = self.lock();
        let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        // Peeks with WNOWAIT first, so that the adopted child's exit status is left to its owner. If that child is next in
        // line, the remaining orphans are reaped after its owner has waited.
        while let Ok(status) = waitid(Id::All, peek) {
            match status.pid() {
                Some(pid) if Some(pid) != *owned => drop(waitpid(pid, Some(WaitPidFlag::WNOHANG))),
                _ => return,
            }
            if matches!(status, WaitStatus::StillAlive) {
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Pid>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn pid(child: &Child) -> Option<Pid> {
    i32::try_from(child.id()).ok().map(Pid::from_raw)
}

struct Adopted {
    child: Child,
    children: Children,
}

impl Process for Adopted {
    fn end(&mut self) {
        // The process may have exited already. One that cannot be killed becomes an orphan, which is reaped later.
        let _ = self.child.kill();
        wait::until(END, || {
            (!matches!(self.child.try_wait(), Ok(None))).then_some(())
        });
        *self.children.lock() = None;
        self.children.bury_orphans();
    }

    fn finish(&mut self, patience: Duration) {
        wait::until(patience, || {
            (!matches!(self.child.try_wait(), Ok(None))).then_some(())
        });
        self.end();
    }
}
