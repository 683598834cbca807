//! Where an image's own parts come from, and what keeps a stranger from making the same ones.
//!
//! A manifest that is not marked `unlocked` promises that anybody can rebuild the image from the named revision. Sources
//! that differ from every revision, or executables built elsewhere, break that promise, so they are marked.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::guest::stage;

/// Beginning of the marks that concern our own sources, not foreign inputs.
const SOURCE_MARK: &str = "source: ";

/// The revision of the sources at `source`: git's, with `-dirty` when any part that goes into an image differs from it;
/// `none` without git, or when this is no workspace.
pub fn revision(source: &Path) -> String {
    let none = || "none".to_owned();
    stage::parts(source).map_or_else(|_| none(), |parts| of_parts(source, &parts))
}

fn of_parts(source: &Path, parts: &[String]) -> String {
    let git = |arguments: &[&str], paths: &[String]| {
        let output = Command::new("git")
            .arg("-C")
            .arg(source)
            .args(arguments)
            .arg("--")
            .args(paths)
            .output()
            .ok()?;
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    match (
        git(&["rev-list", "--max-count=1", "HEAD"], &[]),
        git(&["status", "--porcelain"], parts),
    ) {
        (Some(revision), Some(changes)) if changes.is_empty() => revision,
        (Some(revision), _) => format!("{revision}-dirty"),
        (None, _) => "none".to_owned(),
    }
}

/// Entries of the manifest's `unlocked` for sources at `revision` and for executables that were `given`.
pub fn marks(revision: &str, given: Option<&(PathBuf, PathBuf)>) -> Vec<String> {
    let source = match revision {
        "none" => Some("source: in no git repository, so nobody can name it".to_owned()),
        dirty if dirty.ends_with("-dirty") => {
            Some("source: changed since the revision, so nobody else has it".to_owned())
        }
        _ => None,
    };
    let given = given.map(|_| "source: the guest's executables were given, not built".to_owned());
    source.into_iter().chain(given).collect()
}

/// The entries about foreign inputs: what a rebuild elsewhere must find equal.
pub fn without_marks(unlocked: &mut Vec<String>) {
    unlocked.retain(|entry| !entry.starts_with(SOURCE_MARK));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clean_revision_is_unmarked() {
        assert_eq!(marks("0a1b", None), Vec::<String>::new());
        let given = (PathBuf::from("agent"), PathBuf::from("engine"));
        let mut all = marks("0a1b-dirty", Some(&given));
        assert_eq!(
            all,
            [
                "source: changed since the revision, so nobody else has it",
                "source: the guest's executables were given, not built"
            ]
        );
        assert_eq!(
            marks("none", None),
            ["source: in no git repository, so nobody can name it"]
        );
        all.push("linux-image 1.2: newest signed".to_owned());
        without_marks(&mut all);
        assert_eq!(all, ["linux-image 1.2: newest signed"]);
    }

    #[test]
    fn only_what_goes_into_an_image_makes_it_dirty() {
        let folder = tempfile::tempdir().unwrap();
        let parts = ["guest-agent".to_owned(), "Cargo.toml".to_owned()];
        assert_eq!(of_parts(folder.path(), &parts), "none");
        let git = |arguments: &[&str]| {
            let identity = ["-c", "user.name=n", "-c", "user.email=n@localhost"];
            let mut git = Command::new("git");
            git.current_dir(folder.path())
                .args(identity)
                .args(arguments);
            assert!(git.output().unwrap().status.success(), "{arguments:?}");
        };
        std::fs::write(folder.path().join("Cargo.toml"), "").unwrap();
        git(&["init", "--quiet"]);
        git(&["add", "."]);
        git(&["commit", "--quiet", "--message", "m"]);
        let clean = of_parts(folder.path(), &parts);
        assert_eq!(clean.len(), 40, "{clean}");
        std::fs::write(folder.path().join("signer.key"), "").unwrap();
        assert_eq!(of_parts(folder.path(), &parts), clean);
        std::fs::write(folder.path().join("Cargo.toml"), "x").unwrap();
        assert_eq!(of_parts(folder.path(), &parts), format!("{clean}-dirty"));
    }
}
