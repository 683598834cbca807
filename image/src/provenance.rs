//! Where an image's own parts come from, and what keeps a stranger from making the same ones.
//!
//! A manifest that is not marked `unlocked` promises that anybody can rebuild the image from the named revision. Sources
//! that differ from every revision, or executables built elsewhere, break that promise, so they are marked.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use crate::guest::stage;

/// Beginning of the marks that concern our own sources, not foreign inputs.
const SOURCE_MARK: &str = "source: ";

/// The revision of the sources at `source`: git's, with `-dirty` when any file that goes into an image is not the
/// revision's, bytes for bytes; `none` without git, or when this is no workspace.
///
/// What git's settings, ignored files or a repository around this one would hide is found all the same, for the files
/// themselves are compared with the revision's tree.
pub fn revision(source: &Path) -> String {
    let revision = git(source, &["rev-list", "--max-count=1", "HEAD", "--"], None);
    let (Some(revision), Ok(files)) = (revision, stage::list(source)) else {
        return "none".to_owned();
    };
    let revision = String::from_utf8_lossy(&revision).trim().to_owned();
    match unchanged(source, &files) {
        Some(true) => revision,
        _ => format!("{revision}-dirty"),
    }
}

/// Whether `files` are those of the tree at `HEAD`.
fn unchanged(source: &Path, files: &BTreeSet<PathBuf>) -> Option<bool> {
    let tree = git(source, &["ls-tree", "-r", "-z", "HEAD"], None)?;
    let tree = String::from_utf8(tree).ok()?;
    // `100644 blob ID\tPATH`, relative to the source.
    let tree: BTreeMap<PathBuf, &str> = tree
        .split_terminator('\0')
        .filter_map(|entry| {
            let (head, path) = entry.split_once('\t')?;
            Some((path.into(), head.rsplit_once(' ')?.1))
        })
        .collect();
    let mut names = String::new();
    for file in files {
        let name = file.to_str().filter(|name| !name.contains('\n'))?;
        names.push_str(name);
        names.push('\n');
    }
    let hash = ["hash-object", "--no-filters", "--stdin-paths"];
    let ids = String::from_utf8(git(source, &hash, Some(names))?).ok()?;
    let same = files.iter().map(|file| tree.get(file).copied());
    Some(same.eq(ids.lines().map(Some)))
}

/// What git prints; `None` when it fails or there is none.
fn git(source: &Path, arguments: &[&str], input: Option<String>) -> Option<Vec<u8>> {
    let mut command = Command::new("git");
    command.arg("-C").arg(source).args(arguments);
    // A hook's or a script's idea of where the repository is must not stand in for this one.
    for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"] {
        command.env_remove(name);
    }
    let streams = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = streams.spawn().ok()?;
    let mut stdin = child.stdin.take()?;
    // Beside the reading below, so that neither waits for the other with full pipes.
    let writer = thread::spawn(move || stdin.write_all(input.unwrap_or_default().as_bytes()));
    let output = child.wait_with_output().ok()?;
    let written = writer.join().is_ok();
    (output.status.success() && written).then_some(output.stdout)
}

/// Entries of the manifest's `unlocked` for sources at `revision` and for executables that were `given`.
pub fn marks(revision: &str, given: Option<&Path>) -> Vec<String> {
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
        let mut all = marks("0a1b-dirty", Some(Path::new("binaries")));
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
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let git = |arguments: &[&str]| {
            let identity = ["-c", "user.name=n", "-c", "user.email=n@localhost"];
            let mut git = Command::new("git");
            git.current_dir(folder.path())
                .args(identity)
                .args(arguments);
            assert!(git.output().unwrap().status.success(), "{arguments:?}");
        };
        let revision = || revision(folder.path());
        git(&["init", "--quiet"]);
        write("Cargo.toml", "[workspace]\nmembers = ['guest-agent']\n");
        for name in ["Cargo.lock", "rust-toolchain.toml", "guest-agent/a.rs"] {
            write(name, "");
        }
        assert_eq!(revision(), "none");
        git(&["add", "."]);
        git(&["commit", "--quiet", "--message", "m"]);
        let clean = revision();
        assert_eq!(clean.len(), 40, "{clean}");
        // Beside the sources, or never staged.
        write("signer.key", "");
        write("guest-agent/target/x", "");
        assert_eq!(revision(), clean);
        // Hidden from `git status`, but compiled.
        git(&["config", "status.showUntrackedFiles", "no"]);
        write(".git/info/exclude", "*.rs\n");
        write("guest-agent/b.rs", "");
        let dirty = format!("{clean}-dirty");
        assert_eq!(revision(), dirty);
        std::fs::remove_file(folder.path().join("guest-agent/b.rs")).unwrap();
        assert_eq!(revision(), clean);
        write("guest-agent/a.rs", "x");
        assert_eq!(revision(), dirty);
    }

    #[test]
    fn a_repository_around_the_sources_does_not_vouch_for_them() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("unpacked");
        std::fs::create_dir_all(inner.join("guest-agent")).unwrap();
        std::fs::write(
            inner.join("Cargo.toml"),
            "[workspace]\nmembers = ['guest-agent']\n",
        )
        .unwrap();
        for name in ["Cargo.lock", "rust-toolchain.toml", "guest-agent/a.rs"] {
            std::fs::write(inner.join(name), "").unwrap();
        }
        let script = "git init -q && git -c user.name=n -c user.email=n@localhost commit -q --allow-empty -m m";
        let mut shell = Command::new("sh");
        shell.current_dir(folder.path()).args(["-c", script]);
        assert!(shell.status().unwrap().success());
        assert!(revision(&inner).ends_with("-dirty"));
    }
}
