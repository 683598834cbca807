//! System calls that the engine may make, each with its reason. Any other call kills an engine without GPUs and fails with
//! EPERM in an engine with GPUs.
//!
//! Two filters are stacked, and the kernel applies the stricter result. One returns ENOSYS for calls that libraries only
//! probe for, the other one allows calls.

mod gpus;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, apply_filter,
};

use super::JailError;
use gpus::WITH_GPUS;

/// A condition on one argument: index, mask, expected value under the mask.
type Masked = (u8, u64, u64);

/// One allowed call.
struct Allowed {
    call: libc::c_long,
    /// Alternative conditions, one of which must hold. Empty if there is no condition.
    when: &'static [Masked],
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "read by the test that demands one")
    )]
    reason: &'static str,
}

const fn any(call: libc::c_long, reason: &'static str) -> Allowed {
    Allowed {
        call,
        when: &[],
        reason,
    }
}

const fn when(call: libc::c_long, when: &'static [Masked], reason: &'static str) -> Allowed {
    Allowed { call, when, reason }
}

const ALL: u64 = u64::MAX;
const PROT_EXEC: u64 = 4;
const CLONE_THREAD: u64 = 0x1_0000;

const ALLOWED: &[Allowed] = &[
    // Starting the engine.
    any(
        libc::SYS_execve,
        "starts the engine itself; the root holds no other program, and no file can be added",
    ),
    any(
        libc::SYS_arch_prctl,
        "libc: thread pointer of the first thread",
    ),
    any(libc::SYS_set_tid_address, "libc: thread start"),
    any(libc::SYS_set_robust_list, "libc: thread start"),
    any(libc::SYS_rseq, "libc: thread start"),
    any(libc::SYS_prlimit64, "libc: stack size of the first thread"),
    any(
        libc::SYS_readlink,
        "static libc: its own path, for $ORIGIN; there is no /proc",
    ),
    any(libc::SYS_readlinkat, "the same by its newer name"),
    any(libc::SYS_uname, "libc: kernel version"),
    // Memory.
    any(libc::SYS_brk, "allocator"),
    when(
        libc::SYS_mmap,
        &[(2, PROT_EXEC, 0)],
        "allocator, thread stacks, weights; never executable",
    ),
    when(
        libc::SYS_mprotect,
        &[(2, PROT_EXEC, 0)],
        "guard pages, relocation; never executable",
    ),
    any(libc::SYS_munmap, "allocator, weights"),
    any(libc::SYS_mremap, "allocator: growing large blocks"),
    any(
        libc::SYS_madvise,
        "allocator gives memory back; readahead of weights",
    ),
    any(libc::SYS_mincore, "backtraces probe a frame's address"),
    // Threads.
    when(
        libc::SYS_clone,
        &[(0, CLONE_THREAD, CLONE_THREAD)],
        "threads; never a process",
    ),
    any(libc::SYS_futex, "locks, joins, parking"),
    any(libc::SYS_sched_yield, "spinning locks and thread pools"),
    any(libc::SYS_sched_getaffinity, "number of processors"),
    any(libc::SYS_getcpu, "allocator arenas, sharded counters"),
    any(libc::SYS_membarrier, "crossbeam's epochs"),
    any(libc::SYS_exit, "end of a thread"),
    any(libc::SYS_exit_group, "end of the engine"),
    any(libc::SYS_getpid, "libc: abort and fork detection"),
    any(libc::SYS_gettid, "libc: abort, thread names in messages"),
    when(
        libc::SYS_prctl,
        &[(0, ALL, 15), (0, ALL, 0x5356_4d41)],
        "names of threads (15) and of memory areas (PR_SET_VMA)",
    ),
    // Files: the model, read-only.
    any(
        libc::SYS_openat,
        "model files; the root is read-only and holds nothing else",
    ),
    any(libc::SYS_open, "the same by its older name"),
    any(libc::SYS_close, "files, sockets"),
    any(libc::SYS_read, "model files, socket, event counters"),
    any(libc::SYS_readv, "socket"),
    any(libc::SYS_pread64, "model files"),
    any(libc::SYS_lseek, "model files"),
    any(libc::SYS_fstat, "size of model files"),
    any(libc::SYS_stat, "is a file there?"),
    any(libc::SYS_lstat, "is a file there?"),
    any(libc::SYS_newfstatat, "is a file there?"),
    any(libc::SYS_statx, "is a file there?"),
    any(libc::SYS_access, "is a file there?"),
    any(libc::SYS_faccessat, "is a file there?"),
    any(libc::SYS_faccessat2, "is a file there?"),
    any(libc::SYS_getdents64, "lists the model's folder"),
    any(libc::SYS_getcwd, "relative paths"),
    any(libc::SYS_fadvise64, "readahead of weights"),
    // The socket pair and the event loop.
    any(
        libc::SYS_write,
        "socket, event counters; standard streams are /dev/null",
    ),
    any(libc::SYS_writev, "socket"),
    any(libc::SYS_recvfrom, "socket"),
    any(
        libc::SYS_sendto,
        "socket; there is no network, and no descriptor of one",
    ),
    any(libc::SYS_recvmsg, "socket"),
    any(libc::SYS_sendmsg, "socket"),
    any(libc::SYS_shutdown, "socket"),
    when(
        libc::SYS_socketpair,
        &[(0, ALL, 1)],
        "the event loop's own pair for signals (AF_UNIX)",
    ),
    any(libc::SYS_getsockopt, "socket: pending error"),
    any(libc::SYS_epoll_create1, "event loop"),
    any(libc::SYS_epoll_ctl, "event loop"),
    any(libc::SYS_epoll_wait, "event loop"),
    any(libc::SYS_epoll_pwait, "event loop"),
    any(libc::SYS_eventfd2, "event loop: waking it"),
    any(libc::SYS_pipe2, "waking between threads"),
    any(
        libc::SYS_poll,
        "are standard streams open? done once at start",
    ),
    any(libc::SYS_ppoll, "waiting for the socket"),
    when(
        libc::SYS_fcntl,
        &[
            (1, ALL, 1),
            (1, ALL, 2),
            (1, ALL, 3),
            (1, ALL, 4),
            (1, ALL, 1030),
        ],
        "descriptor flags: get, set, status get, set; duplicate with close-on-exec",
    ),
    when(
        libc::SYS_ioctl,
        &[
            (1, 0xffff_ffff, 0x5401),
            (1, 0xffff_ffff, 0x5421),
            (1, 0xffff_ffff, 0x5413),
            (1, 0xffff_ffff, 0x5451),
        ],
        "is it a terminal (TCGETS, TIOCGWINSZ)? non-blocking socket (FIONBIO), close on execution (FIOCLEX)",
    ),
    // Signals to the engine itself.
    any(
        libc::SYS_rt_sigaction,
        "runtime: stack overflow and pipe handlers",
    ),
    any(
        libc::SYS_rt_sigprocmask,
        "runtime: masks around thread start",
    ),
    any(libc::SYS_rt_sigreturn, "end of a handler"),
    any(libc::SYS_sigaltstack, "stack of the overflow handler"),
    any(
        libc::SYS_tgkill,
        "abort; nobody else is in its PID namespace",
    ),
    any(
        libc::SYS_restart_syscall,
        "the kernel's own continuation of a sleep",
    ),
    // Time and system facts. Under emulation, reading the clock is a real system call.
    any(libc::SYS_clock_gettime, "time"),
    any(libc::SYS_clock_getres, "time"),
    any(libc::SYS_gettimeofday, "time"),
    any(libc::SYS_time, "time"),
    any(libc::SYS_clock_nanosleep, "sleep"),
    any(libc::SYS_nanosleep, "sleep"),
    any(libc::SYS_getrandom, "hash seeds, sampling"),
    any(libc::SYS_sysinfo, "memory size"),
    any(libc::SYS_getrusage, "its own memory use"),
    any(libc::SYS_getuid, "libc: secure mode"),
    any(libc::SYS_geteuid, "libc: secure mode"),
    any(libc::SYS_getgid, "libc: secure mode"),
    any(libc::SYS_getegid, "libc: secure mode"),
];

