//! Determines the revision of an image's own sources, and the marks for images that others cannot rebuild.
//!
//! A manifest without `unlocked` entries promises that anyone can rebuild the image from its revision. Sources that differ from
//! every revision and executables that were compiled elsewhere break that promise, so they are marked.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use cocoon_inputs::report::Reporter;
use cocoon_protocol::bytes::Hex32;

use crate::build::{LOCK_FILE, MAX_LOCK};
use crate::files::{self, FileError};
use crate::guest::stage;
use crate::program;
use crate::shown::printable;

/// Revision of sources that git does not know.
const NO_REVISION: &str = "none";
/// Suffix of the revision of changed sources.
const DIRTY: &str = "-dirty";
/// Prefix of marks that concern the project's own sources and not foreign inputs.
const SOURCE_MARK: &str = "source: ";

/// Files, and the object IDs that git gives their contents.
type Contents = BTreeMap<PathBuf, String>;

/// Revision of the sources, and how far it can be trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// Git's revision. It ends in `-dirty` when names or contents of the files that go into an image differ from the revision,
    /// and is `none` without git or outside a workspace.
    pub revision: String,
    /// What git reported when it failed.
    pub refusal: Option<String>,
    /// Whether this program, which decides the rest of an image, was compiled from the same sources.
    pub own: bool,
    /// Digest of the names and contents of all files that go into an image; `None` if they differ from the revision.
    committed: Option<Hex32>,
}

/// Sources from which an image's own parts were compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sources {
    /// Revision of the sources.
    pub name: Name,
    /// Content of cargo's lock file.
    pub cargo_lock: String,
    /// SHA-256 of the lock file of inputs; `None` if there is no such file.
    pub inputs_lock: Option<Hex32>,
}

impl Sources {
    /// Determines the revision of the sources in `copy`, which were copied from the workspace at `source`. The copy must not
    /// change until everything is compiled.
    ///
    /// # Errors
    /// [`FileError`] when cargo's lock file cannot be read.
    pub fn judge(source: &Path, copy: &Path) -> Result<Self, FileError> {
        let cargo_lock = files::read(&copy.join("Cargo.lock"), MAX_LOCK)?;
        let inputs_lock = files::read(&copy.join(LOCK_FILE), MAX_LOCK);
        Ok(Self {
            name: Name::of(source, copy),
            cargo_lock: String::from_utf8_lossy(&cargo_lock).into_owned(),
            inputs_lock: inputs_lock.ok().map(|bytes| Hex32::sha256(&bytes)),
        })
    }

    /// Combines these sources with `other`, from which another part of the same image was compiled. The revision becomes dirty,
    /// unless both are the same files: commits in between may have changed only files that do not go into an image.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        let same = self.name.committed.is_some()
            && self.name.committed == other.name.committed
            && self.cargo_lock == other.cargo_lock
            && self.inputs_lock == other.inputs_lock;
        if !same {
            self.name.revision = dirty(&self.name.revision);
        }
        self.name.own &= other.name.own;
        self
    }

    /// Returns the revision of an image that was built with the lock file of inputs with this digest. That file was read before
    /// the sources were copied, so it may differ from theirs.
    #[must_use]
    pub fn name_with(&self, inputs_lock: Hex32) -> Name {
        let mut name = self.name.clone();
        if self.inputs_lock != Some(inputs_lock) {
            name.revision = dirty(&name.revision);
        }
        name
    }
}

impl Name {
    /// Determines the revision of the sources in `copy`, which were copied from `source` or are the same folder.
    ///
    /// The files themselves are compared with the revision's tree. So git's settings, ignored files, or a repository around
    /// this one cannot hide a difference.
    pub fn of(source: &Path, copy: &Path) -> Self {
        let mut name = Self {
            revision: NO_REVISION.to_owned(),
            refusal: None,
            own: program::is_of(copy),
            committed: None,
        };
        let (Ok(files), Ok(folders)) = (stage::list(copy), stage::folders(copy)) else {
            return name;
        };
        let revision = match git(source, &["rev-list", "--max-count=1", "HEAD", "--"], None) {
            Ok(revision) => String::from_utf8_lossy(&revision).trim().to_owned(),
            Err(refusal) => {
                name.refusal = Some(refusal);
                return name;
            }
        };
        let wanted = |path: &Path| stage::is_source(path, &folders);
        match committed(source, &revision, wanted, copy, files) {
            Ok(Some(committed)) => {
                name.committed = Some(digest(&committed));
                name.revision = revision;
            }
            Ok(None) => name.revision = dirty(&revision),
            Err(refusal) => {
                name.refusal = Some(refusal);
                name.revision = dirty(&revision);
            }
        }
        name
    }
}

/// Returns whether this program was compiled from the sources of `revision`, which are those in the workspace at `source`.
///
/// # Errors
/// What git reports when it fails.
fn is_program_of(source: &Path, revision: &str) -> Result<bool, String> {
    // The revision comes from a manifest, so git must not take it for an option or another kind of name.
    let is_id = revision.len() >= 40 && revision.bytes().all(|c| c.is_ascii_hexdigit());
    let Ok(files) = program::files(source) else {
        return Ok(false);
    };
    if !is_id || !program::is_of(source) {
        return Ok(false);
    }
    let committed = committed(source, revision, program::is_part, source, files)?;
    Ok(committed.is_some())
}

/// Returns the `wanted` files of `revision` with their object IDs, if they are the same as the `files` of `copy`.
fn committed(
    source: &Path,
    revision: &str,
    wanted: impl Fn(&Path) -> bool,
    copy: &Path,
    files: BTreeSet<PathBuf>,
) -> Result<Option<Contents>, String> {
    let committed = tree(source, revision, wanted)?;
    let same = committed == contents(source, copy, files)?;
    Ok(same.then_some(committed))
}

