//! What an engine gets besides where it computes on GPUs: its programs' libraries, device files, and what NVIDIA's library
//! looks at.
//!
//! **Nothing of this has run against a GPU.** What the library opens is known from how others confine it; whatever else it
//! should ask for is refused, not punished (see [`seccomp`](super::seccomp)).

use std::fs::{self, File};
use std::path::Path;

use nix::mount::{MsFlags, mount};

use super::JailError;
use super::cell::{bind, file, system};
use crate::runtime;

/// Descriptors: the library keeps dozens for each GPU.
pub(super) const DESCRIPTORS: u64 = 1024;

/// Its environment besides that of other engines.
pub(super) const ENVIRONMENT: &[(&str, &str)] = &[
    runtime::LIBRARIES,
    // Machine code that one engine compiled is not there for the next: it could be another one's work.
    ("CUDA_CACHE_DISABLE", "1"),
];

/// Puts it all below `stage`, the root to be.
pub(super) fn lend(stage: &Path) -> Result<(), JailError> {
    let inert = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let place = |name: &str| {
        let place = stage.join(name.trim_start_matches('/'));
        file("create a place of the GPUs'", fs::create_dir(&place))?;
        Ok::<_, JailError>(place)
    };
    bind(
        Path::new(runtime::FOLDER),
        &place(runtime::FOLDER)?,
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
    )?;
    // Of this PID namespace: it shows the engine alone, and the driver's facts.
    let proc = place("/proc")?;
    let sealed = inert | MsFlags::MS_RDONLY;
    system(
        "mount its processes",
        mount(Some("proc"), &proc, Some("proc"), sealed, None::<&str>),
    )?;
    // Without what is mounted below it.
    bind(Path::new("/sys"), &place("/sys")?, inert)?;
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

/// The driver's control node, managed memory, and the GPUs.
fn is_lent(name: &str) -> bool {
    let number = name.strip_prefix("nvidia");
    let gpu = number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    gpu || matches!(name, "nvidiactl" | "nvidia-uvm")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_computing_needs_is_lent() {
        for name in ["nvidiactl", "nvidia-uvm", "nvidia0", "nvidia15"] {
            assert!(is_lent(name), "{name}");
        }
        for name in [
            "nvidia",
            "nvidia-uvm-tools",
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
