//! The jail that this process enters before it loads the driver's library.
//!
//! The process keeps its user, which owns the device files, and `CAP_SYS_ADMIN`, without which the driver does not set the
//! ready state. It gives up every other capability for good. Without `CAP_SYS_PTRACE` the kernel does not open the memory of
//! an undumpable process of the same user, such as the agent with its keys. Of the agent's files only those in [`root`]
//! remain. A filter refuses what else an administrator could do: other processes, programs, mounts, networks, modules, new
//! devices. It lists refused calls, not allowed ones, because the library has never been observed under a filter here.

mod root;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::libc;
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::geteuid;
use rustix::thread::{
    CapabilitySet, CapabilitySets, remove_capability_from_bounding_set, set_capabilities,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter, sock_filter,
};

/// Reason why the jail could not be entered.
#[derive(Debug, thiserror::Error)]
pub enum JailError {
    /// A system call failed.
    #[error("jail: cannot {0}")]
    System(&'static str, #[source] Errno),
    /// The kernel does not accept the filter.
    #[error("jail: cannot install the system call filter")]
    Filter(#[from] seccompiler::Error),
    /// The filter's rules are invalid.
    #[error("jail: cannot build the system call filter")]
    Rules(#[from] seccompiler::BackendError),
}

/// `open_tree_attr`, which can make a writable copy of a read-only mount. In Linux since 6.15; not defined by libc yet.
const OPEN_TREE_ATTR: libc::c_long = 467;

/// System calls that are refused with EPERM, each with the reason.
const REFUSED: &[(libc::c_long, &str)] = &[
    (libc::SYS_execve, "other programs"),
    (libc::SYS_execveat, "other programs"),
    (libc::SYS_fork, "other processes"),
    (libc::SYS_vfork, "other processes"),
    (libc::SYS_kill, "signals to others"),
    (libc::SYS_tkill, "signals to others"),
    (libc::SYS_tgkill, "signals to others"),
    (libc::SYS_rt_sigqueueinfo, "signals to others"),
    (libc::SYS_rt_tgsigqueueinfo, "signals to others"),
    (libc::SYS_pidfd_open, "a hold on others"),
    (libc::SYS_pidfd_getfd, "descriptors of others"),
    (libc::SYS_pidfd_send_signal, "signals to others"),
    (libc::SYS_ptrace, "memory of others"),
    (libc::SYS_process_vm_readv, "memory of others"),
    (libc::SYS_process_vm_writev, "memory of others"),
    (libc::SYS_process_madvise, "memory of others"),
    (libc::SYS_kcmp, "what others hold"),
    (libc::SYS_socket, "networks, and services on this machine"),
    (libc::SYS_connect, "networks, and services on this machine"),
    (libc::SYS_bind, "networks, and services on this machine"),
    (libc::SYS_listen, "networks, and services on this machine"),
    (libc::SYS_mount, "other files"),
    (libc::SYS_umount2, "other files"),
    (libc::SYS_move_mount, "other files"),
    (libc::SYS_open_tree, "other files"),
    (OPEN_TREE_ATTR, "other files"),
    (libc::SYS_fsopen, "other files"),
    (libc::SYS_fspick, "other files"),
    (libc::SYS_fsconfig, "other files"),
    (libc::SYS_fsmount, "other files"),
    (libc::SYS_mount_setattr, "other files"),
    (libc::SYS_pivot_root, "other files"),
    (libc::SYS_chroot, "other files"),
    (libc::SYS_open_by_handle_at, "files past their folders"),
    (libc::SYS_mknod, "new devices"),
    (libc::SYS_mknodat, "new devices"),
    (libc::SYS_setns, "other namespaces"),
    (libc::SYS_unshare, "other namespaces"),
    (libc::SYS_init_module, "code in the kernel"),
    (libc::SYS_finit_module, "code in the kernel"),
    (libc::SYS_delete_module, "code in the kernel"),
    (libc::SYS_bpf, "code in the kernel"),
    (libc::SYS_kexec_load, "another kernel"),
    (libc::SYS_kexec_file_load, "another kernel"),
    (libc::SYS_reboot, "the machine's end"),
    (libc::SYS_perf_event_open, "what others compute"),
    (libc::SYS_iopl, "ports"),
    (libc::SYS_ioperm, "ports"),
    (libc::SYS_swapon, "memory on a disk"),
    (libc::SYS_swapoff, "memory on a disk"),
    (libc::SYS_settimeofday, "the machine's clock"),
    (libc::SYS_clock_settime, "the machine's clock"),
    (libc::SYS_adjtimex, "the machine's clock"),
    (libc::SYS_clock_adjtime, "the machine's clock"),
    (libc::SYS_sethostname, "the machine's name"),
    (libc::SYS_setdomainname, "the machine's name"),
    (libc::SYS_syslog, "the kernel's log"),
    (libc::SYS_acct, "records of others"),
    (libc::SYS_quotactl, "limits of others"),
    (libc::SYS_keyctl, "the kernel's keys"),
    (libc::SYS_add_key, "the kernel's keys"),
    (libc::SYS_request_key, "the kernel's keys"),
    (libc::SYS_userfaultfd, "a hold on page faults"),
    (libc::SYS_io_uring_setup, "work past this filter"),
    (libc::SYS_fanotify_init, "what others open"),
];

/// Enters the jail. It contains the GPUs' device files in `devices` and the folders in which the loader looks for libraries.
/// Without root's rights, as in tests, the process stays in its namespaces.
///
/// # Errors
/// [`JailError`]: the caller must not continue outside the jail.
pub fn enter(devices: &Path) -> Result<(), JailError> {
    if geteuid().is_root() {
        let flags = CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWUTS;
        system("leave namespaces", unshare(flags))?;
        root::enter(devices, &libraries())?;
        system("give up capabilities", keep(CapabilitySet::SYS_ADMIN))?;
    }
    // A core file would contain the driver's data. Descriptors are needed for each GPU, the library's files and the socket.
    for (resource, limit) in [(Resource::RLIMIT_CORE, 0), (Resource::RLIMIT_NOFILE, 256)] {
        system("set a limit", setrlimit(resource, limit, limit))?;
    }
    system("forbid new privileges", prctl::set_no_new_privs())?;
    system("forbid dumps", prctl::set_dumpable(false))?;
    for filter in filters()? {
        apply_filter(&filter)?;
    }
    Ok(())
}

fn system<T>(operation: &'static str, outcome: nix::Result<T>) -> Result<T, JailError> {
    outcome.map_err(|error| JailError::System(operation, error))
}

/// Returns the folders in which the loader looks for libraries. The agent sets them, and there are no others.
fn libraries() -> Vec<PathBuf> {
    let places = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    std::env::split_paths(&places)
        .filter(|place| place.is_absolute())
        .collect()
}

/// Reduces the capabilities of this thread, and of threads that it starts, to `kept`. Executed programs cannot gain more.
fn keep(kept: CapabilitySet) -> nix::Result<()> {
    let errno = |error: rustix::io::Errno| Errno::from_raw(error.raw_os_error());
    for bit in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        if kept.contains(capability) {
            continue;
        }
        match remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // The kernel has no capabilities beyond this one.
            Err(rustix::io::Errno::INVAL) => break,
            Err(error) => return Err(errno(error)),
        }
    }
    // The kernel then clears the ambient set too.
    let sets = CapabilitySets {
        effective: kept,
        permitted: kept,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, sets).map_err(errno)
}

/// Returns the filters: for refused calls, and for calls that are reported as missing.
fn filters() -> Result<[BpfProgram; 3], seccompiler::BackendError> {
    const CLONE_THREAD: u64 = 0x1_0000;
    let mut refused: BTreeMap<i64, Vec<SeccompRule>> = REFUSED
        .iter()
        .map(|(call, _reason)| (*call, Vec::new()))
        .collect();
    // Without CLONE_THREAD the call would create a process.
    let process = SeccompCondition::new(
        0,
        SeccompCmpArgLen::Qword,
        SeccompCmpOp::MaskedEq(CLONE_THREAD),
        0,
    )?;
    refused.insert(libc::SYS_clone, vec![SeccompRule::new(vec![process])?]);
    let filter = |rules, errno: i32| {
        let answer = SeccompAction::Errno(errno.unsigned_abs());
        SeccompFilter::new(rules, SeccompAction::Allow, answer, TargetArch::x86_64)?.try_into()
    };
    // The flags of clone3 are in memory, where a filter cannot see them. libc falls back to clone.
    let absent = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let [refused, absent] = [filter(refused, libc::EPERM)?, filter(absent, libc::ENOSYS)?];
    Ok([refused, absent, without_second_numbers()])
}

/// Reports calls with numbers of the x32 ABI, which have this bit set, as missing. A kernel with that ABI knows each refused
/// call by a second number of the same architecture, which a list of refused calls would not cover.
fn without_second_numbers() -> BpfProgram {
    const X32: u32 = 0x4000_0000;
    // BPF_LD | BPF_W | BPF_ABS, BPF_JMP | BPF_JGE | BPF_K, BPF_RET | BPF_K.
    const LOAD: u16 = 0x20;
    const JUMP_IF_NOT_LESS: u16 = 0x35;
    const RETURN: u16 = 0x06;
    let step = |code, jf, k| sock_filter { code, jt: 0, jf, k };
    let absent = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs();
    vec![
        // The call's number is the first field of `struct seccomp_data`.
        step(LOAD, 0, 0),
        step(JUMP_IF_NOT_LESS, 1, X32),
        step(RETURN, 0, absent),
        step(RETURN, 0, libc::SECCOMP_RET_ALLOW),
    ]
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
    use std::net::UdpSocket;
    use std::os::unix::net::{UnixDatagram, UnixStream};
    use std::process::{Command, Stdio};

    use super::*;

    /// Environment variable that is set for the second process of the test below.
    const STANDS_STILL: &str = "COCOON_GPU_STANDS_STILL";

    /// The second process is undumpable and runs as root with every capability, like PID 1 in the appliance.
    #[test]
    fn the_memory_of_a_process_that_cannot_be_dumped_stays_closed() {
        if std::env::var_os(STANDS_STILL).is_some() {
            prctl::set_dumpable(false).unwrap();
            println!("undumpable");
            // Waits until the test closes the pipe.
            drop(std::io::stdin().read(&mut [0]));
            return;
        }
        let name = "jail::tests::the_memory_of_a_process_that_cannot_be_dumped_stays_closed";
        let mut other = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(STANDS_STILL, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(other.stdout.take().unwrap()).lines();
        let stands = lines
            .by_ref()
            .map_while(Result::ok)
            .any(|line| line.contains("undumpable"));
        assert!(stands, "the other process ended");
        let memory = format!("/proc/{}/mem", other.id());
        // On a thread of its own: capabilities are per thread, so other tests keep theirs.
        let tried = std::thread::spawn(move || {
            if File::open(&memory).is_err() {
                return None;
            }
            if let Err(error) = keep(CapabilitySet::SYS_ADMIN) {
                assert_eq!(error, Errno::EPERM);
                return None;
            }
            let status = fs::read_to_string("/proc/thread-self/status").unwrap();
            Some((status, File::open(&memory).map(drop)))
        });
        let tried = tried.join().unwrap();
        drop(other.stdin.take());
        other.wait().unwrap();
        let Some((status, opened)) = tried else {
            // Written directly, because a test's captured output would not be shown.
            let line = b"SKIPPED: giving up capabilities needs root with all of them\n";
            std::io::stderr().write_all(line).unwrap();
            return;
        };
        let sets: Vec<&str> = (status.lines())
            .filter(|line| line.starts_with("Cap"))
            .filter_map(|line| line.split_whitespace().nth(1))
            .collect();
        // Inheritable, permitted, effective, bounding and ambient set. CAP_SYS_ADMIN is bit 21.
        let (none, admin) = ("0000000000000000", "0000000000200000");
        assert_eq!(sets, [none, admin, admin, admin, none]);
        let error = opened.expect_err("the memory was opened");
        let refused = [libc::EACCES, libc::EPERM].map(Some);
        assert!(refused.contains(&error.raw_os_error()), "{error}");
    }

    /// On a thread, because filters apply to a thread and to the threads that it starts.
    #[test]
    fn networks_and_other_processes_are_refused_and_threads_are_not() {
        let jailed = std::thread::spawn(|| {
            prctl::set_no_new_privs().unwrap();
            for filter in filters().unwrap() {
                apply_filter(&filter).unwrap();
            }
            let refused: [(&str, io::Result<()>); 4] = [
                ("socket", UdpSocket::bind("127.0.0.1:0").map(drop)),
                ("unix socket", UnixDatagram::unbound().map(drop)),
                ("program", Command::new("/bin/true").status().map(drop)),
                (
                    "namespace",
                    unshare(CloneFlags::CLONE_NEWUSER).map_err(Into::into),
                ),
            ];
            let threads = std::thread::Builder::new()
                .spawn(|| 7)
                .map(|one| one.join());
            let pair = UnixStream::pair().map(drop);
            (refused, threads, pair, File::open("/dev/null").map(drop))
        });
        let (refused, threads, pair, file) = jailed.join().unwrap();
        for (what, outcome) in refused {
            let error = outcome.expect_err(what);
            assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{what}: {error}");
        }
        // Threads, the socket pair and files, which agent and library need.
        assert_eq!(threads.unwrap().unwrap(), 7);
        assert!(pair.is_ok() && file.is_ok());
    }

    /// The test interprets the filter itself. Few kernels have the x32 ABI, so calls to this one would prove nothing.
    #[test]
    fn calls_have_no_second_numbers() {
        let judged = |number: i64| {
            let number = u32::try_from(number).unwrap();
            let (program, mut at, mut loaded) = (without_second_numbers(), 0, None);
            loop {
                let step: &sock_filter = &program[at];
                at += 1;
                match (step.code, step.k) {
                    (0x20, 0) => loaded = Some(number),
                    (0x35, least) if loaded.unwrap() >= least => at += usize::from(step.jt),
                    (0x35, _) => at += usize::from(step.jf),
                    (0x06, verdict) => return verdict,
                    other => panic!("{other:?}"),
                }
            }
        };
        let absent = 0x0005_0000 | libc::ENOSYS.unsigned_abs();
        for (call, _) in REFUSED {
            assert_eq!(judged(*call), libc::SECCOMP_RET_ALLOW, "the other filters'");
            assert_eq!(judged(0x4000_0000 | call), absent);
        }
        assert_eq!(judged(0x3fff_ffff), libc::SECCOMP_RET_ALLOW);
        assert_eq!(judged(0x4000_0000), absent);
        assert_eq!(judged(0xffff_ffff), absent);
    }

    #[test]
    fn every_refusal_has_a_reason_and_stands_once() {
        let mut seen = std::collections::BTreeSet::new();
        for (call, reason) in REFUSED {
            assert!(!reason.is_empty(), "system call {call} has no reason");
            assert!(seen.insert(call), "system call {call} stands twice");
        }
        for filter in filters().unwrap() {
            assert!(filter.len() <= 4096, "{} instructions", filter.len());
        }
    }
}
