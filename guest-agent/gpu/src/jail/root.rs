//! The collector's root file system: the library folders, the GPUs' device files, `/proc` and `/sys`. All of it but the
//! devices is read-only.
//!
//! As root the process would need no capability to get evidence signed over any report data (below `/sys/kernel/config`), or
//! to name a program that the kernel starts with all rights (`kernel/core_pattern` below `/proc/sys`). Therefore these files
//! must be out of its reach.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::unistd::{chdir, chroot};

use super::{JailError, system};

/// Folder on which the new root is mounted, in the new mount namespace only.
const STAGE: &str = "/.collector-root";

/// Gives this thread a new root with the folders in `libraries`, the GPUs' device files in `devices`, `/proc` and `/sys`, each
/// at its old path. The thread must have a mount namespace of its own.
pub(super) fn enter(devices: &Path, libraries: &[PathBuf]) -> Result<(), JailError> {
    let none = None::<&str>;
    let plain = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let inert = plain | MsFlags::MS_NOEXEC;
    // No mount made here may propagate to the agent's mounts.
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    system("make mounts private", mount(none, "/", none, private, none))?;
    let stage = Path::new(STAGE);
    file("create the new root", fs::create_dir_all(stage))?;
    let options = Some("mode=0755,size=64k");
    let made = mount(Some("root"), stage, Some("tmpfs"), plain, options);
    system("mount the new root", made)?;
    for folder in libraries {
        lend(stage, folder, plain | MsFlags::MS_RDONLY)?;
    }
    // Bound without the mounts below them.
    for folder in ["/proc", "/sys"] {
        lend(stage, Path::new(folder), inert | MsFlags::MS_RDONLY)?;
    }
    for device in file("list devices", fs::read_dir(devices))? {
        let device = file("list devices", device)?;
        if is_lent(&device.file_name()) {
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
            lend(stage, &device.path(), flags)?;
        }
    }
    // Without write permission nobody can add a file, not even the owner.
    let closed = fs::set_permissions(stage, Permissions::from_mode(0o555));
    file("close the new root", closed)?;
    let sealed = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | plain;
    let made = mount(none, stage, none, sealed, Some("size=64k"));
    system("seal the new root", made)?;
    // Like switch_root: the initial root cannot be pivoted away, so the new one is moved over it.
    system("enter the new root", chdir(stage))?;
    let moved = mount(Some("."), "/", none, MsFlags::MS_MOVE, none);
    system("move the new root", moved)?;
    system("change root", chroot("."))?;
    system("enter the new root", chdir("/"))
}

/// Binds the file or folder at `path` to the same path below `stage`.
fn lend(stage: &Path, path: &Path, flags: MsFlags) -> Result<(), JailError> {
    let none = None::<&str>;
    // Joining an absolute path would drop `stage`.
    let place = stage.join(path.strip_prefix("/").unwrap_or(path));
    let made = match (path.is_dir(), place.parent()) {
        (false, Some(folder)) => fs::create_dir_all(folder).and_then(|()| {
            File::create(&place)?;
            Ok(())
        }),
        _ => fs::create_dir_all(&place),
    };
    file("create a place in the new root", made)?;
    let bound = mount(Some(path), &place, none, MsFlags::MS_BIND, none);
    system("bind into the new root", bound)?;
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | flags;
    system(
        "seal in the new root",
        mount(none, &place, none, flags, none),
    )
}

/// Returns whether a device file is needed: the driver's control node and the GPUs. Other nodes, for computing, are the
/// engine's.
fn is_lent(name: &OsStr) -> bool {
    let rest = name.to_str().and_then(|name| name.strip_prefix("nvidia"));
    rest.is_some_and(|rest| {
        rest == "ctl" || (!rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()))
    })
}

