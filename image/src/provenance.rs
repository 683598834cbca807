//! Where an image's own parts come from, and what keeps a stranger from making the same ones.
//!
//! A manifest that is not marked `unlocked` promises that anybody can rebuild the image from the named revision. Sources
//! that differ from every revision, or executables built elsewhere, break that promise, so they are marked.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use cocoon_protocol::bytes::Hex32;

use crate::build::{LOCK_FILE, MAX_LOCK};
use crate::files::{self, FileError};
use crate::guest::stage;

/// Where there is no git.
const NO_REVISION: &str = "none";
/// Ends a revision whose sources were changed.
const DIRTY: &str = "-dirty";
/// Beginning of the marks that concern our own sources, not foreign inputs.
const SOURCE_MARK: &str = "source: ";

/// What an image's own parts were compiled of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sources {
    /// As [`revision`] has it.
    pub revision: String,
    /// The text of cargo's lock file.
    pub cargo_lock: String,
    /// Digest of the lock file of the inputs; none where there is no such file.
    pub inputs_lock: Option<Hex32>,
    /// Digest of all that goes into an image, names and bytes; none where the revision has something else.
    committed: Option<Hex32>,
}

impl Sources {
    /// Those in `copy`, which must stay as it is until everything is compiled, of the workspace at `source`.
    ///
    /// # Errors
    /// [`FileError`] when there is no lock file of cargo.
    pub fn judge(source: &Path, copy: &Path) -> Result<Self, FileError> {
        let cargo_lock = files::read(&copy.join("Cargo.lock"), MAX_LOCK)?;
        let inputs_lock = files::read(&copy.join(LOCK_FILE), MAX_LOCK);
        let (revision, committed) = compare(source, copy);
        Ok(Self {
            revision,
            committed,
            cargo_lock: String::from_utf8_lossy(&cargo_lock).into_owned(),
            inputs_lock: inputs_lock.ok().map(|bytes| Hex32::sha256(&bytes)),
        })
    }

    /// The same for an image of which another part was compiled of `other`: no revision names what is of two, unless the
    /// commits between them changed nothing that goes into an image.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        let same = self.committed.is_some()
            && self.committed == other.committed
            && self.cargo_lock == other.cargo_lock
            && self.inputs_lock == other.inputs_lock;
        if !same {
            self.revision = dirty(&self.revision);
        }
        self
    }

    /// The revision of an image with inputs of the lock file with this digest, read before anything was compiled.
    #[must_use]
    pub fn revision_with(&self, inputs_lock: Hex32) -> String {
        match self.inputs_lock == Some(inputs_lock) {
            true => self.revision.clone(),
            false => dirty(&self.revision),
        }
    }
}

/// The revision of the sources in `copy`, which were copied from `source` (or are these themselves): git's of `source`, with
/// `-dirty` when the files that go into an image are not the revision's, name for name and byte for byte; `none` without
/// git, or when this is no workspace.
///
/// What git's settings, ignored files or a repository around this one would hide is found all the same, for the files
/// themselves are compared with the revision's tree.
pub fn revision(source: &Path, copy: &Path) -> String {
    compare(source, copy).0
}

/// The same, and the digest of what was compared where it is the revision's.
fn compare(source: &Path, copy: &Path) -> (String, Option<Hex32>) {
    let revision = git(source, &["rev-list", "--max-count=1", "HEAD", "--"], None);
    let (Some(revision), Ok(files), Ok(folders)) =
        (revision, stage::list(copy), stage::folders(copy))
    else {
        return (NO_REVISION.to_owned(), None);
    };
    let revision = String::from_utf8_lossy(&revision).trim().to_owned();
    let committed = tree(source, &revision, &folders);
    match committed {
        Some(committed) if contents(source, copy, files).as_ref() == Some(&committed) => {
            (revision, Some(digest(&committed)))
        }
        _ => (dirty(&revision), None),
    }
}

/// Of files and git's names for their bytes.
fn digest(contents: &BTreeMap<PathBuf, String>) -> Hex32 {
    let mut all = Vec::new();
    for (path, id) in contents {
        // Neither holds a zero.
        for part in [path.as_os_str().as_encoded_bytes(), id.as_bytes()] {
            all.extend_from_slice(part);
            all.push(0);
        }
    }
    Hex32::sha256(&all)
}

