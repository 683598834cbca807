//! Runs commands in a root folder made of locked packages, so that their results do not depend on the compiler, linker or shell
//! of the machine.
//!
//! Nothing is installed, and no maintainer script runs: the packages are unpacked into a temporary folder. The command gets
//! that folder as its root, namespaces of its own without a network, and only the given environment. This takes `unshare`
//! (util-linux), and either root or user namespaces.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::{fs, io, thread};

use cocoon_inputs::Fetched;
use cocoon_inputs::report::{Reporter, Task};
use cocoon_inputs::unpack::{self, Limits, TreeError};
use thiserror::Error;

use crate::family::PROGRAMS;
use crate::files::{self, FileError};
use crate::package::{self, PackageError};
use crate::scratch::Scratch;

/// Folders of documentation, which compilers do not need.
const LEFT_OUT: &[&str] = &[
    "usr/share/doc/",
    "usr/share/info/",
    "usr/share/lintian/",
    "usr/share/locale/",
    "usr/share/man/",
];
/// Links from old folder names to merged ones. They belong to a package that is not among the tools.
const MERGED: &[(&str, &str)] = &[
    ("bin", "usr/bin"),
    ("sbin", "usr/sbin"),
    ("lib", "usr/lib"),
    ("lib64", "usr/lib64"),
];
/// Links that maintainer scripts would make.
const CHOSEN: &[(&str, &str)] = &[("usr/bin/awk", "mawk")];
/// Devices of the machine that programs need. They are visible while a command runs.
const DEVICES: &[&str] = &["null", "zero", "urandom"];
/// Script that makes the devices visible and executes the command. `$1` is the root and `$2` the folder in it; the command
/// follows.
const ENTER: &str = "set -e\nroot=$1 folder=$2\nshift 2\n\
    for device in null zero urandom; do mount --bind /dev/$device \"$root/dev/$device\"; done\n\
    exec chroot \"$root\" /usr/bin/env -C \"$folder\" \"$@\"\n";
/// Number of lines of a command's output that an error repeats.
const LAST_LINES: usize = 40;

/// A root folder with the unpacked packages. It is removed when the value is dropped.
pub struct Workroom {
    scratch: Scratch,
}

/// A command to run in a workroom.
pub struct Job<'a> {
    /// Description for progress and errors.
    pub what: &'a str,
    /// Working folder, as seen from inside.
    pub folder: &'a str,
    /// Program and arguments.
    pub command: &'a [String],
    /// Complete environment.
    pub environment: &'a [(&'a str, String)],
}

/// Why a command cannot be run, or failed.
#[derive(Debug, Error)]
pub enum WorkroomError {
    /// A package cannot be read or unpacked.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// Sources cannot be written to the folder.
    #[error("cannot lay out the folder that {what} works in")]
    Tree {
        /// Program that would work there.
        what: String,
        /// What is wrong.
        #[source]
        source: TreeError,
    },
    /// A file cannot be read or written.
    #[error("cannot prepare a folder to work in")]
    File(#[from] FileError),
    /// `unshare` cannot be run.
    #[error("cannot run unshare: apt install util-linux")]
    Start(#[source] io::Error),
    /// The machine does not allow the namespaces.
    #[error(
        "this machine lets nobody enter a folder as its root: {said} (user namespaces are off, or this is a container \
         without the right to make them: run as root, or allow them)"
    )]
    Closed {
        /// First line of the error output.
        said: String,
    },
    /// The command failed.
    #[error("{what} failed ({status}); its last words:\n{said}")]
    Failed {
        /// Description of the command.
        what: String,
        /// Exit status of the command.
        status: ExitStatus,
        /// Last lines of its error output.
        said: String,
    },
}

