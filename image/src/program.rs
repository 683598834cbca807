//! Tells whether this program was compiled from the sources in a workspace.
//!
//! Some parts of an image come from the running program and not from the workspace: the command line, the choice of modules,
//! the formats of archives and volumes, the reference values. An older or newer program makes another image than the revision
//! of the workspace promises.

mod sources;

use std::path::Path;

pub use sources::{files, is_part};

/// Digest of the sources that this program was compiled from; empty if they were not in a workspace.
const OWN: &str = env!("COCOON_IMAGE_SOURCES");

/// Returns whether this program was compiled from the sources in `workspace`.
pub fn is_of(workspace: &Path) -> bool {
    !OWN.is_empty() && sources::digest(workspace).is_ok_and(|digest| digest == OWN)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::PathBuf;
    use std::process::Command;

    use super::*;

    fn workspace() -> &'static Path {
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
    }

    #[test]
    fn another_folder_with_the_same_sources_is_as_good_and_one_byte_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let copy = folder.path();
        for file in files(workspace()).unwrap() {
            let to = copy.join(&file);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(workspace().join(file), to).unwrap();
        }
        assert!(is_of(copy));
        // These files are not compiled into the program.
        for other in [
            "README.md",
            "image/src/build.rs~",
            "image/src/.#build.rs",
            "image/src/target/x.rs",
        ] {
            let path = copy.join(other);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
        assert!(is_of(copy));
        for part in [
            "image/src/cmdline.rs",
            "Cargo.lock",
            "image/inputs/src/lib.rs",
        ] {
            let path = copy.join(part);
            let own = fs::read(&path).unwrap();
            fs::write(&path, [&own[..], b"\n"].concat()).unwrap();
            assert!(!is_of(copy), "{part}");
            fs::write(&path, own).unwrap();
            assert!(is_of(copy), "{part}");
        }
        fs::remove_file(copy.join("Cargo.lock")).unwrap();
        assert!(!is_of(copy));
    }

    /// A new dependency within the workspace must be added to the parts.
    #[test]
    fn every_crate_of_the_workspace_that_is_compiled_in_is_a_part() {
        let read = |path: PathBuf| -> toml::Table {
            let text = fs::read_to_string(path).unwrap();
            text.parse().unwrap()
        };
        let all = read(workspace().join("Cargo.toml"));
        let folder_of = |name: &str| all["workspace"]["dependencies"][name].get("path");
        let (mut seen, mut next) = (BTreeSet::new(), vec!["image".to_owned()]);
        while let Some(folder) = next.pop() {
            for part in ["Cargo.toml", "src"] {
                let part = format!("{folder}/{part}");
                assert!(sources::PARTS.contains(&part.as_str()), "{part}");
            }
            let manifest = read(workspace().join(&folder).join("Cargo.toml"));
            let dependencies = manifest["dependencies"].as_table().unwrap();
            let ours = dependencies
                .keys()
                .filter(|name| name.starts_with("cocoon-"));
            for name in ours {
                if seen.insert(name.clone()) {
                    next.push(folder_of(name).unwrap().as_str().unwrap().to_owned());
                }
            }
        }
        assert!(seen.contains("cocoon-protocol"), "{seen:?}");
    }

    /// Files other than Rust sources, which a source may include, must be added to the parts, too.
    #[test]
    fn every_file_that_git_has_of_the_parts_counts() {
        let mut git = Command::new("git");
        git.current_dir(workspace()).args(["ls-files", "-z", "--"]);
        let listed = git.args(sources::PARTS).output();
        // Git is missing, for example where the sources were unpacked from an archive.
        let Ok(listed) = listed else { return };
        let listed = String::from_utf8(listed.stdout).unwrap();
        let found = files(workspace()).unwrap();
        for file in listed.split_terminator('\0') {
            let gone = !workspace().join(file).exists();
            assert!(gone || found.contains(Path::new(file)), "{file}");
        }
    }
}
