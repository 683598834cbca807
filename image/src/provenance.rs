//! Where an image's own parts come from, and what keeps a stranger from making the same ones.
//!
//! A manifest that is not marked `unlocked` promises that anybody can rebuild the image from the named revision. Sources
//! that differ from every revision, or executables built elsewhere, break that promise, so they are marked.

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

/// Where there is no git.
const NO_REVISION: &str = "none";
/// Ends a revision whose sources were changed.
const DIRTY: &str = "-dirty";
/// Beginning of the marks that concern our own sources, not foreign inputs.
const SOURCE_MARK: &str = "source: ";

/// Files, and git's names for their bytes.
type Contents = BTreeMap<PathBuf, String>;

/// What sources are called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// Git's revision, with `-dirty` when the files that go into an image are not the revision's, name for name and byte for
    /// byte; `none` without git, or when this is no workspace.
    pub revision: String,
    /// What git said where it would not tell.
    pub refusal: Option<String>,
    /// Whether this program, which decides the rest of an image, was compiled from the same.
    pub own: bool,
    /// Digest of all that goes into an image, names and bytes; none where the revision has something else.
    committed: Option<Hex32>,
}

/// What an image's own parts were compiled of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sources {
    /// What they are called.
    pub name: Name,
    /// The text of cargo's lock file.
    pub cargo_lock: String,
    /// Digest of the lock file of the inputs; none where there is no such file.
    pub inputs_lock: Option<Hex32>,
}

impl Sources {
    /// Those in `copy`, which must stay as it is until everything is compiled, of the workspace at `source`.
    ///
    /// # Errors
    /// [`FileError`] when there is no lock file of cargo.
    pub fn judge(source: &Path, copy: &Path) -> Result<Self, FileError> {
        let cargo_lock = files::read(&copy.join("Cargo.lock"), MAX_LOCK)?;
        let inputs_lock = files::read(&copy.join(LOCK_FILE), MAX_LOCK);
        Ok(Self {
            name: Name::of(source, copy),
            cargo_lock: String::from_utf8_lossy(&cargo_lock).into_owned(),
            inputs_lock: inputs_lock.ok().map(|bytes| Hex32::sha256(&bytes)),
        })
    }

    /// The same for an image of which another part was compiled of `other`: no revision names what is of two, unless the
    /// commits between them changed nothing that goes into an image.
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

    /// The name of an image's sources with inputs of the lock file with this digest, read before anything was compiled.
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
    /// That of the sources in `copy`, which were copied from `source` (or are these themselves).
    ///
    /// What git's settings, ignored files or a repository around this one would hide is found all the same, for the files
    /// themselves are compared with the revision's tree.
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

/// Whether this program is of the sources of `revision`, as the workspace at `source` and its repository know them.
///
/// # Errors
/// What git says where it would not tell.
fn is_program_of(source: &Path, revision: &str) -> Result<bool, String> {
    // A manifest's word: git must not take it for anything else.
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

/// The files in the tree of `revision` that are `wanted`, with git's names for their bytes, if the `files` of `copy` are these.
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

/// Of files and git's names for their bytes.
fn digest(contents: &Contents) -> Hex32 {
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

/// The files in the tree of `revision` that are `wanted`, with git's names for their bytes.
fn tree(source: &Path, revision: &str, wanted: impl Fn(&Path) -> bool) -> Result<Contents, String> {
    let tree = git(source, &["ls-tree", "-r", "-z", revision], None)?;
    let tree = String::from_utf8(tree).map_err(|_| "a name in its tree is not UTF-8")?;
    // `100644 blob ID\tPATH`, relative to the source.
    let entry = |entry: &str| {
        let (head, path) = entry.split_once('\t')?;
        let (kind, id) = head.rsplit_once(' ')?;
        // A link or another repository is no file, whatever bytes stand for it.
        let id = if kind.starts_with("100") { id } else { kind };
        Some((PathBuf::from(path), id.to_owned()))
    };
    let entries = tree.split_terminator('\0').filter_map(entry);
    Ok(entries.filter(|(path, _)| wanted(path)).collect())
}

/// The `files` of `copy`, with git's names for their bytes.
fn contents(source: &Path, copy: &Path, files: BTreeSet<PathBuf>) -> Result<Contents, String> {
    // Git runs in the source.
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

/// What git prints, or the first that it says when it fails.
fn git(source: &Path, arguments: &[&str], input: Option<String>) -> Result<Vec<u8>, String> {
    let mut command = Command::new("git");
    command.arg("-C").arg(source).args(arguments);
    // A hook's or a script's idea of where the repository is must not stand in for this one.
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
    // Beside the reading below, so that neither waits for the other with full pipes.
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

/// Entries of the manifest's `unlocked` for sources of this name and for executables that were `given`.
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

/// The entry for a model that was added to an image of `revision` with these entries by this program, where it is not known to
/// be of the same sources: those in a workspace at `source`. What is marked already promises nothing that could be broken.
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

/// The entries about foreign inputs: what a rebuild elsewhere must find equal.
pub fn without_marks(unlocked: &mut Vec<String>) {
    unlocked.retain(|entry| !entry.starts_with(SOURCE_MARK));
}

#[cfg(test)]
mod tests;
