//! Lists what gets into the guest's executables besides crates: the machine's C library, the C and C++ compilers' own
//! libraries, and those of the pinned Rust toolchain. Cargo does not list them, and does not notice when the machine's change.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use cocoon_protocol::bytes::Hex32;
use thiserror::Error;

use super::recipe::MUSL;
use crate::files::{self, FileError};
use crate::sbom::Library;

/// The machine's C compiler.
const CC: &str = "cc";
/// Static libraries of the machine, and what they belong to. The first holds glibc's version.
const ARCHIVES: &[(&str, Owner)] = &[
    ("libc.a", Owner::Glibc),
    ("libm.a", Owner::Glibc),
    ("libgcc.a", Owner::Gcc),
    ("libgcc_eh.a", Owner::Gcc),
    ("libstdc++.a", Owner::Gcc),
];
/// Largest library, in bytes.
const MAX_ARCHIVE: u64 = 1 << 30;
/// Beginning of a linker script in place of a library.
const SCRIPT: &[u8] = b"/* GNU ld script";
/// Beginning of the version banner in glibc.
const BANNER: &[u8] = b"GNU C Library (";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Owner {
    Glibc,
    Gcc,
}

/// Why the toolchain cannot be determined.
#[derive(Debug, Error)]
pub enum ToolchainError {
    /// A program cannot be started.
    #[error("cannot run {program}: {help}")]
    Start {
        /// Name of the program.
        program: String,
        /// How to install it.
        help: &'static str,
        /// What the system reported.
        #[source]
        source: io::Error,
    },
    /// A program failed.
    #[error("`{command}` failed: {said}")]
    Failed {
        /// The command line.
        command: String,
        /// First line of its error output.
        said: String,
    },
    /// A library cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
}

/// The machine's C toolchain. Its text form changes whenever the output of the toolchain might change.
pub(crate) struct Toolchain {
    /// Version lines of compilers and linker.
    said: Vec<String>,
    libraries: Vec<Library>,
}

impl Toolchain {
    /// Queries the toolchain that a build with the environment `variables` finds. `cxx` is the name of the C++ compiler.
    pub(crate) fn of_machine(
        variables: &[(String, OsString)],
        cxx: &str,
    ) -> Result<Self, ToolchainError> {
        let ask = |program: &str, argument: &str| {
            let mut command = Command::new(program);
            command.arg(argument).env_clear().env("LC_ALL", "C");
            command.envs(variables.iter().map(|(name, value)| (name, value)));
            ask(&mut command, "apt install build-essential")
        };
        let linker = ask(CC, "-print-prog-name=ld")?;
        let mut said = Vec::new();
        for program in [CC, cxx, linker.as_str()] {
            said.push(first_line(&ask(program, "--version")?).to_owned());
        }
        let (mut glibc, gcc) = (String::new(), version(&said[0]).to_owned());
        let mut libraries = Vec::new();
        for (file, owner) in ARCHIVES {
            let path = ask(CC, &format!("-print-file-name={file}"))?;
            // The compiler repeats the name of a library that it does not have. A program that needs it cannot be linked.
            if Path::new(&path).is_relative() {
                continue;
            }
            for (name, bytes) in archives(Path::new(&path))? {
                if *owner == Owner::Glibc && glibc.is_empty() {
                    glibc = banner(&bytes).unwrap_or_default();
                }
                let version = match owner {
                    Owner::Glibc => glibc.clone(),
                    Owner::Gcc => gcc.clone(),
                };
                libraries.push(Library {
                    name,
                    version,
                    sha256: Some(Hex32::sha256(&bytes)),
                });
            }
        }
        Ok(Self { said, libraries })
    }

    /// Returns the libraries that a static program may be linked to.
    pub(crate) fn libraries(&self) -> impl Iterator<Item = Library> {
        self.libraries.iter().cloned()
    }
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.said {
            writeln!(f, "{line}")?;
        }
        for Library {
            name,
            version,
            sha256,
        } in &self.libraries
        {
            let sha256 = sha256.map(|sha256| sha256.to_string());
            writeln!(f, "{}  {name} {version}", sha256.unwrap_or_default())?;
        }
        Ok(())
    }
}

