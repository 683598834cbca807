//! The programs that this crate runs, so that who is told to end can end them: pip goes on without its parent.

use std::io;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Those of this process.
pub(crate) static PROGRAMS: Programs = Programs::new();

/// Ends every program that a fetch of this process runs, and lets none be started any more; whether there was one, and so
/// a fetch that now fails. For who is told to end, since a thread that fetches cannot be.
pub fn end_all() -> bool {
    PROGRAMS.end()
}

/// Programs that end together.
pub(crate) struct Programs(Mutex<Members>);

struct Members {
    running: Vec<Arc<Mutex<Child>>>,
    /// Nobody is started any more.
    ended: bool,
}

impl Programs {
    /// Without members.
    const fn new() -> Self {
        Self(Mutex::new(Members {
            running: Vec::new(),
            ended: false,
        }))
    }

    /// Starts a program, which is one of these until it is dropped.
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

    /// Kills all of them. Whoever waits for one goes on.
    fn end(&self) -> bool {
        let mut members = locked(&self.0);
        members.ended = true;
        for child in &members.running {
            // One that is held is waited for: it has closed its streams and ends by itself.
            if let Ok(mut child) = child.try_lock() {
                let _ = child.kill();
            }
        }
        !members.running.is_empty()
    }
}

/// A program that runs. It does not outlive this value.
pub(crate) struct Running<'a> {
    pub(crate) stdout: Option<ChildStdout>,
    pub(crate) stderr: Option<ChildStderr>,
    child: Arc<Mutex<Child>>,
    programs: &'a Programs,
}

impl Running<'_> {
    /// Waits for one that has closed its streams.
    pub(crate) fn wait(&mut self) -> io::Result<ExitStatus> {
        locked(&self.child).wait()
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut child = locked(&self.child);
        // Most have been waited for, and are left alone.
        let _ = child.kill();
        let _ = child.wait();
        let mut members = locked(&self.programs.0);
        members
            .running
            .retain(|other| !Arc::ptr_eq(other, &self.child));
    }
}

/// What a thread that panicked left is complete: nothing here fails half way.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Read as _};
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::Stdio;

    use super::*;

    /// One that would run for long, and runs.
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
            // Until the stream closes, as whoever follows pip waits.
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
