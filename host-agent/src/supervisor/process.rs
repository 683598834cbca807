//! A process that is not our child, by a handle of the kernel's (pidfd_open(2)): its number may become another's, the handle
//! stays its own.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::time::sleep;

/// How often it is looked whether one has ended.
const LOOK: Duration = Duration::from_millis(5);

/// A process, alive or gone.
#[derive(Debug)]
pub(super) struct Process {
    pid: u32,
    handle: OwnedFd,
}

impl Process {
    /// The process that has this number now; `None` when it is gone already.
    pub(super) fn open(pid: u32) -> Option<Self> {
        // Number 1 is nobody's VM.
        let number = i32::try_from(pid).ok().filter(|number| *number > 1)?;
        let handle = pidfd_open(Pid::from_raw(number)?, PidfdFlags::empty()).ok()?;
        Some(Self { pid, handle })
    }

    /// The process whose number stands in the file.
    pub(super) fn numbered(path: &Path) -> Option<Self> {
        let text = fs::read_to_string(path).ok()?;
        Self::open(text.trim().parse().ok()?)
    }

    /// Its number.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Kills it, unless it has ended.
    pub(super) fn kill(&self) {
        // The only failure is that it has ended.
        let _ = pidfd_send_signal(&self.handle, Signal::KILL);
    }

    /// Waits until it has ended: then its files are closed and its memory is the kernel's again.
    pub(super) async fn ended(&self) {
        while !self.has_ended() {
            sleep(LOOK).await;
        }
    }

    /// A handle is readable from the end on, whether anybody has reaped the process or not.
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
        // Nobody has reaped it so far, and that is no reason to wait.
        process.ended().await;
        child.wait().unwrap();
        process.kill();
        assert!(Process::open(0).is_none() && Process::open(u32::MAX).is_none());
    }
}
