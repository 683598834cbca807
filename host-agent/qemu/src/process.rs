//! A running QEMU: it has exactly the files that it was given, never outlives its owner, and is ended in order.
//!
//! ```text
//! spawn ──▶ running ──stop──▶ QMP quit ──deadline──▶ SIGTERM ──deadline──▶ SIGKILL ──▶ gone
//!              └────drop────────────────────────────────────────────────▶ SIGKILL ──▶ gone
//! ```

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::time::timeout;

use crate::args::{Argument, arguments};
use crate::find::Qemu;
use crate::qmp::Qmp;
use crate::spec::{SpecError, VmSpec};
use crate::supervisor::Supervised;
use crate::tail::Tail;

/// Number of bytes of QEMU's standard error that are kept; the beginning is dropped.
pub const STDERR_KEPT: usize = 64 << 10;

/// A QEMU process. Dropping it kills it.
#[derive(Debug)]
pub struct Vm {
    process: Supervised,
    stderr: Tail,
}

impl Vm {
    /// Starts `spec`. `descriptors` are all those that it names, under their numbers in this process. QEMU inherits exactly
    /// those, and this process closes them once QEMU has started.
    ///
    /// # Errors
    /// [`SpawnError`] if the specification cannot be expressed, a descriptor is missing or superfluous, or the program
    /// cannot be started. What QEMU itself refuses shows as an early end: see [`Vm::wait`] and [`Vm::diagnostics`].
    pub fn spawn(
        qemu: &Qemu,
        spec: &VmSpec,
        descriptors: Vec<OwnedFd>,
    ) -> Result<Self, SpawnError> {
        let arguments = arguments(spec)?;
        same_descriptors(&spec.descriptors(), &descriptors)?;
        Self::spawn_line(qemu, &arguments, descriptors)
    }

    /// Starts QEMU with exactly these `arguments`, which name exactly these `descriptors`.
    pub(crate) fn spawn_line(
        qemu: &Qemu,
        arguments: &[Argument],
        descriptors: Vec<OwnedFd>,
    ) -> Result<Self, SpawnError> {
        let line = qemu.command_line(arguments);
        let program = PathBuf::from(line.first().cloned().unwrap_or_default());
        let mut command = Command::new(&program);
        command.args(line.get(1..).unwrap_or_default());
        command.env_clear().envs(environment(qemu));
        let fail = |source| SpawnError::Start {
            program: program.clone(),
            source,
        };
        let (process, pipe) = Supervised::start(command, descriptors).map_err(fail)?;
        let stderr = Tail::new(STDERR_KEPT);
        stderr.follow(pipe).map_err(fail)?;
        Ok(Self { process, stderr })
    }

    /// Returns QEMU's process id. `/proc/PID/fd/N` are the files that it was given.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid().as_raw().unsigned_abs()
    }

    /// Returns the end of QEMU's standard error, at most [`STDERR_KEPT`] bytes.
    #[must_use]
    pub fn diagnostics(&self) -> String {
        self.stderr.text()
    }

    /// Waits until one of `needles` occurs in QEMU's diagnostics and returns its index; `None` if QEMU ends without it.
    pub async fn diagnosed(&self, needles: &[&str]) -> Option<usize> {
        self.stderr.find(needles).await
    }

    /// Waits for the end of the process, after which [`Vm::diagnostics`] is complete. Cancel-safe. Returns `None` if the
    /// status cannot be learnt.
    pub async fn wait(&self) -> Option<ExitStatus> {
        let status = self.process.wait().await;
        // Another holder of the pipe must not delay this for long. A second suffices for bytes that are already written.
        let _ = timeout(Duration::from_secs(1), self.stderr.ended()).await;
        status
    }

    /// Ends the machine: over `qmp` if given, then with SIGTERM, then with SIGKILL, waiting `patience` after each step.
    /// Returns when the process is gone.
    ///
    /// # Errors
    /// [`StopError`] if the process survives SIGKILL inside the kernel: it hangs there, or it has a confidential guest and
    /// needs the time that [`reclaim`] returns. [`Vm::wait`] continues to wait for it.
    pub async fn stop(&self, qmp: Option<&Qmp>, patience: Duration) -> Result<Stopped, StopError> {
        if let Some(qmp) = qmp {
            let asked = async {
                // A machine that is already ending usually answers by closing the connection.
                let _ = qmp.quit().await;
                self.wait().await
            };
            if let Ok(status) = timeout(patience, asked).await {
                return Ok(Stopped {
                    by: StoppedBy::Quit,
                    status,
                });
            }
        }
        for (signal, by) in [
            (Signal::SIGTERM, StoppedBy::Terminate),
            (Signal::SIGKILL, StoppedBy::Kill),
        ] {
            self.process.signal(signal);
            if let Ok(status) = timeout(patience, self.wait()).await {
                return Ok(Stopped { by, status });
            }
        }
        Err(StopError { pid: self.pid() })
    }
}

