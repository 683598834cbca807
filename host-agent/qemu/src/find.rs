//! Finds a QEMU that is new enough: the one that was named or the system's. Otherwise a private copy is needed.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt;

use crate::args::Argument;

/// Oldest usable version. Earlier ones crash current kernels at random under emulation (7.2: 13 of 124 boots; 10.0: 0 of 182).
pub const MINIMUM: Version = Version {
    major: 10,
    minor: 0,
    micro: 0,
};

/// The first version that can start a TDX trust domain.
pub const MINIMUM_TDX: Version = Version {
    major: 10,
    minor: 1,
    micro: 0,
};

/// Number of the signal that no program can catch.
const SIGKILL: i32 = nix::sys::signal::Signal::SIGKILL as i32;

/// Usual name of the program.
const PROGRAM: &str = "qemu-system-x86_64";

/// A QEMU that has reported its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Qemu {
    /// Version that it reported.
    pub version: Version,
    /// The program, and what must precede all other arguments: a private copy's loader and libraries.
    pub program: Vec<OsString>,
    /// Folders of firmware and option ROMs, searched first.
    pub data: Vec<PathBuf>,
    /// Environment variables that it needs.
    pub environment: Vec<(OsString, OsString)>,
    /// Where it was found.
    pub origin: Origin,
}

/// Where a QEMU was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Named by an option or a variable.
    Named(PathBuf),
    /// Found in a folder of `PATH`.
    System(PathBuf),
    /// Unpacked into this folder of the cache.
    Private(PathBuf),
}

/// A version as QEMU prints it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Major version, incremented once a year.
    pub major: u32,
    /// Minor version, 0 to 2.
    pub minor: u32,
    /// Bug-fix release.
    pub micro: u32,
}

/// Outcome of the search on this machine.
#[derive(Debug)]
pub enum Search {
    /// A usable QEMU was found.
    Found {
        /// The QEMU to use.
        qemu: Qemu,
        /// Why this one is used, as a phrase for the operator.
        reason: String,
    },
    /// No usable QEMU was found, so a private copy is needed.
    Unusable {
        /// The reason as a phrase for the operator, such as "the system's QEMU is too old".
        reason: String,
    },
}

/// Checks the QEMU `named` by the operator, or else searches the folders of `path`, the value of `PATH`.
///
/// # Errors
/// [`FindError`] if a *named* program cannot be used. Without one, [`Search::Unusable`] says why a private copy is needed.
pub async fn search(
    named: Option<&Path>,
    path: Option<&OsStr>,
    minimum: Version,
) -> Result<Search, FindError> {
    if let Some(program) = named {
        let version = Qemu::ask(&[program.into()], &[]).await?;
        if version < minimum {
            return Err(FindError::TooOld {
                program: program.to_owned(),
                version,
                minimum,
            });
        }
        let reason = format!("QEMU {version} at {}, as named", program.display());
        return Ok(Search::Found {
            qemu: Qemu::plain(version, Origin::Named(program.to_owned())),
            reason,
        });
    }
    let candidates =
        std::env::split_paths(path.unwrap_or_default()).filter(|folder| folder.is_absolute());
    let Some(program) = candidates
        .map(|folder| folder.join(PROGRAM))
        .find(|file| file.is_file())
    else {
        return Ok(Search::Unusable {
            reason: format!("this machine has no {PROGRAM}"),
        });
    };
    let at = program.display();
    Ok(match Qemu::ask(&[program.clone().into()], &[]).await {
        Ok(version) if version >= minimum => Search::Found {
            reason: format!("the system's QEMU {version} at {at}"),
            qemu: Qemu::plain(version, Origin::System(program)),
        },
        Ok(version) => Search::Unusable {
            reason: format!("the system's QEMU {version} at {at} is older than {minimum}"),
        },
        Err(error) => Search::Unusable {
            reason: format!("the system's QEMU at {at} does not run ({error})"),
        },
    })
}

impl Qemu {
    /// Returns the whole command line: program, data folders and `arguments`.
    #[must_use]
    pub fn command_line(&self, arguments: &[Argument]) -> Vec<OsString> {
        let mut line = self.program.clone();
        for folder in &self.data {
            line.extend(["-L".into(), folder.into()]);
        }
        for argument in arguments {
            line.push(argument.flag.into());
            line.extend(argument.value.as_ref().map(OsString::from));
        }
        line
    }

