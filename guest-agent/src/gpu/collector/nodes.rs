//! Creates the device files through which NVIDIA's library reaches the driver. The driver does not create them. On other
//! systems a setuid helper of NVIDIA's does, which this guest does not have.
//!
//! The major numbers come from `/proc/devices`, under the driver's name. The minor numbers come from `Device Minor` in
//! `/proc/driver/nvidia/gpus/ADDRESS/information`, as the open kernel modules write it. The driver lists a GPU only after it
//! has bound to it. The agent waits until all GPUs of the bus are listed, because a GPU without a device file could give no
//! evidence.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::{Gid, chown};

use crate::gpu::wanted::{self, PCI};
use crate::jail::NOBODY;
use crate::wait;

/// How long the driver may take to list every GPU.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Folder in which the driver lists the GPUs, with one subfolder each.
const LISTED: &str = "/proc/driver/nvidia/gpus";
/// Name and minor number of the driver's control device.
const CONTROL: (&str, u64) = ("nvidiactl", 255);
/// Names of the driver in `/proc/devices`: since R560, and before.
const DRIVERS: [&str; 2] = ["nvidia", "nvidia-frontend"];
/// Name and minor number of the device for CUDA's managed memory, which has a driver of its own.
const MANAGED: (&str, u64) = ("nvidia-uvm", 0);

/// Creates the device files of the driver, its GPUs and managed memory below `/dev`, for root and the engine's group. Waits
/// at most [`PATIENCE`] until the driver lists as many GPUs as the bus has. Without a driver nothing is created, which the
/// collector reports.
///
/// # Errors
/// The driver does not list all GPUs, or a device file cannot be created. A file that exists only gets owner and mode.
pub(super) fn make() -> io::Result<()> {
    let devices = fs::read_to_string("/proc/devices")?;
    let Some(major) = major(&devices, &DRIVERS) else {
        return Ok(());
    };
    let mut nodes = vec![(CONTROL.0.to_owned(), major, CONTROL.1)];
    if let Some(managed) = self::major(&devices, &[MANAGED.0]) {
        nodes.push((MANAGED.0.to_owned(), managed, MANAGED.1));
    }
    let counted = wanted::count(Path::new(PCI)).map_err(io::Error::other)?;
    for minor in minors(Path::new(LISTED), counted, PATIENCE)? {
        nodes.push((format!("nvidia{minor}"), major, minor));
    }
    for (name, major, minor) in nodes {
        let path = Path::new("/dev").join(name);
        match mknod(&path, SFlag::S_IFCHR, Mode::empty(), makedev(major, minor)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(error.into()),
        }
        chown(&path, None, Some(Gid::from_raw(NOBODY)))?;
        fs::set_permissions(&path, Permissions::from_mode(0o660))?;
    }
    Ok(())
}

/// Returns the minor numbers of all GPUs once `counted` of them are listed in `folder`.
fn minors(folder: &Path, counted: usize, patience: Duration) -> io::Result<Vec<u64>> {
    let listed = || -> Vec<u64> {
        let gpus = fs::read_dir(folder).into_iter().flatten().flatten();
        // A GPU whose file cannot be read yet is not listed yet.
        let texts = gpus.filter_map(|gpu| fs::read_to_string(gpu.path().join("information")).ok());
        texts.filter_map(|text| minor(&text)).collect()
    };
    let all = wait::until(patience, || {
        Some(listed()).filter(|minors| minors.len() == counted)
    });
    all.ok_or_else(|| {
        let found = listed().len();
        io::Error::other(format!(
            "NVIDIA's driver lists {found} of {counted} GPUs after {patience:?}: boot again; if that does not help, the host \
             resets the GPU (`cocoon-host gpu prepare`)"
        ))
    })
}

/// Returns the major number of the character device that has one of these names.
fn major(devices: &str, names: &[&str]) -> Option<u64> {
    let characters = devices
        .lines()
        .skip_while(|line| !line.starts_with("Character devices"))
        .take_while(|line| !line.starts_with("Block devices"));
    let mut all = characters.filter_map(|line| line.trim().split_once(' '));
    let found = all.find(|(_, name)| names.contains(name));
    found.and_then(|(number, _)| number.parse().ok())
}

/// Returns a GPU's minor number.
fn minor(information: &str) -> Option<u64> {
    let line = information
        .lines()
        .find_map(|line| line.strip_prefix("Device Minor:"))?;
    line.trim().parse().ok().filter(|minor| *minor < CONTROL.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_drivers_own() {
        let devices = "Character devices:\n  1 mem\n195 nvidia\n195 nvidiactl\n510 nvidia-uvm\n511 nvidia-caps\n\nBlock devices:\n  8 sd\n";
        assert_eq!(major(devices, &DRIVERS), Some(195));
        assert_eq!(major(devices, &[MANAGED.0]), Some(510));
        assert_eq!(
            major("Character devices:\n195 nvidia-frontend\n", &DRIVERS),
            Some(195)
        );
        for none in [
            "",
            "Character devices:\n511 nvidia-caps\n",
            "Character devices:\n\nBlock devices:\n195 nvidia\n",
        ] {
            assert_eq!(major(none, &DRIVERS), None, "{none}");
        }
        let information = "Model: \t\t NVIDIA H100 80GB HBM3\nIRQ:   \t\t 16\nVideo BIOS: \t 96.00.5e.00.01\nDevice Minor: \t 3\n";
        assert_eq!(minor(information), Some(3));
        assert_eq!(minor("Device Minor: \t 255\n"), None);
        assert_eq!(minor("Model: x\n"), None);
    }

    #[test]
    fn gpus_are_waited_for_until_the_driver_lists_as_many_as_the_bus_has() {
        let folder = tempfile::tempdir().unwrap();
        let list = |folder: &Path, address: &str, text: &str| {
            let gpu = folder.join(address);
            fs::create_dir_all(&gpu).unwrap();
            fs::write(gpu.join("information"), text).unwrap();
        };
        let none = folder.path().join("none");
        assert_eq!(minors(&none, 0, Duration::ZERO).unwrap(), [0; 0]);
        list(folder.path(), "0000:01:00.0", "Device Minor: \t 0\n");
        // The GPU's folder exists, but the driver has not reported its minor number yet.
        list(folder.path(), "0000:02:00.0", "");
        assert_eq!(minors(folder.path(), 1, Duration::ZERO).unwrap(), [0]);
        let missing = minors(folder.path(), 2, Duration::from_millis(20));
        assert_eq!(
            missing.unwrap_err().to_string(),
            "NVIDIA's driver lists 1 of 2 GPUs after 20ms: boot again; if that does not help, the host resets the GPU \
             (`cocoon-host gpu prepare`)"
        );
        let late = folder.path().to_owned();
        let driver = std::thread::spawn(move || {
            list(&late, "0000:02:00.0", "Device Minor: \t 1\n");
        });
        let mut all = minors(folder.path(), 2, Duration::from_secs(30)).unwrap();
        all.sort_unstable();
        assert_eq!(all, [0, 1]);
        driver.join().unwrap();
    }
}