impl Workroom {
    /// Unpacks `packages` into a new folder in `cache`.
    ///
    /// # Errors
    /// [`WorkroomError`].
    pub fn furnish(
        packages: &[Fetched],
        cache: &Path,
        reporter: &dyn Reporter,
    ) -> Result<Self, WorkroomError> {
        let scratch = Scratch::in_cache(cache)?;
        let root = scratch.path();
        for (old, merged) in MERGED {
            let link = root.join(old);
            files::create_folder(&root.join(merged))?;
            symlink(merged, &link).map_err(FileError::write(&link))?;
        }
        let task = reporter.start("laying out a build root", None);
        for package in packages {
            task.say(&package.entry.name);
            let bytes = package::read(package)?;
            let kept = |path: &str| !LEFT_OUT.iter().any(|folder| path.starts_with(folder));
            unpack::unpack_deb_into(&bytes, Limits::default(), kept, root)
                .map_err(PackageError::unpack(package))?;
        }
        for (name, chosen) in CHOSEN {
            let link = root.join(name);
            symlink(chosen, &link).map_err(FileError::write(&link))?;
        }
        for folder in ["dev", "tmp"] {
            files::create_folder(&root.join(folder))?;
        }
        for device in DEVICES {
            files::write(&root.join("dev"), device, b"")?;
        }
        task.finish("done");
        Ok(Self { scratch })
    }

    /// Path of the root folder, as seen from outside.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.scratch.path()
    }

    /// Runs `job` and waits until it ends.
    ///
    /// # Errors
    /// [`WorkroomError`], with the end of the command's error output.
    pub fn run(&self, job: &Job<'_>, reporter: &dyn Reporter) -> Result<(), WorkroomError> {
        let task = reporter.start(job.what, None);
        let (status, said) = run(&self.unshare(job), &*task)?;
        if status.success() {
            task.finish("done");
            return Ok(());
        }
        if said.starts_with("unshare: ") || said.starts_with("mount: ") {
            let said = said.lines().next().unwrap_or_default().to_owned();
            return Err(WorkroomError::Closed { said });
        }
        Err(WorkroomError::Failed {
            what: job.what.to_owned(),
            status,
            said,
        })
    }

    /// Returns the arguments of `unshare`. Root needs no user namespace, and may not be allowed to create one.
    fn unshare(&self, job: &Job<'_>) -> Vec<OsString> {
        let owner = fs::metadata("/proc/self").map(|me| std::os::unix::fs::MetadataExt::uid(&me));
        let mut arguments: Vec<OsString> = Vec::new();
        if owner.ok() != Some(0) {
            arguments.extend(["--user", "--map-root-user"].map(Into::into));
        }
        let shared = ["--mount", "--net", "--ipc", "--uts", "--pid", "--fork"];
        arguments.extend(shared.map(Into::into));
        arguments.extend(["--kill-child", "/bin/sh", "-c", ENTER, "sh"].map(Into::into));
        arguments.push(self.root().into());
        arguments.extend([job.folder, "-i"].map(Into::into));
        let variables = job.environment.iter();
        arguments.extend(variables.map(|(name, value)| format!("{name}={value}").into()));
        arguments.extend(job.command.iter().map(Into::into));
        arguments
    }
}

/// Runs `unshare` and reports each line of output. Returns the exit status and the last lines of the error output.
fn run(arguments: &[OsString], task: &dyn Task) -> Result<(ExitStatus, String), WorkroomError> {
    let mut command = Command::new("unshare");
    command
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut running = PROGRAMS.start(&mut command).map_err(WorkroomError::Start)?;
    let child = &mut running.child;
    let gone = || WorkroomError::Start(io::ErrorKind::BrokenPipe.into());
    let stdout = child.stdout.take().ok_or_else(gone)?;
    let mut stderr = child.stderr.take().ok_or_else(gone)?;
    let complaints = thread::spawn(move || {
        let mut text = Vec::new();
        // If the error output cannot be read, the exit status still says whether the command failed.
        let _ = stderr.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    });
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line.map_err(WorkroomError::Start)?;
        task.say(String::from_utf8_lossy(&line).trim());
    }
    let status = running.wait().map_err(WorkroomError::Start)?;
    let said = complaints.join().unwrap_or_default();
    let lines: Vec<&str> = said.lines().collect();
    let last = lines.len().saturating_sub(LAST_LINES);
    Ok((status, lines[last..].join("\n")))
}

/// Returns the outside path of something in the root folder.
pub(crate) fn outside(root: &Path, inside: &str) -> PathBuf {
    root.join(inside.trim_start_matches('/'))
}
