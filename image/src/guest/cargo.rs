//! Runs cargo for a recipe, reports its progress, and finds the executable.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsString;
use std::io::{self, BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use cocoon_inputs::report::{Reporter, Task};
use serde::Deserialize;
use thiserror::Error;

use super::recipe::{Environment, Recipe};
use crate::family::PROGRAMS;
use crate::sbom::Crate;

/// Longest time between two reports of progress. It is short, because the reporter decides what to show and when.
const PATIENCE: Duration = Duration::from_millis(90);
/// Number of lines of cargo's output that an error repeats.
const LAST_LINES: usize = 60;

/// Why cargo failed.
#[derive(Debug, Error)]
pub enum CargoError {
    /// Cargo could not be started.
    #[error("cannot run cargo: install Rust with rustup, and put cargo on the PATH")]
    Start(#[source] io::Error),
    /// Cargo could not be waited for.
    #[error("lost track of cargo")]
    Wait(#[source] io::Error),
    /// Cargo ended with an error.
    #[error("cargo failed ({status}); its last words:\n{output}")]
    Failed {
        /// Exit status of cargo.
        status: std::process::ExitStatus,
        /// Last lines of its standard error.
        output: String,
    },
    /// The output of `cargo metadata` is not as expected.
    #[error("cannot understand what cargo says of the workspace")]
    Metadata(#[source] serde_json::Error),
    /// Cargo succeeded, but reported no executable of this name.
    #[error("cargo built no executable named {0}")]
    NoExecutable(&'static str),
}

/// Builds the recipe's package from the workspace at `source`. Returns the path of the executable and the crates in it.
///
/// # Errors
/// [`CargoError`], with the end of cargo's output.
pub fn build(
    recipe: &Recipe,
    source: &Path,
    reporter: &dyn Reporter,
) -> Result<(PathBuf, BTreeSet<Crate>), CargoError> {
    let task = reporter.start(&format!("building {}", recipe.package), None);
    let mut watch = Watch::new(&*task);
    let listed = [
        "--locked",
        "--edges",
        "normal,build",
        "--prefix",
        "none",
        "--format",
        "{p}|{l}",
    ];
    let mut packages = BTreeSet::new();
    watch.run(
        command(&recipe.environment, source, "tree")
            .args(listed)
            .args(&recipe.selection),
        |line| {
            packages.extend(Crate::parse(&line));
            None
        },
    )?;
    watch.total = packages.len();
    let (mut done, mut executable) = (BTreeSet::new(), None);
    watch.run(
        command(&recipe.environment, source, "build").args(&recipe.arguments),
        |line| {
            let artifact = Artifact::parse(&line)?;
            if artifact.target.name == recipe.package && artifact.executable.is_some() {
                executable = artifact.executable;
            }
            done.insert(artifact.package_id);
            Some((done.len(), artifact.target.name))
        },
    )?;
    task.finish(&format!("done in {} s", watch.started.elapsed().as_secs()));
    let executable = executable.ok_or(CargoError::NoExecutable(recipe.package))?;
    Ok((executable, packages))
}

/// Returns the folders that hold the unpacked packages on which the workspace at `source` depends, sorted.
///
/// # Errors
/// [`CargoError`], with the end of cargo's output.
pub fn registries(
    environment: &Environment,
    source: &Path,
    reporter: &dyn Reporter,
) -> Result<Vec<PathBuf>, CargoError> {
    let task = reporter.start("reading the list of packages", None);
    let mut text = String::new();
    let mut command = command(&environment.variables(), source, "metadata");
    command.args(["--locked", "--format-version", "1"]);
    command.args(["--filter-platform", "x86_64-unknown-linux-gnu"]);
    Watch::new(&*task).run(&mut command, |line| {
        text.push_str(&line);
        None
    })?;
    let metadata: Metadata = serde_json::from_str(&text).map_err(CargoError::Metadata)?;
    task.finish(&format!("{} packages", metadata.packages.len()));
    let foreign = metadata.packages.into_iter().filter(|p| p.source.is_some());
    let folders: BTreeSet<PathBuf> = foreign
        .filter_map(|package| Some(package.manifest_path.parent()?.parent()?.to_owned()))
        .collect();
    Ok(folders.into_iter().collect())
}

fn command(environment: &[(String, OsString)], source: &Path, subcommand: &str) -> Command {
    let mut command = Command::new("cargo");
    command.arg(subcommand).current_dir(source).env_clear();
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    command
}

/// The fields of `cargo metadata` that are used here.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    /// Where the package comes from; `None` for a member of the workspace.
    source: Option<String>,
    manifest_path: PathBuf,
}

/// The fields that are used here of cargo's message about a compiled artefact.
#[derive(Deserialize)]
struct Artifact {
    reason: String,
    package_id: String,
    target: Target,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

impl Artifact {
    fn parse(line: &str) -> Option<Self> {
        let artifact: Self = serde_json::from_str(line).ok()?;
        (artifact.reason == "compiler-artifact").then_some(artifact)
    }
}

enum Line {
    Output(String),
    Error(String),
}

/// Follows cargo's output and reports progress.
struct Watch<'a> {
    task: &'a dyn Task,
    started: Instant,
    total: usize,
    done: usize,
    detail: String,
}

impl<'a> Watch<'a> {
    fn new(task: &'a dyn Task) -> Self {
        Self {
            task,
            started: Instant::now(),
            total: 0,
            done: 0,
            detail: "resolving".to_owned(),
        }
    }

    fn run(
        &mut self,
        command: &mut Command,
        mut output: impl FnMut(String) -> Option<(usize, String)>,
    ) -> Result<(), CargoError> {
        let pipes = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut running = PROGRAMS.start(pipes).map_err(CargoError::Start)?;
        let child = &mut running.child;
        let (sender, lines) = mpsc::channel();
        forward(child.stdout.take(), sender.clone(), Line::Output);
        forward(child.stderr.take(), sender, Line::Error);
        let mut last = VecDeque::new();
        loop {
            match lines.recv_timeout(PATIENCE) {
                Ok(Line::Output(line)) => {
                    if let Some((done, detail)) = output(line) {
                        (self.done, self.detail) = (done, detail);
                    }
                }
                Ok(Line::Error(line)) => {
                    // Cargo reports downloads and waiting on standard error only.
                    self.detail = line.trim().chars().take(80).collect();
                    last.truncate(LAST_LINES - 1);
                    last.push_front(line);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.say();
        }
        let status = running.wait().map_err(CargoError::Wait)?;
        if status.success() {
            return Ok(());
        }
        let output = last.into_iter().rev().collect::<Vec<_>>().join("\n");
        Err(CargoError::Failed { status, output })
    }

    fn say(&self) {
        let Self {
            done,
            total,
            detail,
            ..
        } = self;
        let seconds = self.started.elapsed().as_secs();
        self.task.say(&match total {
            0 => format!("{seconds} s, {detail}"),
            _ => format!("{done} of {total} packages, {seconds} s, {detail}"),
        });
    }
}

fn forward(
    pipe: Option<impl Read + Send + 'static>,
    lines: Sender<Line>,
    wrap: fn(String) -> Line,
) {
    thread::spawn(move || {
        for line in BufReader::new(pipe?).split(b'\n') {
            let line = String::from_utf8_lossy(&line.ok()?).into_owned();
            lines.send(wrap(line)).ok()?;
        }
        Some(())
    });
}

#[cfg(test)]
mod tests {
    use cocoon_inputs::report::Silent;

    use super::*;

    #[test]
    fn artefacts_are_told_from_other_messages() {
        let line = r#"{"reason":"compiler-artifact","package_id":"p#x@1.0","target":{"name":"x","kind":["bin"]},"executable":"/t/x","fresh":true}"#;
        let artifact = Artifact::parse(line).unwrap();
        assert_eq!(
            (artifact.target.name.as_str(), artifact.executable),
            ("x", Some("/t/x".into()))
        );
        assert!(Artifact::parse(r#"{"reason":"build-finished","success":true}"#).is_none());
        assert!(Artifact::parse("warning: rubbish").is_none());
    }

    #[test]
    fn a_failure_repeats_the_last_words() {
        let mut shell = Command::new("sh");
        shell.args([
            "-c",
            "i=0; while [ $i -lt 100 ]; do i=$((i+1)); echo error $i >&2; done; exit 3",
        ]);
        let error = Watch::new(&Silent)
            .run(&mut shell, |_| None)
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("cargo failed (exit status: 3); its last words:\nerror 41\n"),
            "{error}"
        );
        assert!(error.ends_with("\nerror 100"), "{error}");
    }
}
