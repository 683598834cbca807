//! Copies the verified files into a ramfs, whose memory is neither swapped nor evicted.

use std::fs::{self, File, Permissions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount, umount};

use super::disk::Mapping;
use super::{Volume, VolumeError};
use crate::{memory, wait};

/// Mount point of the volume during the copy.
const VOLUME: &str = "/volume";
/// Permissions of files that are no programs.
const READ: u32 = 0o444;
const MAX_DEPTH: usize = 4;
const MAX_FILES: usize = 4096;
const CHUNK: usize = 1024 * 1024;
/// Shortest interval between two progress reports.
const REPORT: Duration = Duration::from_millis(250);
const NODE_DEADLINE: Duration = Duration::from_secs(10);
const MIB: u64 = 1024 * 1024;

pub(super) fn into_memory(
    what: &'static Volume,
    mapping: &Mapping,
    mut progress: impl FnMut(u64, u64),
) -> Result<Vec<(PathBuf, u64)>, VolumeError> {
    let (volume, target) = (Path::new(VOLUME), Path::new(what.folder));
    let inert = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let plain = if what.programs.is_empty() {
        inert | MsFlags::MS_NOEXEC
    } else {
        inert
    };
    for folder in [volume, target] {
        fs::create_dir_all(folder).map_err(VolumeError::file("create", folder))?;
    }
    wait_for(&mapping.node)?;
    let none = None::<&str>;
    let mounted = |operation, outcome: nix::Result<()>| {
        outcome.map_err(|source| VolumeError::Mount {
            volume: what,
            operation,
            source,
        })
    };
    let sealed = plain | MsFlags::MS_RDONLY;
    let source = inert | MsFlags::MS_NOEXEC | MsFlags::MS_RDONLY;
    mounted(
        "mount the file system",
        mount(Some(&mapping.node), volume, Some("erofs"), source, none),
    )?;
    mounted(
        "mount memory for the files",
        mount(
            Some(what.what),
            target,
            Some("ramfs"),
            plain,
            Some("mode=0755"),
        ),
    )?;

    let mut files = Vec::new();
    list(what, volume, Path::new(""), 0, &mut files)?;
    let total = files.iter().map(|(_, size)| size).sum();
    check_memory(what, total, memory::available())?;
    progress(0, total);
    let (mut done, mut reported) = (0, Instant::now());
    for (path, size) in &files {
        let copied = copy(&volume.join(path), &target.join(path), *size, |bytes| {
            done += bytes;
            if reported.elapsed() >= REPORT {
                progress(done, total);
                reported = Instant::now();
            }
        })?;
        if !copied {
            return Err(VolumeError::Shape {
                volume: what,
                problem: "a file that is shorter than it says",
            });
        }
        let program = what
            .programs
            .iter()
            .find(|(name, _)| path == Path::new(name));
        let mode = program.map_or(READ, |(_, mode)| *mode);
        let file = target.join(path);
        fs::set_permissions(&file, Permissions::from_mode(mode))
            .map_err(VolumeError::file("protect", &file))?;
    }
    progress(total, total);
    mounted("unmount the file system", umount(volume))?;
    mounted(
        "seal the files",
        mount(none, target, none, MsFlags::MS_REMOUNT | sealed, none),
    )?;
    Ok(files)
}

/// Lists the regular files below `root` by relative path, in order of their names. The volume is measured, and its limits
/// are those of the image builder. They are checked nevertheless, because a bug does as much harm as an attack.
fn list(
    volume: &'static Volume,
    root: &Path,
    folder: &Path,
    depth: usize,
    files: &mut Vec<(PathBuf, u64)>,
) -> Result<(), VolumeError> {
    let shape = |problem| VolumeError::Shape { volume, problem };
    if depth > MAX_DEPTH {
        return Err(shape("folders nested too deeply"));
    }
    let here = root.join(folder);
    let entries = fs::read_dir(&here).map_err(VolumeError::file("list", &here))?;
    let mut names: Vec<_> = entries
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<Result<_, _>>()
        .map_err(VolumeError::file("list", &here))?;
    names.sort();
    for name in names {
        let path = folder.join(name);
        let whole = root.join(&path);
        let kind = fs::symlink_metadata(&whole).map_err(VolumeError::file("read", &whole))?;
        if kind.is_dir() {
            list(volume, root, &path, depth + 1, files)?;
        } else if kind.is_file() {
            files.push((path, kind.len()));
        } else {
            return Err(shape("something that is neither file nor folder"));
        }
        if files.len() > MAX_FILES {
            return Err(shape("too many files"));
        }
    }
    Ok(())
}

