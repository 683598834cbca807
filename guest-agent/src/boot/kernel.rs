//! Checks that the kernel applies the parameters of its command line. A kernel that does not know a parameter, or was built
//! without the feature behind it, ignores the parameter silently.
//!
//! Only settings that can be observed are checked. The others (`random.*`, `init_on_*`, `slab_nomerge`) leave no trace
//! outside the kernel's own memory, which lockdown hides.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount, umount};

/// Why this kernel may not run.
#[derive(Debug, thiserror::Error)]
pub(super) enum KernelError {
    /// The file that shows the setting cannot be accessed.
    #[error("cannot tell whether {word} holds: cannot {operation} {path}", path = path.display())]
    Unseen {
        /// Command line parameter or sysctl assignment.
        word: &'static str,
        /// Failed operation.
        operation: &'static str,
        /// Path of the file.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The kernel does not apply the setting.
    #[error("the kernel does not keep {word}: {path} is {found:?}", path = path.display())]
    NotKept {
        /// Command line parameter or sysctl assignment.
        word: &'static str,
        /// File that shows the setting.
        path: PathBuf,
        /// First line of the file.
        found: String,
    },
}

/// Which kernel modules this image may load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Modules {
    /// Only modules that the kernel's vendor signed.
    Signed,
    /// NVIDIA's modules too, which no key of this kernel signs. The command line of such an image lacks
    /// `module.sig_enforce=1`, and the command line is measured.
    Any,
}

struct Promise {
    word: &'static str,
    /// File that shows the setting.
    path: &'static str,
    kept: fn(&str) -> bool,
    #[expect(dead_code, reason = "for the reader: what rests on it")]
    reason: &'static str,
}

const SECURITY: &str = "/sys/kernel/security";
/// Strictest lockdown mode, and the file that sets it.
const LOCKDOWN: (&str, &str) = ("confidentiality", "/sys/kernel/security/lockdown");
/// Parameter that only images without NVIDIA's modules have.
const SIGNED: &str = "module.sig_enforce=1";

const PROMISES: [Promise; 4] = [
    Promise {
        word: "lockdown=confidentiality",
        path: "/sys/kernel/security/lockdown",
        kept: |text| {
            text.split_whitespace()
                .any(|mode| mode == "[confidentiality]")
        },
        reason: "not even PID 1 reads or changes kernel memory",
    },
    Promise {
        word: SIGNED,
        path: "/sys/module/module/parameters/sig_enforce",
        kept: |text| text.trim() == "Y",
        reason: "only modules of the kernel's maker load",
    },
    Promise {
        word: "panic=-1",
        path: "/proc/sys/kernel/panic",
        kept: |text| text.trim() == "-1",
        reason: "after a panic nothing lingers in memory",
    },
    Promise {
        word: "vsyscall=none",
        path: "/proc/self/maps",
        kept: |text| !text.contains("[vsyscall]"),
        reason: "no executable page at a fixed address",
    },
];

/// Checks every promise. Needs `/proc` and `/sys`. Mounts securityfs only for the check, because nothing else needs it.
pub(super) fn check(modules: Modules) -> Result<(), KernelError> {
    with_security(|| {
        let all = PROMISES.iter();
        let mut kept = all.filter(|promise| modules == Modules::Signed || promise.word != SIGNED);
        kept.try_for_each(|promise| {
            let path = Path::new(promise.path);
            judge(promise, path, fs::read_to_string(path))
        })
    })
}

/// Setting that a kernel without kexec does not have.
const KEXEC: &str = "kernel.kexec_load_disabled=1";

/// Locks that the agent itself sets in every variant of the image. After the last module, neither a module nor another
/// kernel can be loaded.
const LOCKS: [Promise; 2] = [
    Promise {
        word: "kernel.modules_disabled=1",
        path: "/proc/sys/kernel/modules_disabled",
        kept: |text| text.trim() == "1",
        reason: "not even a compromised agent loads a module",
    },
    Promise {
        word: KEXEC,
        path: "/proc/sys/kernel/kexec_load_disabled",
        kept: |text| text.trim() == "1",
        reason: "not even a compromised agent starts another kernel",
    },
];

/// Checks every lock. A lock that is set cannot be removed until the next boot.
pub(super) fn check_locks() -> Result<(), KernelError> {
    LOCKS.iter().try_for_each(|lock| {
        let path = Path::new(lock.path);
        turned(lock, path, fs::read_to_string(path))
    })
}

fn turned(lock: &Promise, path: &Path, read: io::Result<String>) -> Result<(), KernelError> {
    match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound && lock.word == KEXEC => Ok(()),
        read => judge(lock, path, read),
    }
}