/// Calls that libraries probe for and can do without. They fail with ENOSYS instead of killing the engine.
const ABSENT: &[(libc::c_long, &str)] = &[
    (
        libc::SYS_clone3,
        "its flags lie in memory, where no filter sees them; libc falls back to clone",
    ),
    (
        libc::SYS_io_uring_setup,
        "would do file and socket work past this filter",
    ),
    (libc::SYS_memfd_create, "would be a place for new programs"),
    (
        libc::SYS_socket,
        "there is no network; probing libraries find that out",
    ),
    (
        libc::SYS_sched_setaffinity,
        "thread pools that pin go on unpinned",
    ),
    (libc::SYS_sched_getparam, "thread pools read a priority"),
    (libc::SYS_sched_getscheduler, "thread pools read a policy"),
    (libc::SYS_get_mempolicy, "allocators look for memory nodes"),
    (libc::SYS_mbind, "allocators bind to memory nodes"),
    (libc::SYS_mlock, "locking is needless without swap"),
    (libc::SYS_mlock2, "locking is needless without swap"),
    (
        libc::SYS_statfs,
        "libraries look for huge page and cgroup file systems",
    ),
    (
        libc::SYS_fstatfs,
        "libraries look for huge page and cgroup file systems",
    ),
    (libc::SYS_mkdir, "caches that a library would like to keep"),
    (
        libc::SYS_mkdirat,
        "caches that a library would like to keep",
    ),
    (libc::SYS_unlink, "temporary files that were never made"),
];