/// Returns the libraries of the Rust toolchain that the workspace at `staged` pins: the standard library, identified by its
/// version, and the C library of static programs.
pub(crate) fn rust(
    variables: &[(String, OsString)],
    staged: &Path,
) -> Result<BTreeSet<Library>, ToolchainError> {
    let ask = |arguments: &[&str]| {
        let mut command = Command::new("rustc");
        command.args(arguments).current_dir(staged).env_clear();
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        ask(&mut command, "install Rust with rustup")
    };
    let said = ask(&["--version"])?;
    // Such as "rustc 1.95.0 (59807616e 2026-04-14)".
    let version = said.split(' ').nth(1).unwrap_or_default().to_owned();
    let sysroot = ask(&["--print", "sysroot"])?;
    let libc = format!("lib/rustlib/{MUSL}/lib/self-contained/libc.a");
    let libc = files::read(&Path::new(&sysroot).join(libc), MAX_ARCHIVE)?;
    let library = |name: &str, sha256| Library {
        name: name.to_owned(),
        version: version.clone(),
        sha256,
    };
    Ok(BTreeSet::from([
        library("rust-std", None),
        library("rust-musl-libc.a", Some(Hex32::sha256(&libc))),
    ]))
}

/// Runs a program and returns its output without the newline.
fn ask(command: &mut Command, help: &'static str) -> Result<String, ToolchainError> {
    let output = command.output().map_err(|source| ToolchainError::Start {
        program: command.get_program().to_string_lossy().into_owned(),
        help,
        source,
    })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    Err(ToolchainError::Failed {
        command: format!("{command:?}"),
        said: first_line(&String::from_utf8_lossy(&output.stderr)).to_owned(),
    })
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// Returns name and bytes of the library at `path`. If a linker script takes its place, as with glibc's `libm.a`, returns
/// those of the libraries that the script names.
fn archives(path: &Path) -> Result<Vec<(String, Vec<u8>)>, FileError> {
    let bytes = files::read(path, MAX_ARCHIVE)?;
    let named = |path: &Path, bytes| {
        let name = path.file_name().unwrap_or_default();
        (name.to_string_lossy().into_owned(), bytes)
    };
    if !bytes.starts_with(SCRIPT) {
        return Ok(vec![named(path, bytes)]);
    }
    let folder = path.parent().unwrap_or(path);
    let members = members(&String::from_utf8_lossy(&bytes), folder);
    let read = |path: PathBuf| Ok(named(&path, files::read(&path, MAX_ARCHIVE)?));
    members.into_iter().map(read).collect()
}

/// Returns the libraries that a linker script in `folder` names, such as `GROUP ( /usr/lib/libm-2.36.a /usr/lib/libmvec.a )`.
fn members(script: &str, folder: &Path) -> Vec<PathBuf> {
    let words = script.split(|c: char| c.is_whitespace() || matches!(c, '(' | ')' | ','));
    let libraries = words.filter(|word| word.ends_with(".a"));
    libraries.map(|library| folder.join(library)).collect()
}

/// Returns Debian's version from a line such as `cc (Debian 12.2.0-14) 12.2.0`. If the parentheses hold only a name, as in
/// `cc (GCC) 14.2.1`, returns the number after them. Without parentheses, returns the last word.
fn version(line: &str) -> &str {
    let parts = line
        .split_once('(')
        .and_then(|(_, rest)| rest.split_once(')'));
    let (inner, behind) = parts.unwrap_or((line, ""));
    if !inner.contains(|c: char| c.is_ascii_digit()) {
        let mut words = behind.split(' ');
        let number = words.find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
        // In glibc's banner, a full stop follows the number.
        return number.unwrap_or_default().trim_end_matches('.');
    }
    inner.rsplit(' ').next().unwrap_or_default()
}

/// Returns the version from the banner in a static glibc.
fn banner(archive: &[u8]) -> Option<String> {
    let mut places = archive.windows(BANNER.len());
    let at = places.position(|window| window == BANNER)?;
    let text = archive[at..].split(|byte| *byte == b'\n').next()?;
    Some(version(&String::from_utf8_lossy(text.get(..200).unwrap_or(text))).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_debians() {
        assert_eq!(
            version("cc (Debian 12.2.0-14+deb12u1) 12.2.0"),
            "12.2.0-14+deb12u1"
        );
        assert_eq!(version("clang version 19.1.7"), "19.1.7");
        assert_eq!(version("cc (GCC) 14.2.1 20250207"), "14.2.1");
        let archive = b"\x7fELF\0GNU C Library (Debian GLIBC 2.36-9+deb12u14) stable release version 2.36.\nCopyright";
        assert_eq!(banner(archive).as_deref(), Some("2.36-9+deb12u14"));
        let upstream = b"GNU C Library (GNU libc) stable release version 2.40.\nCopyright";
        assert_eq!(banner(upstream).as_deref(), Some("2.40"));
        assert_eq!(banner(b"musl"), None);
    }

    #[test]
    fn a_script_in_the_place_of_a_library_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["libm-2.36.a", "libmvec.a"] {
            std::fs::write(path(name), name).unwrap();
        }
        let whole = path("libm-2.36.a").display().to_string();
        let script = format!(
            "/* GNU ld script\n*/\nOUTPUT_FORMAT(elf64-x86-64)\nGROUP ( {whole} libmvec.a )\n"
        );
        std::fs::write(path("libm.a"), script).unwrap();
        let alone = |name: &str| (name.to_owned(), name.as_bytes().to_owned());
        assert_eq!(
            archives(&path("libm.a")).unwrap(),
            [alone("libm-2.36.a"), alone("libmvec.a")]
        );
        assert_eq!(archives(&path("libmvec.a")).unwrap(), [alone("libmvec.a")]);
        std::fs::remove_file(path("libmvec.a")).unwrap();
        let error = archives(&path("libm.a")).unwrap_err().to_string();
        assert_eq!(
            error,
            format!("cannot read {}", path("libmvec.a").display())
        );
    }

    #[test]
    fn this_machines_toolchain_is_the_same_twice() {
        let variables = [("PATH".to_owned(), std::env::var_os("PATH").unwrap())];
        let of_machine = || Toolchain::of_machine(&variables, "c++").unwrap();
        let (one, two) = (of_machine(), of_machine());
        assert_eq!(one.to_string(), two.to_string());
        let found: Vec<_> = one.libraries().collect();
        let libc = found.iter().find(|library| library.name == "libc.a");
        let libc = libc.unwrap();
        assert!(
            libc.sha256.is_some() && libc.version.contains(|c: char| c.is_ascii_digit()),
            "{libc:?}"
        );
        // It belongs to the same glibc, whatever file a linker script names for `libm.a`.
        let libm = found
            .iter()
            .find(|library| library.name.starts_with("libm"));
        assert_eq!(libm.unwrap().version, libc.version);
    }

    #[test]
    fn the_pinned_rust_toolchain_tells_its_libraries() {
        let passed = ["PATH", "HOME", "CARGO_HOME", "RUSTUP_HOME"];
        let variables: Vec<_> = passed
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), std::env::var_os(name)?)))
            .collect();
        let found = rust(&variables, Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap();
        let pinned = include_str!("../../../rust-toolchain.toml");
        let names: Vec<_> = found.iter().map(|library| library.name.as_str()).collect();
        assert_eq!(names, ["rust-musl-libc.a", "rust-std"]);
        for library in &found {
            let line = format!("channel = {:?}", library.version);
            assert!(pinned.contains(&line), "{library:?}");
        }
    }

    #[test]
    fn without_a_compiler_the_error_says_what_to_install() {
        let nowhere = tempfile::tempdir().unwrap();
        let variables = [("PATH".to_owned(), nowhere.path().as_os_str().to_owned())];
        let error = Toolchain::of_machine(&variables, "c++").err().unwrap();
        assert_eq!(
            error.to_string(),
            "cannot run cc: apt install build-essential"
        );
    }
}
