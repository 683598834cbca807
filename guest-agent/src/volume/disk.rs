//! Finds a disk by its serial, never by name or order, opens it through dm-verity, and detaches it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Verity, Volume, VolumeError};
use crate::sys::device_mapper::{self, Target};
use crate::wait;

const BLOCK_DEVICES: &str = "/sys/block";
const UNBIND: &str = "/sys/bus/virtio/drivers/virtio_blk/unbind";
const CONTROL: &str = "/dev/mapper/control";
/// How long the disk may take to appear.
const DEADLINE: Duration = Duration::from_secs(10);
/// Number of 512-byte sectors in a 4096-byte block.
const SECTORS: u64 = 8;

/// The only disk with the volume's serial.
pub(super) struct Disk {
    volume: &'static Volume,
    name: String,
    node: PathBuf,
}

/// The dm-verity mapping of a volume.
pub(super) struct Mapping {
    control: File,
    name: &'static str,
    /// Device node for reading verified blocks.
    pub node: PathBuf,
}

pub(super) fn find(volume: &'static Volume) -> Result<Disk, VolumeError> {
    // Drivers bind asynchronously, so a disk may appear a moment later.
    let named = wait::until(DEADLINE, || {
        let named = disks_with_serial(Path::new(BLOCK_DEVICES), volume.serial);
        (!matches!(&named, Ok(none) if none.is_empty())).then_some(named)
    });
    match named.ok_or(VolumeError::Absent(volume))??.as_slice() {
        [name] => Ok(Disk {
            volume,
            name: name.clone(),
            node: Path::new("/dev").join(name),
        }),
        several => Err(VolumeError::Duplicate {
            volume,
            found: several.len(),
        }),
    }
}

fn disks_with_serial(folder: &Path, wanted: &str) -> Result<Vec<String>, VolumeError> {
    let entries = fs::read_dir(folder).map_err(VolumeError::file("list", folder))?;
    let mut found = Vec::new();
    for entry in entries.flatten() {
        // Only virtio disks have this file. Other disks are ignored.
        let serial = fs::read_to_string(entry.path().join("serial")).unwrap_or_default();
        if serial.trim_end() == wanted {
            found.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    Ok(found)
}

pub(super) fn open(disk: &Disk, verity: &Verity) -> Result<Mapping, VolumeError> {
    let volume = disk.volume;
    let size_file = Path::new(BLOCK_DEVICES).join(&disk.name).join("size");
    let size = fs::read_to_string(&size_file).map_err(VolumeError::file("read", &size_file))?;
    let found = size.trim_end().parse().unwrap_or(0);
    let expected = verity.data_blocks * SECTORS;
    if found <= expected {
        return Err(VolumeError::Short {
            volume,
            found,
            expected,
        });
    }
    let control_path = Path::new(CONTROL);
    let control = File::options().read(true).write(true).open(control_path);
    let control = control.map_err(VolumeError::file("open", control_path))?;
    let params = verity_table(&disk.node, verity);
    let target = Target {
        kind: "verity",
        sectors: expected,
        params: &params,
    };
    let name = volume.what;
    let minor = device_mapper::create(&control, name, &target)
        .map_err(VolumeError::file("set up dm-verity on", &disk.node))?;
    let node = PathBuf::from(format!("/dev/dm-{minor}"));
    Ok(Mapping {
        control,
        name,
        node,
    })
}

/// Returns the parameters of the dm-verity target. A block that does not verify makes the kernel panic, because an I/O error
/// could be treated as recoverable.
fn verity_table(node: &Path, verity: &Verity) -> String {
    let Verity {
        root,
        salt,
        data_blocks,
    } = verity;
    let node = node.display();
    format!(
        "1 {node} {node} 4096 4096 {data_blocks} {data_blocks} sha256 {root} {salt} 1 panic_on_corruption"
    )
}

impl Mapping {
    /// Removes the mapping, which must not be mounted.
    pub(super) fn close(self) -> Result<(), VolumeError> {
        device_mapper::remove(&self.control, self.name)
            .map_err(VolumeError::file("remove dm-verity from", &self.node))
    }
}

/// Unbinds the disk from its driver. The guest cannot read it afterwards.
pub(super) fn detach(disk: &Disk) -> Result<(), VolumeError> {
    let link = Path::new(BLOCK_DEVICES).join(&disk.name).join("device");
    let device = fs::read_link(&link).map_err(VolumeError::file("read", &link))?;
    let device = device
        .file_name()
        .map(|name| name.as_encoded_bytes().to_vec())
        .unwrap_or_default();
    let unbind = Path::new(UNBIND);
    fs::write(unbind, device).map_err(VolumeError::file("write", unbind))?;
    if Path::new(BLOCK_DEVICES).join(&disk.name).exists() {
        return Err(VolumeError::Attached {
            volume: disk.volume,
            name: disk.name.clone(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use cocoon_protocol::bytes::Hex;

    #[test]
    fn only_the_serial_counts() {
        let folder = tempfile::tempdir().unwrap();
        for (name, serial) in [
            ("vda", "other\n"),
            ("vdb", "cocoon-model\n"),
            ("vdc", "cocoon-model-2"),
        ] {
            fs::create_dir(folder.path().join(name)).unwrap();
            fs::write(folder.path().join(name).join("serial"), serial).unwrap();
        }
        fs::create_dir(folder.path().join("ram0")).unwrap();
        let found = disks_with_serial(folder.path(), "cocoon-model").unwrap();
        assert_eq!(found, ["vdb"]);
    }

    #[test]
    fn table_stops_the_machine_on_corruption() {
        let verity = Verity {
            root: Hex([0xaa; 32]),
            salt: Hex([0xbb; 32]),
            data_blocks: 7,
        };
        assert_eq!(
            verity_table(Path::new("/dev/vdb"), &verity),
            format!(
                "1 /dev/vdb /dev/vdb 4096 4096 7 7 sha256 {} {} 1 panic_on_corruption",
                "aa".repeat(32),
                "bb".repeat(32)
            )
        );
    }
}
