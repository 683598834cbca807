//! A process that need not be a child, held by a pidfd (pidfd_open(2)): process ids may be reused, a pidfd always means
//! the same process.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::time::sleep;

/// Interval at which the end of a process is polled for.
const LOOK: Duration = Duration::from_millis(5);

/// A process, alive or ended.
#[derive(Debug)]
pub(super) struct Process {
    pid: u32,
    handle: OwnedFd,
}

impl Process {
    /// Opens the process that has this id now; `None` if there is none.
    pub(super) fn open(pid: u32) -> Option<Self> {
        // Process 1 is never a VM.
        let number = i32::try_from(pid).ok().filter(|number| *number > 1)?;
        let handle = pidfd_open(Pid::from_raw(number)?, PidfdFlags::empty()).ok()?;
        Some(Self { pid, handle })
    }

    /// Opens the process whose id is in the file.
    pub(super) fn numbered(path: &Path) -> Option<Self> {
        let text = fs::read_to_string(path).ok()?;
        Self::open(text.trim().parse().ok()?)
    }

    /// Returns the process id.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Kills the process unless it has ended.
    pub(super) fn kill(&self) {
        // Killing fails only if the process has ended.
        let _ = pidfd_send_signal(&self.handle, Signal::KILL);
    }

    /// Waits until the process has ended: its files are then closed and its memory is released.
    pub(super) async fn ended(&self) {
        while !self.has_ended() {
            sleep(LOOK).await;
        }
    }

    /// Returns whether the process has ended. A pidfd becomes readable at that point, even before the process is reaped.
    pub(super) fn has_ended(&self) -> bool {
        let mut handles = [PollFd::new(&self.handle, PollFlags::IN)];
        let at_once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        matches!(poll(&mut handles, Some(&at_once)), Ok(1..))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_is_killed_and_its_end_noticed_by_whoever_is_not_its_parent() {
        let mut child = std::process::Command::new("sleep")
            .arg("600")
            .spawn()
            .unwrap();
        let process = Process::open(child.id()).unwrap();
        assert_eq!(process.pid(), child.id());
        process.kill();
        process.ended().await;
        // The process is not reaped yet, which must not delay the second wait.
        process.ended().await;
        child.wait().unwrap();
        process.kill();
        assert!(Process::open(0).is_none() && Process::open(u32::MAX).is_none());
    }
}
