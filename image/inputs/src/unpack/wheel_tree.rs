//! Unpacks Python wheels as data.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use super::deb::Limits;
use super::tree::{self, Node, Tree};
use super::wheel::WheelError;

/// Unpacks the members of a wheel for which `keep` returns true into a folder, which may already contain other wheels;
/// returns their paths. The permissions in a wheel are not reliable, so `executable` decides which files are
/// executable.
///
/// # Errors
/// [`WheelError`] if the wheel is damaged, exceeds `limits` or has a refused path, even that of a member that is not
/// kept, or if a file cannot be written.
pub fn unpack_wheel_into(
    wheel: &Path,
    limits: Limits,
    mut keep: impl FnMut(&str) -> bool,
    executable: impl Fn(&str) -> bool,
    root: &Path,
) -> Result<Vec<String>, WheelError> {
    let path = wheel.to_owned();
    let file = File::open(wheel).map_err(|source| WheelError::Open {
        path: path.clone(),
        source,
    })?;
    let zip = |source| WheelError::Zip {
        path: path.clone(),
        source,
    };
    let mut archive = zip::ZipArchive::new(io::BufReader::new(file)).map_err(zip)?;
    if archive.len() > limits.members {
        return Err(WheelError::TooMany { path, limits });
    }
    let (mut left, mut written) = (limits.bytes, Vec::new());
    for index in 0..archive.len() {
        let member = archive.by_index(index).map_err(zip)?;
        let name = member.name().to_owned();
        let refused = |source| WheelError::Tree {
            path: path.clone(),
            source,
        };
        let clean = tree::clean(&name).map_err(refused)?;
        if member.is_dir() || !keep(&clean) {
            continue;
        }
        // The size in the zip directory may be wrong, so one byte past the bound is read.
        let mut data = Vec::new();
        let read = member.take(left.saturating_add(1)).read_to_end(&mut data);
        read.map_err(|source| WheelError::Extract {
            path: path.clone(),
            member: name,
            source,
        })?;
        left = left
            .checked_sub(data.len() as u64)
            .ok_or_else(|| WheelError::Unbounded {
                path: path.clone(),
                limits,
            })?;
        let mode = if executable(&clean) { 0o755 } else { 0o644 };
        let one = Tree::from([(clean.clone(), Node::File { mode, data })]);
        tree::write_tree(&one, root).map_err(refused)?;
        written.push(clean);
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn wheel(members: &[(&str, &[u8])]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut writer = zip::ZipWriter::new(file.reopen().unwrap());
        for (name, data) in members {
            let options = zip::write::SimpleFileOptions::default();
            writer.start_file(*name, options).unwrap();
            writer.write_all(data).unwrap();
        }
        writer.finish().unwrap();
        file
    }

    fn unpack(wheel: &Path, limits: Limits, root: &Path) -> Result<Vec<String>, WheelError> {
        let (keep, executable) = (
            |path: &str| path.starts_with("a/"),
            |path: &str| path.starts_with("a/bin/"),
        );
        unpack_wheel_into(wheel, limits, keep, executable, root)
    }

    #[test]
    fn kept_members_come_out_with_their_permissions() {
        let wheel = wheel(&[("a/bin/x", b"run"), ("a/y", b"read"), ("b/z", b"left out")]);
        let root = tempfile::tempdir().unwrap();
        let limits = Limits {
            bytes: 7,
            members: 3,
        };
        let written = unpack(wheel.path(), limits, root.path()).unwrap();
        assert_eq!(written, ["a/bin/x", "a/y"]);
        for (path, mode, data) in [("a/bin/x", 0o755, "run"), ("a/y", 0o644, "read")] {
            let path = root.path().join(path);
            assert_eq!(std::fs::read_to_string(&path).unwrap(), data);
            let found = std::fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(found & 0o777, mode);
        }
        assert!(!root.path().join("b").exists());
    }

    #[test]
    fn too_much_and_too_many_are_refused() {
        let wheel = wheel(&[("a/x", b"1234"), ("a/y", b"5678")]);
        let root = tempfile::tempdir().unwrap();
        let refused = |bytes, members| {
            let limits = Limits { bytes, members };
            unpack(wheel.path(), limits, root.path())
                .unwrap_err()
                .to_string()
        };
        let path = wheel.path().display();
        assert_eq!(
            refused(7, 2),
            format!("{path} unpacks to more than 7 bytes")
        );
        assert_eq!(refused(8, 1), format!("{path} has more than 1 members"));
    }

    #[test]
    fn members_outside_of_the_folder_are_refused() {
        for (name, shown) in [("a/../../x", "a/../../x"), ("/a/x", "/a/x")] {
            let wheel = wheel(&[(name, b"")]);
            let root = tempfile::tempdir().unwrap();
            let error = unpack(wheel.path(), Limits::default(), root.path()).unwrap_err();
            let cause = std::error::Error::source(&error).unwrap().to_string();
            assert_eq!(
                cause,
                format!("member {shown:?} would lie outside the folder")
            );
        }
    }
}