/// The sources in the tree of `revision`, with git's names for their bytes.
fn tree(
    source: &Path,
    revision: &str,
    folders: &BTreeSet<String>,
) -> Option<BTreeMap<PathBuf, String>> {
    let tree = git(source, &["ls-tree", "-r", "-z", revision], None)?;
    let tree = String::from_utf8(tree).ok()?;
    // `100644 blob ID\tPATH`, relative to the source.
    let entry = |entry: &str| {
        let (head, path) = entry.split_once('\t')?;
        let (kind, id) = head.rsplit_once(' ')?;
        // A link or another repository is no file, whatever bytes stand for it.
        let id = if kind.starts_with("100") { id } else { kind };
        Some((PathBuf::from(path), id.to_owned()))
    };
    let entries = tree.split_terminator('\0').filter_map(entry);
    Some(
        entries
            .filter(|(path, _)| stage::is_source(path, folders))
            .collect(),
    )
}

/// The `files` of `copy`, with git's names for their bytes.
fn contents(
    source: &Path,
    copy: &Path,
    files: BTreeSet<PathBuf>,
) -> Option<BTreeMap<PathBuf, String>> {
    // Git runs in the source.
    let copy = std::path::absolute(copy).ok()?;
    let mut names = String::new();
    for file in &files {
        let name = copy.join(file).to_str()?.to_owned();
        if name.contains('\n') {
            return None;
        }
        names.push_str(&name);
        names.push('\n');
    }
    let hash = ["hash-object", "--no-filters", "--stdin-paths"];
    let ids = String::from_utf8(git(source, &hash, Some(names))?).ok()?;
    let ids: Vec<String> = ids.lines().map(str::to_owned).collect();
    (ids.len() == files.len()).then(|| files.into_iter().zip(ids).collect())
}

fn dirty(revision: &str) -> String {
    match revision {
        NO_REVISION => revision.to_owned(),
        marked if marked.ends_with(DIRTY) => marked.to_owned(),
        clean => format!("{clean}{DIRTY}"),
    }
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
        NO_REVISION => Some("source: in no git repository, so nobody can name it".to_owned()),
        dirty if dirty.ends_with(DIRTY) => {
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
        let revision = || revision(folder.path(), folder.path());
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
        write("guest-agent/a.rs", "");
        assert_eq!(revision(), clean);
        // What the revision has and these sources lack.
        std::fs::remove_file(folder.path().join("guest-agent/a.rs")).unwrap();
        assert_eq!(revision(), dirty);
    }

    /// What counts is what was compiled, whatever has become of the sources meanwhile.
    #[test]
    fn the_copy_is_judged_and_not_the_sources_that_went_on() {
        let (folder, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (source, copy) = (folder.path(), copy.path());
        let write = |name: &str, text: &str| std::fs::write(source.join(name), text).unwrap();
        let commit = |message: &str| {
            let script = "git init -q && git add . && git -c user.name=n -c user.email=n@localhost commit -q -m $0";
            let mut shell = Command::new("sh");
            shell.current_dir(source).args(["-c", script, message]);
            assert!(shell.status().unwrap().success());
        };
        std::fs::create_dir_all(source.join("image")).unwrap();
        write("Cargo.toml", "[workspace]\nmembers = ['image']\n");
        for name in [
            "Cargo.lock",
            "rust-toolchain.toml",
            "image/a.rs",
            "image/inputs.lock",
        ] {
            write(name, "");
        }
        commit("one");
        stage::stage(source, copy).unwrap();
        let judge = || Sources::judge(source, copy).unwrap();
        let clean = judge();
        assert_eq!(clean.revision.len(), 40, "{clean:?}");
        assert_eq!(clean.revision_with(Hex32::sha256(b"")), clean.revision);
        let other_lock = clean.revision_with(Hex32::sha256(b"another"));
        assert_eq!(other_lock, format!("{}-dirty", clean.revision));

        write("image/a.rs", "changed after it was copied");
        write("Cargo.lock", "of other packages");
        assert_eq!(judge(), clean);
        commit("two");
        let late = judge();
        assert!(late.revision.ends_with("-dirty"), "{late:?}");
        assert_eq!(late.cargo_lock, "");
        stage::stage(source, copy).unwrap();
        let two = judge();
        assert_eq!(
            (two.revision.len(), &*two.cargo_lock),
            (40, "of other packages")
        );
        assert_eq!(clean.clone().and(&clean), clean);
        assert!(two.clone().and(&clean).revision.ends_with("-dirty"));

        // Another revision of the same sources.
        write("README.md", "beside them");
        commit("three");
        let three = judge();
        assert_ne!(three.revision, two.revision);
        assert_eq!(two.clone().and(&three), two);
        let of_other_packages = Sources {
            cargo_lock: String::new(),
            ..three
        };
        let mixed = two.and(&of_other_packages);
        assert!(mixed.revision.ends_with("-dirty"), "{mixed:?}");
        // What no revision has may be anything.
        assert!(late.clone().and(&late).revision.ends_with("-dirty"));
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
        assert!(revision(&inner, &inner).ends_with("-dirty"));
    }
}
