//! What an engine gets besides where it computes on GPUs: its programs' libraries, device files, and what NVIDIA's library
//! looks at and writes to.
//!
//! **Nothing of this has run against a GPU.** What the library wants is known from its own imports and strings (550.163.01)
//! and from what others met who confine it; whatever else it should ask for is refused, not punished (see
//! [`seccomp`](super::seccomp)). The jail's tests do the same in a program of their own.

use std::fs::{self, File};
use std::path::Path;

use nix::mount::{MsFlags, mount};

use super::cell::{bind, file, system};
use super::{JailError, NOBODY};
use crate::runtime;

/// Descriptors: the library keeps dozens for each GPU.
pub(super) const DESCRIPTORS: u64 = 1024;

/// Longest file in bytes, which here is memory with a descriptor: the library ends by a signal where it may make none, and
/// the engine may have as much memory without.
pub(super) const LONGEST_FILE: u64 = 1 << 30;

/// Bytes of shared memory, by name.
const SHARED: u64 = 64 << 20;

/// Who may put what into shared memory: the engine, until it ends.
fn shared_memory() -> String {
    format!("size={SHARED},nr_inodes=1k,mode=0700,uid={NOBODY},gid={NOBODY}")
}

/// Whether files without a name can be executed; of this PID namespace. 1: not unless whoever makes one says so, which the
/// filter refuses.
const NAMELESS: &str = "/proc/sys/vm/memfd_noexec";

/// Its environment besides that of other engines.
pub(super) const ENVIRONMENT: &[(&str, &str)] = &[
    runtime::LIBRARIES,
    // Machine code that one engine compiled is not there for the next: it could be another one's work.
    ("CUDA_CACHE_DISABLE", "1"),
];

/// Puts it all below `stage`, the root to be, with the folder `runtime` as [`runtime::FOLDER`].
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
    // Of this PID namespace: it shows the engine alone, and the driver's facts. It is writable, for the library names its
    // threads there and owns nothing else of it. What is the machine's is sealed besides.
    let proc = place("/proc")?;
    system(
        "mount its processes",
        mount(Some("proc"), &proc, Some("proc"), inert, None::<&str>),
    )?;
    bind(&proc.join("sys"), &proc.join("sys"), inert)?;
    // Without what is mounted below it.
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

/// Read-write, unlike everything else.
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

/// The driver's control node, managed memory, and the GPUs. The second file of managed memory is there where somebody has made
/// it: the agent does not, since R550 opens it for debuggers alone; later drivers do not work without.
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