    /// Asks a program for its version, within ten seconds and 4 KiB of output.
    pub(crate) async fn ask(
        program: &[OsString],
        environment: &[(OsString, OsString)],
    ) -> Result<Version, FindError> {
        let (first, rest) = program.split_first().ok_or(FindError::NoProgram)?;
        let shown = PathBuf::from(program.last().unwrap_or(first));
        let fail = |source| FindError::Run {
            program: shown.clone(),
            source,
        };
        let mut child = tokio::process::Command::new(first)
            .args(rest)
            .arg("--version")
            .envs(environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(fail)?;
        let mut text = Vec::new();
        let read = async {
            if let Some(stdout) = child.stdout.take() {
                stdout.take(4096).read_to_end(&mut text).await?;
            }
            child.wait().await
        };
        let deadline = Duration::from_secs(10);
        let status = tokio::time::timeout(deadline, read)
            .await
            .map_err(|_| fail(io::ErrorKind::TimedOut.into()))?
            .map_err(fail)?;
        // A program that kills itself like this does not exist. It usually means that memory was short, and the output
        // explains nothing.
        if status.signal() == Some(SIGKILL) {
            return Err(fail(io::Error::other("it was killed")));
        }
        let text = String::from_utf8_lossy(&text);
        Version::parse(&text).ok_or_else(|| FindError::NotQemu {
            program: shown.clone(),
            said: text
                .lines()
                .next()
                .unwrap_or_default()
                .chars()
                .take(80)
                .collect(),
        })
    }

    fn plain(version: Version, origin: Origin) -> Self {
        let program = match &origin {
            Origin::Named(path) | Origin::System(path) | Origin::Private(path) => vec![path.into()],
        };
        Self {
            version,
            program,
            data: Vec::new(),
            environment: Vec::new(),
            origin,
        }
    }
}

impl Version {
    /// Parses the first line of `--version`, such as `QEMU emulator version 10.0.13 (Debian …)`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let rest = text
            .lines()
            .next()?
            .strip_prefix("QEMU emulator version ")?;
        let mut numbers = rest.split_whitespace().next()?.split('.').map(str::parse);
        let mut next = || numbers.next()?.ok();
        Some(Self {
            major: next()?,
            minor: next()?,
            micro: next()?,
        })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)
    }
}

/// Why a QEMU cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// The command is empty.
    #[error("no program was named")]
    NoProgram,
    /// The program does not start, or does not end in time.
    #[error("cannot ask {program:?} for its version; check that it exists and may be executed")]
    Run {
        /// The program.
        program: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The program's answer is not QEMU's.
    #[error("{program:?} is not QEMU: it answered {said:?} to --version")]
    NotQemu {
        /// The program.
        program: PathBuf,
        /// The first line of its answer, shortened.
        said: String,
    },
    /// The QEMU is too old.
    #[error(
        "{program:?} is QEMU {version}, but {minimum} or later is needed; name another or none"
    )]
    TooOld {
        /// The program.
        program: PathBuf,
        /// Its version.
        version: Version,
        /// The oldest version that would do.
        minimum: Version,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn version(major: u32, minor: u32, micro: u32) -> Version {
        Version {
            major,
            minor,
            micro,
        }
    }

    #[test]
    fn versions_are_read_and_ordered() {
        let debian = "QEMU emulator version 10.0.13 (Debian 1:10.0.13+ds-0+deb13u1)\nCopyright";
        assert_eq!(Version::parse(debian), Some(version(10, 0, 13)));
        assert_eq!(
            Version::parse("QEMU emulator version 7.2.19\n"),
            Some(version(7, 2, 19))
        );
        for bad in [
            "",
            "qemu 10",
            "QEMU emulator version ",
            "QEMU emulator version 10.x.1",
            "QEMU emulator version 10.1",
        ] {
            assert_eq!(Version::parse(bad), None, "{bad:?}");
        }
        assert!(version(10, 0, 13) < MINIMUM_TDX && version(7, 2, 19) < MINIMUM);
    }

    fn pretend(folder: &Path, said: &str) -> PathBuf {
        let file = folder.join(PROGRAM);
        // Another process writes the file: a fork in a neighbouring test must not inherit it while open (ETXTBSY).
        let script = "printf '#!/bin/sh\\necho \"%s\"\\n' \"$1\" > \"$2\" && chmod 755 \"$2\"";
        let status = std::process::Command::new("sh")
            .args(["-c", script, "sh", said])
            .arg(&file)
            .status();
        assert!(status.expect("a shell").success());
        file
    }

    #[tokio::test]
    async fn an_old_system_qemu_is_passed_over_and_a_named_one_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = pretend(folder.path(), "QEMU emulator version 7.2.19 (Debian)");
        let path = folder.path().as_os_str();
        let found = search(None, Some(path), MINIMUM).await.expect("a search");
        let Search::Unusable { reason } = found else {
            panic!("{found:?}")
        };
        assert_eq!(
            reason,
            format!(
                "the system's QEMU 7.2.19 at {} is older than 10.0.0",
                file.display()
            )
        );
        let error = search(Some(&file), None, MINIMUM)
            .await
            .expect_err("too old");
        assert!(matches!(error, FindError::TooOld { version: v, .. } if v == version(7, 2, 19)));
    }

    #[tokio::test]
    async fn a_new_one_is_taken_and_something_else_is_not_qemu() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = pretend(folder.path(), "QEMU emulator version 10.0.13 (Debian)");
        let found = search(None, Some(folder.path().as_os_str()), MINIMUM)
            .await
            .expect("a search");
        let Search::Found { qemu, .. } = found else {
            panic!("{found:?}")
        };
        assert_eq!(
            (qemu.version, qemu.origin),
            (version(10, 0, 13), Origin::System(file.clone()))
        );
        pretend(folder.path(), "hello");
        let error = search(Some(&file), None, MINIMUM)
            .await
            .expect_err("not QEMU");
        assert!(matches!(error, FindError::NotQemu { said, .. } if said == "hello"));
        let none = search(None, Some(OsStr::new("")), MINIMUM)
            .await
            .expect("a search");
        assert!(
            matches!(none, Search::Unusable { reason } if reason == "this machine has no qemu-system-x86_64")
        );
    }
}