/// Copies a file and returns whether it was as long as `size`.
fn copy(
    from: &Path,
    to: &Path,
    size: u64,
    mut progress: impl FnMut(u64),
) -> Result<bool, VolumeError> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).map_err(VolumeError::file("create", folder))?;
    }
    let source = File::open(from).map_err(VolumeError::file("open", from))?;
    let mut target = File::create(to).map_err(VolumeError::file("create", to))?;
    let mut chunk = vec![0; CHUNK];
    let mut source = source.take(size);
    let mut copied = 0;
    loop {
        let count = source
            .read(&mut chunk)
            .map_err(VolumeError::file("read", from))?;
        if count == 0 {
            break;
        }
        target
            .write_all(&chunk[..count])
            .map_err(VolumeError::file("write", to))?;
        copied += count as u64;
        progress(count as u64);
    }
    Ok(copied == size)
}

fn check_memory(volume: &'static Volume, total: u64, available: u64) -> Result<(), VolumeError> {
    let free = available / MIB;
    let needed = total.div_ceil(MIB);
    if needed > free {
        Err(VolumeError::Memory {
            volume,
            needed,
            free,
        })
    } else {
        Ok(())
    }
}

/// Waits for the device node, which the kernel creates a moment after the mapping.
fn wait_for(node: &Path) -> Result<(), VolumeError> {
    wait::until(NODE_DEADLINE, || node.exists().then_some(()))
        .ok_or_else(|| VolumeError::file("find", node)(std::io::ErrorKind::NotFound.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    static MODEL: Volume = Volume {
        what: "model",
        serial: "serial",
        folder: "/model",
        programs: &[],
    };

    #[test]
    fn files_are_listed_and_copied_whole() {
        let from = tempfile::tempdir().unwrap();
        fs::create_dir(from.path().join("sub")).unwrap();
        fs::write(from.path().join("sub/b"), [1; 3]).unwrap();
        fs::write(from.path().join("a"), vec![2; CHUNK + 1]).unwrap();
        let mut files = Vec::new();
        list(&MODEL, from.path(), Path::new(""), 0, &mut files).unwrap();
        let size = CHUNK as u64 + 1;
        assert_eq!(
            files,
            [(PathBuf::from("a"), size), (PathBuf::from("sub/b"), 3)]
        );
        let to = tempfile::tempdir().unwrap();
        let mut done = 0;
        let copied = copy(
            &from.path().join("a"),
            &to.path().join("x/a"),
            size,
            |bytes| done += bytes,
        );
        assert!(copied.unwrap());
        assert_eq!(done, size);
        assert_eq!(fs::read(to.path().join("x/a")).unwrap(), vec![2; CHUNK + 1]);
        let short = copy(&from.path().join("sub/b"), &to.path().join("b"), 4, |_| ());
        assert!(!short.unwrap());
    }

    #[test]
    fn links_are_refused() {
        let from = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc", from.path().join("link")).unwrap();
        let error = list(&MODEL, from.path(), Path::new(""), 0, &mut Vec::new()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "model volume has something that is neither file nor folder"
        );
    }

    #[test]
    fn too_little_memory_is_told_in_numbers() {
        let error = check_memory(&MODEL, 300 * MIB + 1, 100 * MIB).unwrap_err();
        assert_eq!(
            error.to_string(),
            "model of 301 MiB does not fit into 100 MiB of free memory: give the machine more"
        );
    }
}
