//! What this process gives up before it loads the driver's library.
//!
//! Not its user: the driver lets only an administrator (`CAP_SYS_ADMIN`) set the ready state. So what such a one could do
//! besides is refused by the kernel: other processes, programs, mounts, networks, modules, new devices. What the library
//! may want is not listed, because nobody here has seen it run under a filter: this one names what is refused.

use std::collections::BTreeMap;

use nix::errno::Errno;
use nix::libc;
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::geteuid;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};

/// Why there is no jail.
#[derive(Debug, thiserror::Error)]
pub enum JailError {
    /// A system call failed.
    #[error("jail: cannot {0}")]
    System(&'static str, #[source] Errno),
    /// The filter does not load.
    #[error("jail: cannot install the system call filter")]
    Filter(#[from] seccompiler::Error),
    /// The filter's rules are wrong.
    #[error("jail: cannot build the system call filter")]
    Rules(#[from] seccompiler::BackendError),
}

/// System calls that are refused with EPERM, each with its reason.
const REFUSED: &[(libc::c_long, &str)] = &[
    (libc::SYS_execve, "other programs"),
    (libc::SYS_execveat, "other programs"),
    (libc::SYS_fork, "other processes"),
    (libc::SYS_vfork, "other processes"),
    (libc::SYS_kill, "signals to others"),
    (libc::SYS_tkill, "signals to others"),
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
    (libc::SYS_fsopen, "other files"),
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

/// Enters the jail. Without root's rights, as in tests, there are no namespaces to leave.
///
/// # Errors
/// [`JailError`]: nothing is done outside of it.
pub fn enter() -> Result<(), JailError> {
    let system = |operation: &'static str, outcome: nix::Result<()>| {
        outcome.map_err(|error| JailError::System(operation, error))
    };
    if geteuid().is_root() {
        let flags = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS;
        system("leave namespaces", unshare(flags))?;
    }
    // A core file would hold what the driver keeps; a descriptor for each GPU, the library's own, and the socket.
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

/// What is refused, and what is said not to exist.
fn filters() -> Result<[BpfProgram; 2], seccompiler::BackendError> {
    const CLONE_THREAD: u64 = 0x1_0000;
    let mut refused: BTreeMap<i64, Vec<SeccompRule>> = REFUSED
        .iter()
        .map(|(call, _reason)| (*call, Vec::new()))
        .collect();
    // Threads, and no processes.
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
    // The flags of clone3 lie in memory, where no filter sees them; libc falls back to clone.
    let absent = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    Ok([filter(refused, libc::EPERM)?, filter(absent, libc::ENOSYS)?])
}

#[cfg(test)]
mod tests {
    use super::*;

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
