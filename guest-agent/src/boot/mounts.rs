//! Mounts, kernel settings, resource limits and modules, as tables with a reason for each row.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};

/// Why the machine could not be prepared.
#[derive(Debug, thiserror::Error)]
pub(super) enum MountsError {
    /// A mount failed.
    #[error("cannot mount {kind} on {target}")]
    Mount {
        /// File system type.
        kind: &'static str,
        /// Mount point.
        target: &'static str,
        /// Cause.
        #[source]
        source: Errno,
    },
    /// A kernel setting could not be written.
    #[error("cannot set {path} to {value:?}")]
    Setting {
        /// Path of the setting below `/proc/sys`.
        path: &'static str,
        /// Value that was to be written.
        value: &'static str,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// Core dumps could not be disabled.
    #[error("cannot limit core dumps")]
    Limit(#[source] Errno),
    /// A kernel module could not be loaded.
    #[error("cannot load kernel module {path}")]
    Module {
        /// Path of the module.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// Path of the file.
        path: &'static str,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// Swap is enabled.
    #[error("swap is in use: it would write prompts to a disk of the host")]
    Swap,
}

/// A mount of a kernel file system, whose source has the same name as its type.
struct Mount {
    kind: &'static str,
    target: &'static str,
    flags: MsFlags,
    #[expect(dead_code, reason = "for the reader: why this mount exists")]
    reason: &'static str,
}

const INERT: MsFlags = MsFlags::MS_NOSUID
    .union(MsFlags::MS_NOEXEC)
    .union(MsFlags::MS_NODEV);
const DEVICES: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC);

const EARLY: [Mount; 3] = [
    Mount {
        kind: "devtmpfs",
        target: "/dev",
        flags: DEVICES,
        reason: "control port, disk, device mapper, null",
    },
    Mount {
        kind: "proc",
        target: "/proc",
        flags: INERT,
        reason: "command line, settings, memory, own executable",
    },
    Mount {
        kind: "sysfs",
        target: "/sys",
        flags: INERT,
        reason: "disks, ports, drivers, event log",
    },
];
/// Mount that needs kernel modules.
const LATE: Mount = Mount {
    kind: "configfs",
    target: "/sys/kernel/config",
    flags: INERT,
    reason: "evidence through tsm",
};

struct Setting {
    path: &'static str,
    value: &'static str,
    /// Whether a kernel without this setting is acceptable.
    optional: bool,
    #[expect(dead_code, reason = "for the reader: why this setting exists")]
    reason: &'static str,
}

const fn must(path: &'static str, value: &'static str, reason: &'static str) -> Setting {
    Setting {
        path,
        value,
        optional: false,
        reason,
    }
}

const fn may(path: &'static str, value: &'static str, reason: &'static str) -> Setting {
    Setting {
        path,
        value,
        optional: true,
        reason,
    }
}

const SETTINGS: [Setting; 15] = [
    may(
        "kernel/kexec_load_disabled",
        "1",
        "nobody starts another kernel over the measured one; absent without kexec",
    ),
    must("kernel/dmesg_restrict", "1", "the kernel's log is nobody's"),
    must(
        "kernel/kptr_restrict",
        "2",
        "no kernel addresses for an attacker inside the engine",
    ),
    must(
        "kernel/sysrq",
        "0",
        "the host types no commands into the serial console",
    ),
    must(
        "kernel/panic_on_oops",
        "1",
        "a damaged kernel stops instead of serving",
    ),
    must(
        "kernel/core_pattern",
        "core",
        "no helper program is ever started for a dump",
    ),
    must(
        "fs/suid_dumpable",
        "0",
        "what changed its user leaves no dump",
    ),
    must(
        "kernel/randomize_va_space",
        "2",
        "addresses are random in full",
    ),
    may(
        "kernel/perf_event_paranoid",
        "3",
        "no profiling from the engine; absent without perf",
    ),
    may(
        "kernel/unprivileged_bpf_disabled",
        "1",
        "no BPF from the engine; absent without BPF",
    ),
    may(
        "kernel/io_uring_disabled",
        "2",
        "no io_uring past system call filters; absent before 6.6",
    ),
    may(
        "vm/unprivileged_userfaultfd",
        "0",
        "no page fault tricks from the engine; absent without userfaultfd",
    ),
    may(
        "user/max_user_namespaces",
        "0",
        "nobody becomes root in a namespace of its own; absent without them",
    ),
    may(
        "net/ipv6/conf/all/disable_ipv6",
        "1",
        "one protocol less to reach; absent without IPv6",
    ),
    may(
        "net/ipv6/conf/default/disable_ipv6",
        "1",
        "the same for interfaces to come",
    ),
];

/// Mounts the file systems that need no modules, then applies kernel settings and resource limits, and refuses swap.
pub(super) fn early() -> Result<(), MountsError> {
    for row in &EARLY {
        attach(row)?;
    }
    for Setting {
        path,
        value,
        optional,
        ..
    } in SETTINGS
    {
        match fs::write(Path::new("/proc/sys").join(path), value) {
            Err(error) if optional && error.kind() == io::ErrorKind::NotFound => {}
            other => other.map_err(|source| MountsError::Setting {
                path,
                value,
                source,
            })?,
        }
    }
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(MountsError::Limit)?;
    prctl::set_dumpable(false).map_err(MountsError::Limit)?;
    let swaps = read("/proc/swaps").or_else(|error| match error {
        // A kernel without swap has no such file.
        MountsError::Read { source, .. } if source.kind() == io::ErrorKind::NotFound => {
            Ok(String::new())
        }
        other => Err(other),
    })?;
    if swaps.lines().count() > 1 {
        Err(MountsError::Swap)
    } else {
        Ok(())
    }
}

/// Loads the modules listed in `/modules.list`, in order.
pub(super) fn load_modules() -> Result<(), MountsError> {
    for path in read("/modules.list")?
        .lines()
        .filter(|line| !line.is_empty())
    {
        match File::open(path)
            .and_then(|file| Ok(finit_module(&file, c"", ModuleInitFlags::empty())?))
        {
            Ok(()) => {}
            // TEE drivers fail with ENODEV on a machine without their TEE.
            Err(error) if error.raw_os_error() == Some(Errno::ENODEV as i32) => {}
            Err(source) => {
                return Err(MountsError::Module {
                    path: path.into(),
                    source,
                });
            }
        }
    }
    Ok(())
}

/// Disables module loading until the next boot, even for a compromised agent.
pub(super) fn lock_modules() -> Result<(), MountsError> {
    let (path, value) = ("kernel/modules_disabled", "1");
    fs::write("/proc/sys/kernel/modules_disabled", value).map_err(|source| MountsError::Setting {
        path,
        value,
        source,
    })
}

/// Mounts the file systems that need kernel modules.
pub(super) fn late() -> Result<(), MountsError> {
    attach(&LATE)
}

fn attach(row: &Mount) -> Result<(), MountsError> {
    let Mount {
        kind,
        target,
        flags,
        ..
    } = *row;
    match fs::create_dir(target) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            let source = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
            return Err(MountsError::Mount {
                kind,
                target,
                source,
            });
        }
        _ => {}
    }
    match mount(Some(kind), target, Some(kind), flags, None::<&str>) {
        // A kernel may mount /dev by itself (CONFIG_DEVTMPFS_MOUNT).
        Err(Errno::EBUSY) => Ok(()),
        other => other.map_err(|source| MountsError::Mount {
            kind,
            target,
            source,
        }),
    }
}

fn read(path: &'static str) -> Result<String, MountsError> {
    fs::read_to_string(path).map_err(|source| MountsError::Read { path, source })
}