fn file<T>(operation: &'static str, outcome: io::Result<T>) -> Result<T, JailError> {
    let errno = |error: io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(0));
    system(operation, outcome.map_err(errno))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use nix::libc;
    use nix::sched::{CloneFlags, unshare};
    use nix::sys::prctl;
    use rustix::thread::CapabilitySet;
    use seccompiler::apply_filter;

    use super::super::{filters, keep};
    use super::*;

    /// Creating a folder here gets the next report signed over data of one's choice.
    const REPORT: &str = "/sys/kernel/config/tsm/report/x";
    /// Writing here names the program that the kernel starts when a process crashes.
    const PROGRAM: &str = "/proc/sys/kernel/core_pattern";

    #[test]
    fn only_the_driver_and_its_gpus_are_lent() {
        for name in ["nvidiactl", "nvidia0", "nvidia15"] {
            assert!(is_lent(OsStr::new(name)), "{name}");
        }
        for name in ["nvidia", "nvidia-uvm", "nvidia0x", "mem", "tdx_guest"] {
            assert!(!is_lent(OsStr::new(name)), "{name}");
        }
    }

    /// Tries what a compromised collector would try first, with the rights that it keeps. Runs on a thread, because mounts,
    /// root, capabilities and filters are then its own.
    #[test]
    fn neither_evidence_nor_a_program_of_the_kernels_is_in_reach() {
        let devices = tempfile::tempdir().unwrap();
        let libraries = tempfile::tempdir().unwrap();
        for name in ["nvidia0", "nvidiactl", "tdx_guest"] {
            fs::write(devices.path().join(name), "").unwrap();
        }
        fs::write(libraries.path().join("libnvidia-ml.so.1"), "code").unwrap();
        let (devices, libraries) = (devices.path().to_owned(), libraries.path().to_owned());
        let library = libraries.join("libnvidia-ml.so.1");
        let [gpu, other] = ["nvidia0", "tdx_guest"].map(|name| devices.join(name));
        let tried = std::thread::spawn(move || {
            if unshare(CloneFlags::CLONE_NEWNS).is_err() || !with_reports() {
                return None;
            }
            let name = fs::read_to_string(PROGRAM).unwrap();
            enter(&devices, &[libraries]).unwrap();
            keep(CapabilitySet::SYS_ADMIN).unwrap();
            prctl::set_no_new_privs().unwrap();
            for filter in filters().unwrap() {
                apply_filter(&filter).unwrap();
            }
            let none = None::<&str>;
            let again = MsFlags::MS_BIND | MsFlags::MS_REMOUNT;
            let unsealed = mount(none, "/proc", none, again, none);
            let refused: [(&str, io::Result<()>, i32); 7] = [
                ("a report", fs::create_dir(REPORT), libc::ENOENT),
                ("a program", fs::write(PROGRAM, name), libc::EROFS),
                (
                    "an unsealed /proc",
                    unsealed.map_err(Into::into),
                    libc::EPERM,
                ),
                ("a new file", fs::write("/x", ""), libc::EROFS),
                ("a library", fs::write(&library, "other"), libc::EROFS),
                ("a file", fs::read("/etc/passwd").map(drop), libc::ENOENT),
                ("a device", File::open(&other).map(drop), libc::ENOENT),
            ];
            let held = File::options().read(true).write(true).open(gpu).map(drop);
            Some((refused, fs::read_to_string(library), held))
        });
        let Some((refused, library, held)) = tried.join().unwrap() else {
            // Written directly, because a test's captured output would not be shown.
            let line = b"SKIPPED: a root of its own needs the rights of root, in a root that is no chroot\n";
            io::stderr().write_all(line).unwrap();
            return;
        };
        for (what, outcome, errno) in refused {
            let error = outcome.expect_err(what);
            assert_eq!(error.raw_os_error(), Some(errno), "{what}: {error}");
        }
        assert_eq!(library.unwrap(), "code");
        held.unwrap();
    }

    /// Creates the appliance's folder for reports, visible to this thread only. Returns whether that is possible.
    fn with_reports() -> bool {
        let none = None::<&str>;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(none, "/", none, private, none).is_ok() && {
            let plain = MsFlags::empty();
            mount(Some("config"), "/sys/kernel", Some("tmpfs"), plain, none).unwrap();
            fs::create_dir_all(Path::new(REPORT).parent().unwrap()).unwrap();
            true
        }
    }
}