/// Returns how long the kernel may take to end the process of a confidential guest after SIGKILL. It reclaims the private
/// memory page by page, and until then the process, its files and its devices remain.
///
/// Measured for TDX by the authors of Linux's `KVM_TDX_TERMINATE_VM` (patch "KVM: TDX: Add sub-ioctl KVM_TDX_TERMINATE_VM",
/// 11 June 2025): 72 s for 18 GB, 517 s for 107 GB and 5539 s for 400 GB. With that call, which QEMU does not make yet, it
/// is 24, 134 and 467 s. The limit is about twice the longer times, since another host may be slower; an earlier end is
/// noticed at once.
#[must_use]
pub fn reclaim(memory_mib: u32) -> Duration {
    let gib = u64::from(memory_mib.div_ceil(1024));
    Duration::from_secs(7 * gib + gib * gib / 20)
}

/// How a machine ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped {
    /// The step that ended it.
    pub by: StoppedBy,
    /// Its exit status, if it could be learnt.
    pub status: Option<ExitStatus>,
}

/// The step of [`Vm::stop`] that ended the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoppedBy {
    /// QMP `quit`.
    Quit,
    /// SIGTERM.
    Terminate,
    /// SIGKILL.
    Kill,
}

/// Why QEMU could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The specification cannot be expressed as a command line.
    #[error("the virtual machine's specification cannot be used")]
    Spec(#[from] SpecError),
    /// The specification names a descriptor that was not handed over.
    #[error("the specification names descriptor {0}, which was not handed over")]
    Missing(RawFd),
    /// A descriptor was handed over that the specification does not name.
    #[error("descriptor {0} was handed over, but the specification does not name it")]
    Unnamed(RawFd),
    /// `fork`, `exec` or a step between them failed.
    #[error("cannot start {program:?}; check that it exists and may be executed")]
    Start {
        /// The program.
        program: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
}

/// The process did not end in time even after SIGKILL.
#[derive(Debug, thiserror::Error)]
#[error("QEMU (process {pid}) did not end after SIGKILL; it hangs inside the kernel")]
pub struct StopError {
    /// Process id of QEMU.
    pub pid: u32,
}

fn same_descriptors(named: &[RawFd], given: &[OwnedFd]) -> Result<(), SpawnError> {
    let has = |fd: &RawFd| given.iter().any(|owned| owned.as_raw_fd() == *fd);
    if let Some(missing) = named.iter().find(|fd| !has(fd)) {
        return Err(SpawnError::Missing(*missing));
    }
    match given
        .iter()
        .map(AsRawFd::as_raw_fd)
        .find(|fd| !named.contains(fd))
    {
        Some(unnamed) => Err(SpawnError::Unnamed(unnamed)),
        None => Ok(()),
    }
}

/// Returns QEMU's environment: only what its start needs, without any secrets from the operator's shell.
fn environment(qemu: &Qemu) -> Vec<(OsString, OsString)> {
    let kept = ["PATH", "TMPDIR"]
        .into_iter()
        .filter_map(|name| Some((name.into(), std::env::var_os(name)?)));
    kept.chain(qemu.environment.iter().cloned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_has_more_time_than_it_was_measured_to_take() {
        for (gigabytes, seconds) in [(18_u64, 72), (107, 517), (400, 5539)] {
            let mib = u32::try_from((gigabytes * 1_000_000_000) >> 20).expect("a size");
            let limit = reclaim(mib).as_secs();
            assert!(
                (seconds * 3 / 2..seconds * 3).contains(&limit),
                "{gigabytes} GB: {limit} s"
            );
        }
        assert_eq!(reclaim(0), Duration::ZERO);
        assert!(reclaim(u32::MAX) > reclaim(u32::MAX / 2));
    }
}
