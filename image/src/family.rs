//! Programs that a build runs, and all that they run in turn: ended with whoever started them, compilers too.
//!
//! A compiler outlives a cargo that is killed, and a thread that is abandoned ends neither. So every program is written down
//! while it runs, and [`Family::end`] ends it with its descendants.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::addresses;

/// Looks for descendants before they are ended: each look finds those that the last one's were about to start.
const LOOKS: usize = 8;

/// Whatever runs for a build of this process.
pub(crate) static PROGRAMS: Family = Family::new();

/// Ends every program that a build of this process runs, with its compilers; whether there was one, and so a build that now
/// fails. For who is told to end, since a thread that builds cannot be.
pub fn end_all() -> bool {
    // Both, whichever there are: pip is the inputs' own.
    PROGRAMS.end() | cocoon_inputs::end_all()
}

/// Programs that end together.
#[derive(Debug)]
pub(crate) struct Family(Mutex<Members>);

#[derive(Debug)]
struct Members {
    running: BTreeSet<u32>,
    /// Nobody is started any more.
    ended: bool,
}

impl Family {
    /// Without members.
    const fn new() -> Self {
        Self(Mutex::new(Members {
            running: BTreeSet::new(),
            ended: false,
        }))
    }

    fn members(&self) -> MutexGuard<'_, Members> {
        // What a thread that panicked left is complete: nothing here fails half way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a program, which belongs to the family until it is dropped.
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

    /// Kills every program and its descendants, and lets nobody start another. Whoever waits for one goes on. Whether there
    /// was one.
    fn end(&self) -> bool {
        let mut members = self.members();
        members.ended = true;
        members.running.iter().for_each(|member| end(*member));
        !members.running.is_empty()
    }
}

/// A program that runs. It does not outlive this value, however that ends.
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
        // Most have ended already; one that has not may have descendants.
        if matches!(self.child.try_wait(), Ok(None)) {
            end(self.child.id());
            let _ = self.child.wait();
        }
        members.running.remove(&self.child.id());
    }
}

/// Kills a child of this process with its descendants. All are stopped first, so that none starts another meanwhile.
fn end(child: u32) {
    end_seen(child, parents);
}

/// `look` tells the parent of every process.
fn end_seen(child: u32, mut look: impl FnMut() -> BTreeMap<u32, u32>) {
    let mut stopped = BTreeSet::new();
    for _ in 0..LOOKS {
        let parents = look();
        // A number that is somebody else's by now, because the child has been waited for, is left alone. What has been
        // stopped below it would stay so for ever, and is killed all the same.
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
        // It may have ended by itself.
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

/// `root` and all below it.
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

/// The parent of every process that lives.
fn parents() -> BTreeMap<u32, u32> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let entry = |entry: fs::DirEntry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        Some((pid, parent(&stat)?))
    };
    all.filter_map(entry).collect()
}

/// The fourth field of `stat` (proc(5)); the second is a name in parentheses, which may hold anything.
fn parent(stat: &str) -> Option<u32> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    // A dead one whose parent has not heard of it starts nothing and needs no end.
    (state != "Z").then_some(parent)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::Stdio;
    use std::time::{Duration, Instant};

    use super::*;

    /// A program with a child of its own, which has one in turn; and their numbers.
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
        // From elsewhere, as by whoever is told to end while a thread waits.
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

    /// Killed by somebody else, as by a kernel short of memory, while its descendants are being looked for.
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