/// Returns a digest of names and object IDs.
fn digest(contents: &Contents) -> Hex32 {
    let mut all = Vec::new();
    for (path, id) in contents {
        // Neither names nor object IDs contain zero bytes.
        for part in [path.as_os_str().as_encoded_bytes(), id.as_bytes()] {
            all.extend_from_slice(part);
            all.push(0);
        }
    }
    Hex32::sha256(&all)
}

/// Returns the `wanted` files in the tree of `revision`, with their object IDs.
fn tree(source: &Path, revision: &str, wanted: impl Fn(&Path) -> bool) -> Result<Contents, String> {
    let tree = git(source, &["ls-tree", "-r", "-z", revision], None)?;
    let tree = String::from_utf8(tree).map_err(|_| "a name in its tree is not UTF-8")?;
    // An entry is `100644 blob ID\tPATH`, with a path relative to the source.
    let entry = |entry: &str| {
        let (head, path) = entry.split_once('\t')?;
        let (kind, id) = head.rsplit_once(' ')?;
        // Links and submodules are not files. Their mode in place of an ID differs from the ID of any file.
        let id = if kind.starts_with("100") { id } else { kind };
        Some((PathBuf::from(path), id.to_owned()))
    };
    let entries = tree.split_terminator('\0').filter_map(entry);
    Ok(entries.filter(|(path, _)| wanted(path)).collect())
}

/// Returns the `files` of `copy`, with the object IDs that git computes for them.
fn contents(source: &Path, copy: &Path, files: BTreeSet<PathBuf>) -> Result<Contents, String> {
    // Git runs in the folder `source`, so relative paths would mean other files.
    let copy = std::path::absolute(copy).map_err(|error| error.to_string())?;
    let mut names = String::new();
    for file in &files {
        let path = copy.join(file);
        let name = path.to_str().filter(|name| !name.contains('\n'));
        names.push_str(name.ok_or("a file's name is not one line of UTF-8")?);
        names.push('\n');
    }
    let hash = ["hash-object", "--no-filters", "--stdin-paths"];
    let ids = git(source, &hash, Some(names))?;
    let ids = String::from_utf8_lossy(&ids);
    let ids: Vec<String> = ids.lines().map(str::to_owned).collect();
    if ids.len() != files.len() {
        return Err("it did not hash every file".to_owned());
    }
    Ok(files.into_iter().zip(ids).collect())
}

fn dirty(revision: &str) -> String {
    match revision {
        NO_REVISION => revision.to_owned(),
        marked if marked.ends_with(DIRTY) => marked.to_owned(),
        clean => format!("{clean}{DIRTY}"),
    }
}

/// Runs git and returns its output, or the first line of its error output when it fails.
fn git(source: &Path, arguments: &[&str], input: Option<String>) -> Result<Vec<u8>, String> {
    let mut command = Command::new("git");
    command.arg("-C").arg(source).args(arguments);
    // A git hook or a script may have set these variables for another repository.
    for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"] {
        command.env_remove(name);
    }
    let streams = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let lost = |error| format!("cannot run git: {error}");
    let mut child = streams.spawn().map_err(lost)?;
    let stdin = child.stdin.take();
    // A thread of its own writes the input, so that full pipes cannot block git and this process for ever.
    let writer = thread::spawn(move || {
        stdin.map(|mut stdin| stdin.write_all(input.unwrap_or_default().as_bytes()))
    });
    let output = child.wait_with_output().map_err(lost)?;
    let written = writer.join().is_ok();
    if output.status.success() && written {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let first = said.lines().next().map(printable);
    Err(first.unwrap_or_else(|| format!("git failed ({})", output.status)))
}

/// Returns the entries of the manifest's `unlocked` for sources of this `name`, and for executables that were `given`.
pub fn marks(name: &Name, given: Option<&Path>) -> Vec<String> {
    let source = match name.revision.as_str() {
        NO_REVISION => Some("git names no revision, so nobody else can have it"),
        dirty if dirty.ends_with(DIRTY) => {
            Some("changed since the revision, so nobody else has it")
        }
        _ => None,
    };
    let given = given.map(|_| "the guest's executables were given, not built");
    let other = (!name.own).then_some("assembled by a program of other sources");
    let marks = source.into_iter().chain(given).chain(other);
    marks.map(|mark| format!("{SOURCE_MARK}{mark}")).collect()
}

/// Returns the entry of the manifest's `unlocked` for a model that this program adds to an image of `revision`. There is none
/// if the program is known to be compiled from that revision, which the workspace at `source` shows, or if the image's
/// `unlocked` entries mark its sources already.
pub fn mark_of_model(
    source: Option<&Path>,
    revision: &str,
    unlocked: &[String],
    reporter: &dyn Reporter,
) -> Option<String> {
    if unlocked.iter().any(|entry| entry.starts_with(SOURCE_MARK)) {
        return None;
    }
    let own = source.map(|source| is_program_of(source, revision));
    let own = own.unwrap_or(Ok(false)).unwrap_or_else(|refusal| {
        reporter.note(&format!("git does not name the image's sources: {refusal}"));
        false
    });
    if !own {
        reporter.note("for a manifest without that mark, run the cocoon-image that was built in a checkout of the image's revision, there or with --source");
    }
    let mark = "another model, added by a program that is not known to be of these sources";
    (!own).then(|| format!("{SOURCE_MARK}{mark}"))
}

/// Removes the marks about sources. The remaining entries are about foreign inputs, which a rebuild must have as well.
pub fn without_marks(unlocked: &mut Vec<String>) {
    unlocked.retain(|entry| !entry.starts_with(SOURCE_MARK));
}

#[cfg(test)]
mod tests;
