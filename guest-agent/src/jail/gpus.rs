//! What an engine with GPUs gets in addition: its libraries, device files, and the files that NVIDIA's library reads and
//! writes.
//!
//! **None of this has run against a GPU.** The library's needs are known from its imports and strings (550.163.01) and from
//! the experience of others who confine it. Other system calls fail but do not kill the engine (see
//! [`seccomp`](super::seccomp)). The jail's tests make the same calls from a program of their own.

use std::fs::{self, File};
use std::path::Path;

use nix::mount::{MsFlags, mount};

use super::cell::{bind, file, system};
use super::{JailError, NOBODY};
use crate::runtime;

/// Limit on descriptors: the library keeps dozens for each GPU.
pub(super) const DESCRIPTORS: u64 = 1024;

/// Largest file size in bytes. Here files are memory with a descriptor. A limit of zero would kill the library with SIGXFSZ,
/// and the engine may use as much memory without files.
pub(super) const LONGEST_FILE: u64 = 1 << 30;

/// Size of `/dev/shm` in bytes.
const SHARED: u64 = 64 << 20;

/// Returns mount options of `/dev/shm`, which only the engine can use.
fn shared_memory() -> String {
    format!("size={SHARED},nr_inodes=1k,mode=0700,uid={NOBODY},gid={NOBODY}")
}

/// Setting of the PID namespace for executing memfd files. With 1 they are executable only if created with MFD_EXEC, which
/// the filter refuses.
const NAMELESS: &str = "/proc/sys/vm/memfd_noexec";

/// Additional environment of an engine with GPUs.
pub(super) const ENVIRONMENT: &[(&str, &str)] = &[
    runtime::LIBRARIES,
    // An engine must not run machine code that an earlier, possibly compromised engine left in the cache.
    ("CUDA_CACHE_DISABLE", "1"),
];

/// Adds everything below `stage`, the future root. The folder `runtime` becomes [`runtime::FOLDER`].
pub(super) fn lend(stage: &Path, runtime: &Path) -> Result<(), JailError> {
    let inert = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let place = |name: &str| {
        let place = stage.join(name.trim_start_matches('/'));
        file("create a place of the GPUs'", fs::create_dir(&place))?;
        Ok::<_, JailError>(place)
    };
    bind(
        runtime,
        &place(runtime::FOLDER)?,
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
    )?;
    file("forbid programs without a name", fs::write(NAMELESS, "1"))?;
    // This /proc shows only the engine's PID namespace and the driver's files. It is writable because the library names its
    // threads there. /proc/sys, which affects the machine, is made read-only below.
    let proc = place("/proc")?;
    system(
        "mount its processes",
        mount(Some("proc"), &proc, Some("proc"), inert, None::<&str>),
    )?;
    bind(&proc.join("sys"), &proc.join("sys"), inert)?;
    // Not recursive: file systems mounted below /sys stay out.
    bind(Path::new("/sys"), &place("/sys")?, inert)?;
    let options = shared_memory();
    system(
        "mount its shared memory",
        mount(
            Some("shm"),
            &place("/dev/shm")?,
            Some("tmpfs"),
            inert,
            Some(options.as_str()),
        ),
    )?;
    let devices = file("list devices", fs::read_dir("/dev"))?;
    for device in devices {
        let name = file("list devices", device)?.file_name();
        if !name.to_str().is_some_and(is_lent) {
            continue;
        }
        let place = stage.join("dev").join(&name);
        file("create a device's place", File::create(&place).map(drop))?;
        lend_device(&Path::new("/dev").join(&name), &place)?;
    }
    Ok(())
}

/// Binds a device read-write, unlike all other mounts.
fn lend_device(device: &Path, place: &Path) -> Result<(), JailError> {
    let none = None::<&str>;
    system(
        "bind into the new root",
        mount(Some(device), place, none, MsFlags::MS_BIND, none),
    )?;
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    system(
        "seal in the new root",
        mount(none, place, none, flags, none),
    )
}

/// Returns whether the engine gets this device: the driver's control device, managed memory, and GPUs. The agent does not
/// create `nvidia-uvm-tools`, because R550 opens it only for debuggers. Later drivers do not work without it.
fn is_lent(name: &str) -> bool {
    let number = name.strip_prefix("nvidia");
    let gpu = number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    gpu || matches!(name, "nvidiactl" | "nvidia-uvm" | "nvidia-uvm-tools")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_computing_needs_is_lent() {
        for name in [
            "nvidiactl",
            "nvidia-uvm",
            "nvidia-uvm-tools",
            "nvidia0",
            "nvidia15",
        ] {
            assert!(is_lent(name), "{name}");
        }
        for name in [
            "nvidia",
            "nvidia-caps",
            "nvidia-modeset",
            "nvidia0x",
            "vda",
            "mem",
            "tdx_guest",
        ] {
            assert!(!is_lent(name), "{name}");
        }
    }
}
