//! Tracks the programs that this crate runs, so that they can be killed when the process must end: pip outlives its
//! parent.

use std::io;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The programs that this process runs.
pub(crate) static PROGRAMS: Programs = Programs::new();

/// Kills every program that a fetch of this process runs, and refuses to start others. Returns whether there was one,
/// so that a fetch now fails. For use when a signal ends the process: a thread that fetches cannot be interrupted.
pub fn end_all() -> bool {
    PROGRAMS.end()
}

/// A set of programs that are killed together.
pub(crate) struct Programs(Mutex<Members>);

struct Members {
    running: Vec<Arc<Mutex<Child>>>,
    /// Whether starting programs is refused.
    ended: bool,
}

impl Programs {
    /// Creates an empty set.
    const fn new() -> Self {
        Self(Mutex::new(Members {
            running: Vec::new(),
            ended: false,
        }))
    }

    /// Starts a program, which belongs to the set until the returned value is dropped.
    pub(crate) fn start(&self, command: &mut Command) -> io::Result<Running<'_>> {
        let mut members = locked(&self.0);
        if members.ended {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let mut child = command.spawn()?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let child = Arc::new(Mutex::new(child));
        members.running.push(Arc::clone(&child));
        Ok(Running {
            stdout,
            stderr,
            child,
            programs: self,
        })
    }

    /// Kills all programs of the set. Threads that wait for one of them then continue.
    fn end(&self) -> bool {
        let mut members = locked(&self.0);
        members.ended = true;
        for child in &members.running {
            // A locked child is being waited for: it has closed its streams and ends by itself.
            if let Ok(mut child) = child.try_lock() {
                let _ = child.kill();
            }
        }
        !members.running.is_empty()
    }
}

/// A running program. It is killed when this value is dropped.
pub(crate) struct Running<'a> {
    pub(crate) stdout: Option<ChildStdout>,
    pub(crate) stderr: Option<ChildStderr>,
    child: Arc<Mutex<Child>>,
    programs: &'a Programs,
}

impl Running<'_> {
    /// Waits for the exit of a program that has closed its streams.
    pub(crate) fn wait(&mut self) -> io::Result<ExitStatus> {
        locked(&self.child).wait()
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut child = locked(&self.child);
        // For a program that has been waited for, both calls do nothing.
        let _ = child.kill();
        let _ = child.wait();
        let mut members = locked(&self.programs.0);
        members
            .running
            .retain(|other| !Arc::ptr_eq(other, &self.child));
    }
}

/// Ignores poisoning: no update is left half done, so the data is consistent even after a panic.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Read as _};
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::Stdio;

    use super::*;

    /// Starts a program that would run for long, and waits until it runs.
    fn long(programs: &Programs) -> (Running<'_>, BufReader<ChildStdout>) {
        let mut command = Command::new("sh");
        let script = "echo started; exec sleep 1000";
        command.args(["-c", script]).stdout(Stdio::piped());
        let mut running = programs.start(&mut command).expect("starts");
        let mut stdout = BufReader::new(running.stdout.take().expect("piped"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("speaks");
        assert_eq!(line, "started\n");
        (running, stdout)
    }

    #[test]
    fn who_is_told_to_end_ends_what_it_runs_and_starts_nothing_more() {
        let programs = Programs::new();
        let (mut running, mut stdout) = long(&programs);
        assert!(std::thread::scope(|scope| {
            let end = scope.spawn(|| programs.end());
            let mut rest = String::new();
            // Reads until the stream closes, as the thread that follows pip does.
            stdout.read_to_string(&mut rest).expect("reads");
            end.join().expect("no panic")
        }));
        assert_eq!(running.wait().expect("waits").signal(), Some(9));
        drop(running);
        assert!(!programs.end());
        let refused = programs.start(&mut Command::new("true")).err();
        assert_eq!(
            refused.map(|error| error.kind()),
            Some(io::ErrorKind::Interrupted)
        );
    }

    #[test]
    fn a_program_does_not_outlive_its_value() {
        let programs = Programs::new();
        let (running, mut stdout) = long(&programs);
        drop(running);
        let mut rest = String::new();
        stdout.read_to_string(&mut rest).expect("closed");
        assert!(locked(&programs.0).running.is_empty());
    }
}
