//! A running QEMU: exactly the files it was given, never outliving its owner, ended in good order.
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

/// How much of QEMU's diagnostics is kept, in bytes: its end.
pub const STDERR_KEPT: usize = 64 << 10;

/// A QEMU process. Dropping it kills it.
#[derive(Debug)]
pub struct Vm {
    process: Supervised,
    stderr: Tail,
}

impl Vm {
    /// Starts `spec`. `descriptors` are all that it names, under the numbers they have here; QEMU inherits
    /// exactly those, and they are closed here once it has started.
    ///
    /// # Errors
    /// A specification that cannot be expressed, a descriptor missing or left over, a program that cannot start.
    /// What QEMU itself refuses shows as an early end: see [`Vm::wait`] and [`Vm::diagnostics`].
    pub fn spawn(
        qemu: &Qemu,
        spec: &VmSpec,
        descriptors: Vec<OwnedFd>,
    ) -> Result<Self, SpawnError> {
        let arguments = arguments(spec)?;
        same_descriptors(&spec.descriptors(), &descriptors)?;
        Self::spawn_line(qemu, &arguments, descriptors)
    }

    /// Starts exactly these `arguments`, which name exactly these `descriptors`.
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

    /// QEMU's process id: `/proc/PID/fd/N` are the files it was given.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid().as_raw().unsigned_abs()
    }

    /// The end of what QEMU wrote to its standard error, at most [`STDERR_KEPT`] bytes.
    #[must_use]
    pub fn diagnostics(&self) -> String {
        self.stderr.text()
    }

    /// Waits until one of `needles` shows up in QEMU's diagnostics, and says which; `None` if it ends without.
    pub async fn diagnosed(&self, needles: &[&str]) -> Option<usize> {
        self.stderr.find(needles).await
    }

    /// Waits for the end of the process; afterwards [`Vm::diagnostics`] is complete. Cancelling is harmless.
    /// `None` when the status could not be learnt.
    pub async fn wait(&self) -> Option<ExitStatus> {
        let status = self.process.wait().await;
        // A stray holder of the pipe must not keep us; a second is ample for bytes already written.
        let _ = timeout(Duration::from_secs(1), self.stderr.ended()).await;
        status
    }

    /// Ends the machine: over `qmp` if there is one, then by SIGTERM, then by SIGKILL, `patience` for each.
    /// Returns when the process is gone.
    ///
    /// # Errors
    /// Only when the process survives SIGKILL, inside the kernel: stuck there or, with a confidential guest, for as long as
    /// [`reclaim`] says. [`Vm::wait`] goes on waiting.
    pub async fn stop(&self, qmp: Option<&Qmp>, patience: Duration) -> Result<Stopped, StopError> {
        if let Some(qmp) = qmp {
            let asked = async {
                // A broken connection is the usual answer of a machine that is already ending.
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

/// How long the kernel may take to end the process of a confidential guest, SIGKILL or not: it takes the private memory back
/// page by page, and until then the process, its files and its devices stay.
///
/// Measured of TDX by the authors of Linux's `KVM_TDX_TERMINATE_VM` (the patch "KVM: TDX: Add sub-ioctl KVM_TDX_TERMINATE_VM",
/// 11 June 2025): 72 s for 18 GB, 517 s for 107 GB and 5539 s for 400 GB; with that call, which QEMU does not make yet, 24,
/// 134 and 467 s. This is about twice as long: another machine may be slower, and who is done earlier is not waited for.
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

/// The step of [`Vm::stop`] that worked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoppedBy {
    /// QMP `quit`.
    Quit,
    /// SIGTERM.
    Terminate,
    /// SIGKILL.
    Kill,
}

/// Why QEMU did not start.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The machine cannot be expressed.
    #[error("the virtual machine's specification cannot be used")]
    Spec(#[from] SpecError),
    /// The specification names a file that was not handed over.
    #[error("the specification names descriptor {0}, which was not handed over")]
    Missing(RawFd),
    /// A file was handed over that the specification does not name.
    #[error("descriptor {0} was handed over, but the specification does not name it")]
    Unnamed(RawFd),
    /// `fork`, `exec` or the steps between failed.
    #[error("cannot start {program:?}; check that it exists and may be executed")]
    Start {
        /// What was to be executed.
        program: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// A process that even SIGKILL did not end in time.
#[derive(Debug, thiserror::Error)]
#[error("QEMU (process {pid}) did not end after SIGKILL; it hangs inside the kernel")]
pub struct StopError {
    /// The process.
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

/// Little: what QEMU's own start needs, and no token of the operator's shell.
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
