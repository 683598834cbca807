//! Finds a C++ compiler of the machine that nvcc 12.4 accepts.

use std::io;
use std::process::Command;

use thiserror::Error;

/// Newest major version of GCC that nvcc 12.4 accepts.
const NEWEST: u32 = 13;
/// Oldest major version of GCC that compiles C++17 with every header of the standard library.
const OLDEST: u32 = 9;

/// The machine has no C++ compiler that nvcc 12.4 accepts.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "nvcc 12.4 takes g++ {OLDEST} to {NEWEST}, and this machine has {}: apt install g++-{NEWEST}",
    found.as_deref().map_or("none".to_owned(), |version| format!("g++ {version} alone"))
)]
pub struct HostError {
    /// Version of the machine's `g++`, if there is one.
    found: Option<String>,
}

/// Returns the name of a compiler that nvcc accepts: `g++` if its version fits, else the newest `g++-N` that fits.
///
/// # Errors
/// [`HostError`], which says what to install.
pub fn compiler() -> Result<String, HostError> {
    choose(|name| version(name).ok().flatten())
}

fn choose(version: impl Fn(&str) -> Option<String>) -> Result<String, HostError> {
    let usual = version("g++");
    if usual.as_deref().is_some_and(fits) {
        return Ok("g++".to_owned());
    }
    let names = (OLDEST..=NEWEST).rev().map(|major| format!("g++-{major}"));
    names
        .into_iter()
        .find(|name| version(name).as_deref().is_some_and(fits))
        .ok_or(HostError { found: usual })
}

fn fits(version: &str) -> bool {
    let major = version
        .split('.')
        .next()
        .and_then(|major| major.parse().ok());
    major.is_some_and(|major: u32| (OLDEST..=NEWEST).contains(&major))
}

fn version(name: &str) -> io::Result<Option<String>> {
    let output = Command::new(name).arg("-dumpfullversion").output()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    Ok((output.status.success() && !text.is_empty()).then_some(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(compilers: &[(&str, &str)]) -> Result<String, String> {
        let find = |name: &str| {
            let found = compilers.iter().find(|(known, _)| *known == name);
            found.map(|(_, version)| (*version).to_owned())
        };
        choose(find).map_err(|error| error.to_string())
    }

    #[test]
    fn a_compiler_that_nvcc_takes_is_chosen_or_named() {
        assert_eq!(machine(&[("g++", "12.2.0")]), Ok("g++".to_owned()));
        let both = [
            ("g++", "14.2.0"),
            ("g++-12", "12.4.0"),
            ("g++-13", "13.3.0"),
        ];
        assert_eq!(machine(&both), Ok("g++-13".to_owned()));
        assert_eq!(
            machine(&[("g++", "14.2.0"), ("g++-8", "8.4.0")]).unwrap_err(),
            "nvcc 12.4 takes g++ 9 to 13, and this machine has g++ 14.2.0 alone: apt install g++-13"
        );
        assert_eq!(
            machine(&[]).unwrap_err(),
            "nvcc 12.4 takes g++ 9 to 13, and this machine has none: apt install g++-13"
        );
    }
}