/// Installs both filters for the calling thread and the engine that it executes, with or without `gpus`.
pub fn install(gpus: bool) -> Result<(), JailError> {
    for filter in filters(gpus)? {
        apply_filter(&filter)?;
    }
    Ok(())
}

/// Returns the filters in the order of installation.
fn filters(gpus: bool) -> Result<[BpfProgram; 2], seccompiler::BackendError> {
    // With GPUs, calls listed in `WITH_GPUS` are not absent but conditional.
    let needed = |call| gpus && WITH_GPUS.iter().any(|allowed| allowed.call == call);
    let absent: Vec<_> = ABSENT
        .iter()
        .map(|(call, _)| *call)
        .filter(|call| !needed(*call))
        .collect();
    let missing = absent.iter().map(|call| (*call, Vec::new())).collect();
    let enosys = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    let missing = SeccompFilter::new(missing, SeccompAction::Allow, enosys, TargetArch::x86_64)?;

    let mut allowed: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    let more = WITH_GPUS.iter().filter(|_| gpus);
    for Allowed { call, when, .. } in ALLOWED.iter().chain(more) {
        let rules = when.iter().map(|(index, mask, value)| {
            let condition = SeccompCondition::new(*index, Len::Qword, Op::MaskedEq(*mask), *value)?;
            SeccompRule::new(vec![condition])
        });
        let rules = rules.collect::<Result<Vec<_>, _>>()?;
        match allowed.entry(*call) {
            // An unconditional entry overrides conditional ones.
            Entry::Occupied(mut other) if rules.is_empty() => other.get_mut().clear(),
            Entry::Occupied(mut other) => other.get_mut().extend(rules),
            Entry::Vacant(place) => drop(place.insert(rules)),
        }
    }
    // The first filter answers these calls; the second one must not kill the engine for them.
    allowed.extend(absent.into_iter().map(|call| (call, Vec::new())));
    let otherwise = if gpus {
        SeccompAction::Errno(libc::EPERM.unsigned_abs())
    } else {
        SeccompAction::KillProcess
    };
    let allowed = SeccompFilter::new(allowed, otherwise, SeccompAction::Allow, TargetArch::x86_64)?;
    Ok([missing.try_into()?, allowed.try_into()?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_has_a_reason_and_stands_once() {
        let mut seen = std::collections::BTreeSet::new();
        for Allowed { call, reason, .. } in WITH_GPUS {
            assert!(reason.len() > 8, "system call {call} has no reason");
        }
        let reasons = ALLOWED
            .iter()
            .map(|a| (a.call, a.reason))
            .chain(ABSENT.iter().copied());
        for (call, reason) in reasons {
            assert!(!reason.is_empty(), "system call {call} has no reason");
            assert!(seen.insert(call), "system call {call} stands twice");
        }
    }

    #[test]
    fn filters_compile_within_the_kernels_limit() {
        for filter in [false, true].map(|gpus| filters(gpus).unwrap()).concat() {
            assert!(filter.len() <= 4096, "{} instructions", filter.len());
        }
    }
}
