//! Downloads Python wheels with the ordinary client, `python3 -m pip download`, and verifies their hashes.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use crate::cache::failed;
use crate::programs::PROGRAMS;
use crate::report::Reporter;
use crate::{Cache, CacheError, Digest, Entry, Kind, Lock, MAX_INPUT_BYTES, Request, digest};

/// Number of last lines of pip's output that the error contains.
const KEPT_LINES: usize = 6;

/// Why a wheel could not be downloaded.
#[derive(Debug, thiserror::Error)]
pub enum PipError {
    /// Python cannot be started.
    #[error("cannot start {program}: apt install python3 python3-pip")]
    NoPython {
        /// Name of the program.
        program: String,
        /// Underlying error.
        #[source]
        source: std::io::Error,
    },
    /// Python has no pip.
    #[error("python3 has no pip: apt install python3-pip")]
    NoPip,
    /// pip failed.
    #[error("pip cannot download {spec}: {}", said.join(" / "))]
    Failed {
        /// Name and version of the package.
        spec: String,
        /// Last lines of pip's output.
        said: Vec<String>,
    },
    /// pip succeeded, but left no wheel or several.
    #[error("pip left {found} wheels for {spec}, expected one")]
    Wheels {
        /// Name and version of the package.
        spec: String,
        /// Number of wheels.
        found: usize,
    },
    /// The index serves other bytes under the name and version of a locked wheel.
    #[error(
        "the index serves another wheel of {spec} than the locked one: SHA-256 {found}, locked is {locked}; if that is \
         meant, remove its [[input]] from the lock file first"
    )]
    Changed {
        /// Name and version of the package.
        spec: String,
        /// Digest in the lock.
        locked: Digest,
        /// Digest of the served wheel.
        found: Digest,
    },
    /// The wheel cannot be stored: its hash or size is wrong, or the disk failed.
    #[error("cannot keep the wheel of {spec}")]
    Cache {
        /// Name and version of the package.
        spec: String,
        /// Underlying error.
        #[source]
        source: CacheError,
    },
}

/// Downloads a locked wheel into the cache.
pub(crate) fn fetch(
    cache: &Cache,
    entry: &Entry,
    reporter: &dyn Reporter,
) -> Result<PathBuf, PipError> {
    let spec = format!("{}=={}", entry.name, entry.version);
    let wheel = download("python3", cache, &spec, reporter)?;
    cache
        .insert(&wheel, &spec, &entry.sha256, entry.size)
        .map_err(|source| PipError::Cache { spec, source })
}

/// Downloads a requested wheel into the cache and describes it. Refuses other bytes under a name and version that `old`
/// locks.
pub(crate) fn lock(
    cache: &Cache,
    request: &Request,
    old: &Lock,
    reporter: &dyn Reporter,
) -> Result<Entry, PipError> {
    lock_with("python3", cache, request, old, reporter)
}

fn lock_with(
    program: &str,
    cache: &Cache,
    request: &Request,
    old: &Lock,
    reporter: &dyn Reporter,
) -> Result<Entry, PipError> {
    let version = request.version.clone().unwrap_or_default();
    let spec = format!("{}=={version}", request.name);
    let keep = |source| PipError::Cache {
        spec: spec.clone(),
        source,
    };
    let _guard = cache.exclusive(reporter).map_err(keep)?;
    let wheel = download(program, cache, &spec, reporter)?;
    let (sha256, size) = digest::of_file(&wheel, MAX_INPUT_BYTES)
        .map_err(|error| keep(failed("read", &wheel, 0)(error)))?;
    let is_it = |entry: &&Entry| {
        entry.kind == Kind::Python && entry.name == request.name && entry.version == version
    };
    if let Some(locked) = old.inputs().iter().find(is_it)
        && locked.sha256 != sha256
    {
        return Err(PipError::Changed {
            spec,
            locked: locked.sha256,
            found: sha256,
        });
    }
    let path = wheel
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default()
        .to_owned();
    cache.insert(&wheel, &spec, &sha256, size).map_err(keep)?;
    let architecture = "any".to_owned();
    let groups = vec![request.group.clone()];
    Ok(Entry {
        name: request.name.clone(),
        version,
        architecture,
        kind: Kind::Python,
        suite: None,
        path,
        sha256,
        size,
        groups,
    })
}

fn download(
    program: &str,
    cache: &Cache,
    spec: &str,
    reporter: &dyn Reporter,
) -> Result<PathBuf, PipError> {
    let name = format!("pip-{}", Digest::of(spec.as_bytes()));
    let dir = cache.scratch(&name).map_err(|source| PipError::Cache {
        spec: spec.to_owned(),
        source,
    })?;
    let task = reporter.start(&format!("pip download {spec}"), None);
    run(program, &dir, spec, &*task)?;
    let listed = std::fs::read_dir(&dir).map_err(|error| PipError::Cache {
        spec: spec.to_owned(),
        source: failed("list", &dir, 0)(error),
    })?;
    let mut wheels: Vec<PathBuf> = listed
        .flatten()
        .map(|file| file.path())
        .filter(|path| path.extension().is_some_and(|e| e == "whl"))
        .collect();
    match (wheels.pop(), wheels.len()) {
        (Some(wheel), 0) => {
            task.finish("fetched");
            Ok(wheel)
        }
        (last, rest) => Err(PipError::Wheels {
            spec: spec.to_owned(),
            found: rest + usize::from(last.is_some()),
        }),
    }
}

fn run(
    program: &str,
    dir: &Path,
    spec: &str,
    task: &dyn crate::report::Task,
) -> Result<(), PipError> {
    let start = |source| PipError::NoPython {
        program: program.to_owned(),
        source,
    };
    let mut command = Command::new(program);
    command
        .args([
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--only-binary=:all:",
            "--no-input",
            "--disable-pip-version-check",
            "--progress-bar=off",
            "-d",
        ])
        .arg(dir)
        .arg(spec)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut running = PROGRAMS.start(&mut command).map_err(start)?;
    let (sender, lines) = mpsc::channel();
    let mut readers = Vec::new();
    let pipes: [Option<Box<dyn std::io::Read + Send>>; 2] = [
        running.stdout.take().map(|pipe| Box::new(pipe) as _),
        running.stderr.take().map(|pipe| Box::new(pipe) as _),
    ];
    for pipe in pipes.into_iter().flatten() {
        let sender = sender.clone();
        readers.push(std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        }));
    }
    drop(sender);
    let mut said: Vec<String> = Vec::new();
    let mut missing = false;
    // The channel closes when pip ends, because pip then closes both pipes.
    loop {
        match lines.recv_timeout(Duration::from_secs(1)) {
            Ok(line) => {
                missing |= line.ends_with("No module named pip");
                task.say(line.trim());
                said.push(line.trim().chars().take(300).collect());
                if said.len() > KEPT_LINES {
                    said.remove(0);
                }
            }
            Err(RecvTimeoutError::Timeout) => task.say("downloading"),
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    let status = running.wait().map_err(start)?;
    match status.success() {
        true => Ok(()),
        false if missing => Err(PipError::NoPip),
        false => Err(PipError::Failed {
            spec: spec.to_owned(),
            said,
        }),
    }
}

#[cfg(test)]
#[path = "pip_tests.rs"]
mod tests;
