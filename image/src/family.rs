//! Tracks the programs that a build runs, and kills them with all their descendants when the build must end.
//!
//! Compilers outlive a cargo that is killed, and neither ends when the thread that waits for it is abandoned. So every program
//! is registered while it runs, and [`Family::end`] kills it and its descendants.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::addresses;

/// Largest number of searches for descendants. Each search finds the processes that those of the previous search had started
/// before they were stopped.
const LOOKS: usize = 8;

/// The programs that builds of this process run.
pub(crate) static PROGRAMS: Family = Family::new();

/// Kills every program that a build of this process runs, with its descendants. Returns whether there was one, so that a build
/// now fails. For signal handlers: a thread that builds cannot be interrupted.
pub fn end_all() -> bool {
    // Without short-circuit, because both kinds may run: pip is tracked by the inputs crate.
    PROGRAMS.end() | cocoon_inputs::end_all()
}

/// A set of programs that are killed together.
#[derive(Debug)]
pub(crate) struct Family(Mutex<Members>);

#[derive(Debug)]
struct Members {
    running: BTreeSet<u32>,
    /// Whether starting programs is refused.
    ended: bool,
}

impl Family {
    /// Creates an empty set.
    const fn new() -> Self {
        Self(Mutex::new(Members {
            running: BTreeSet::new(),
            ended: false,
        }))
    }

    fn members(&self) -> MutexGuard<'_, Members> {
        // A panic leaves a consistent value, because no change here can fail half way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a program, which belongs to the family until the returned value is dropped.
    pub(crate) fn start(&self, command: &mut Command) -> io::Result<Member<'_>> {
        let mut members = self.members();
        if members.ended {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let child = addresses::fixed(|| command.spawn())?;
        members.running.insert(child.id());
        Ok(Member {
            child,
            family: self,
        })
    }

    /// Kills every program with its descendants, and refuses to start others. Threads that wait for one of them then continue.
    /// Returns whether there was one.
    fn end(&self) -> bool {
        let mut members = self.members();
        members.ended = true;
        members.running.iter().for_each(|member| end(*member));
        !members.running.is_empty()
    }
}

/// A running program. It is killed with its descendants when this value is dropped.
pub(crate) struct Member<'a> {
    pub(crate) child: Child,
    family: &'a Family,
}

impl Member<'_> {
    pub(crate) fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait()
    }
}

impl Drop for Member<'_> {
    fn drop(&mut self) {
        let mut members = self.family.members();
        // Most programs have ended by now. One that has not may have descendants.
        if matches!(self.child.try_wait(), Ok(None)) {
            end(self.child.id());
            let _ = self.child.wait();
        }
        members.running.remove(&self.child.id());
    }
}

/// Kills a child of this process with its descendants. All are stopped first, so that none starts another one meanwhile.
fn end(child: u32) {
    end_seen(child, parents);
}

/// Does the work of [`end`]. `look` returns the parent of every process.
fn end_seen(child: u32, mut look: impl FnMut() -> BTreeMap<u32, u32>) {
    let mut stopped = BTreeSet::new();
    for _ in 0..LOOKS {
        let parents = look();
        // If the child has been waited for, its process ID may belong to another process, which is left alone. Descendants
        // that are already stopped would stay so for ever, so they are killed all the same.
        if parents.get(&child) != Some(&std::process::id()) {
            stopped.remove(&child);
            break;
        }
        let found = descendants(&parents, child);
        if found.is_subset(&stopped) {
            break;
        }
        found
            .difference(&stopped)
            .for_each(|pid| send(*pid, Signal::SIGSTOP));
        stopped.extend(found);
    }
    stopped.iter().for_each(|pid| send(*pid, Signal::SIGKILL));
}

fn send(pid: u32, signal: Signal) {
    if let Ok(pid) = i32::try_from(pid) {
        // The process may have ended by itself.
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

/// Returns `root` and all its descendants.
fn descendants(parents: &BTreeMap<u32, u32>, root: u32) -> BTreeSet<u32> {
    let mut found = BTreeSet::from([root]);
    loop {
        let before = found.len();
        let below = parents.iter().filter(|(_, parent)| found.contains(parent));
        let below: Vec<u32> = below.map(|(pid, _)| *pid).collect();
        found.extend(below);
        if found.len() == before {
            return found;
        }
    }
}

/// Returns the parent of every process that has not ended.
fn parents() -> BTreeMap<u32, u32> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let entry = |entry: fs::DirEntry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        Some((pid, parent(&stat)?))
    };
    all.filter_map(entry).collect()
}

/// Returns the parent from `/proc/PID/stat` (proc(5)): the fourth field. The second is a name in parentheses with any content.
fn parent(stat: &str) -> Option<u32> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    // A zombie starts no process and needs no signal.
    (state != "Z").then_some(parent)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::Stdio;
    use std::time::{Duration, Instant};

    use super::*;

    /// Starts a program with a child and a grandchild. Returns the program and the process IDs of these two.
    fn generations(family: &Family) -> (Member<'_>, Vec<u32>) {
        let script = "sh -c 'sleep 1000 & echo $!; wait' & echo $!; wait";
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdout(Stdio::piped());
        let mut member = family.start(&mut command).unwrap();
        let lines = BufReader::new(member.child.stdout.take().unwrap()).lines();
        let pids = lines.take(2).map(|line| line.unwrap().parse().unwrap());
        let pids = pids.collect();
        (member, pids)
    }

    fn wait_until_gone(pids: &[u32]) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while pids.iter().any(|pid| parents().contains_key(pid)) {
            assert!(Instant::now() < deadline, "{pids:?} go on");
            std::thread::yield_now();
        }
    }

    #[test]
    fn programs_end_with_all_that_they_started() {
        let family = Family::new();
        let (mut member, pids) = generations(&family);
        assert!(pids.iter().all(|pid| parents().contains_key(pid)));
        // From another thread, like the signal handler while a thread waits.
        assert!(std::thread::scope(|scope| scope
            .spawn(|| family.end())
            .join()
            .unwrap()));
        let killed = Some(Signal::SIGKILL as i32);
        assert_eq!(member.wait().unwrap().signal(), killed);
        wait_until_gone(&pids);
        drop(member);
        assert!(!family.end());
        let refused = family.start(&mut Command::new("true")).err();
        assert_eq!(
            refused.map(|error| error.kind()),
            Some(io::ErrorKind::Interrupted)
        );

        let family = Family::new();
        let (member, pids) = generations(&family);
        drop(member);
        wait_until_gone(&pids);
        assert!(family.members().running.is_empty());
    }

    /// The program may be killed from outside while its descendants are searched for, for example when memory is short.
    #[test]
    fn what_has_been_stopped_ends_even_where_its_ancestor_is_gone() {
        let family = Family::new();
        let (mut member, pids) = generations(&family);
        let mut looks = 0;
        end_seen(member.child.id(), || {
            looks += 1;
            if looks == 2 {
                member.child.kill().unwrap();
                member.child.wait().unwrap();
            }
            parents()
        });
        assert_eq!(looks, 2);
        wait_until_gone(&pids);
    }

    #[test]
    fn names_do_not_mislead() {
        assert_eq!(parent("7 (a) b) S 3 7"), Some(3));
        assert_eq!(parent("7 (sh) Z 3 7"), None);
        assert_eq!(parent("7"), None);
    }
}