/// Raises lockdown to the mode in which other images start, after the last module that this mode would refuse. The mode
/// cannot be lowered again.
pub(super) fn lock_down() -> Result<(), KernelError> {
    let (mode, path) = LOCKDOWN;
    with_security(|| {
        fs::write(path, mode).map_err(|source| KernelError::Unseen {
            word: PROMISES[0].word,
            operation: "write",
            path: path.into(),
            source,
        })
    })
}

fn with_security(look: impl FnOnce() -> Result<(), KernelError>) -> Result<(), KernelError> {
    let word = PROMISES[0].word;
    let unseen = |operation| {
        move |source: nix::Error| KernelError::Unseen {
            word,
            operation,
            path: SECURITY.into(),
            source: source.into(),
        }
    };
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MsFlags::MS_NODEV;
    let kind = Some("securityfs");
    mount(kind, SECURITY, kind, flags, None::<&str>).map_err(unseen("mount"))?;
    let kept = look();
    umount(SECURITY).map_err(unseen("unmount"))?;
    kept
}

fn judge(promise: &Promise, path: &Path, read: io::Result<String>) -> Result<(), KernelError> {
    let word = promise.word;
    match read {
        Ok(text) if (promise.kept)(&text) => Ok(()),
        Ok(text) => Err(KernelError::NotKept {
            word,
            path: path.to_owned(),
            // An error is one line on the console.
            found: text.lines().next().unwrap_or_default().to_owned(),
        }),
        Err(source) => Err(KernelError::Unseen {
            word,
            operation: "read",
            path: path.to_owned(),
            source,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(index: usize, text: &str) -> Result<(), String> {
        let promise = &PROMISES[index];
        let read = Ok(text.to_owned());
        judge(promise, Path::new(promise.path), read).map_err(|error| error.to_string())
    }

    #[test]
    fn what_the_kernel_shows_when_it_keeps_its_word_and_when_not() {
        let good = [
            "none integrity [confidentiality]\n",
            "Y\n",
            "-1\n",
            "7ffc0000-7ffc1000 r-xp 00000000 00:00 0    [vdso]\n",
        ];
        for (index, text) in good.into_iter().enumerate() {
            assert_eq!(judged(index, text), Ok(()));
        }
        let bad = [
            (
                "none [integrity] confidentiality\n",
                "the kernel does not keep lockdown=confidentiality: /sys/kernel/security/lockdown is \"none [integrity] \
                 confidentiality\"",
            ),
            (
                "N\n",
                "the kernel does not keep module.sig_enforce=1: /sys/module/module/parameters/sig_enforce is \"N\"",
            ),
            (
                "0\n",
                "the kernel does not keep panic=-1: /proc/sys/kernel/panic is \"0\"",
            ),
            (
                "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0    [vsyscall]\n",
                "the kernel does not keep vsyscall=none: /proc/self/maps is \
                 \"ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0    [vsyscall]\"",
            ),
        ];
        for (index, (text, error)) in bad.into_iter().enumerate() {
            assert_eq!(judged(index, text), Err(error.to_owned()));
        }
    }

    #[test]
    fn a_door_that_is_not_locked_ends_the_boot() {
        let judged = |lock: &Promise, read: io::Result<String>| {
            turned(lock, Path::new(lock.path), read).map_err(|error| error.to_string())
        };
        let told_by = |text: &str| {
            LOCKS
                .each_ref()
                .map(|lock| judged(lock, Ok(text.to_owned())))
        };
        let told = [
            "the kernel does not keep kernel.modules_disabled=1: /proc/sys/kernel/modules_disabled is \"0\"",
            "the kernel does not keep kernel.kexec_load_disabled=1: /proc/sys/kernel/kexec_load_disabled is \"0\"",
        ];
        assert_eq!(told_by("0\n"), told.map(|told| Err(told.to_owned())));
        assert_eq!(told_by("1\n"), [Ok(()), Ok(())]);
        // A kernel without kexec has no lock for it. A kernel without modules is not the one of this image.
        let missing = LOCKS
            .each_ref()
            .map(|lock| judged(lock, Err(io::ErrorKind::NotFound.into())));
        let unseen = "cannot tell whether kernel.modules_disabled=1 holds: cannot read /proc/sys/kernel/modules_disabled";
        assert_eq!(missing, [Err(unseen.to_owned()), Ok(())]);
    }

    #[test]
    fn a_kernel_that_shows_nothing_may_not_run() {
        let promise = &PROMISES[1];
        let missing = judge(
            promise,
            Path::new(promise.path),
            Err(io::ErrorKind::NotFound.into()),
        );
        assert_eq!(
            missing.unwrap_err().to_string(),
            "cannot tell whether module.sig_enforce=1 holds: cannot read /sys/module/module/parameters/sig_enforce"
        );
    }
}
