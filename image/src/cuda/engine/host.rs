//! The machine's C++ compiler, as nvcc 12.4 wants it.

use std::io;
use std::process::Command;

use thiserror::Error;

/// The newest release of GCC that this nvcc takes.
const NEWEST: u32 = 13;
/// The oldest one that can compile what is asked of it: C++17, and all of the library's headers.
const OLDEST: u32 = 9;

/// Why there is none.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "nvcc 12.4 takes g++ {OLDEST} to {NEWEST}, and this machine has {}: apt install g++-{NEWEST}",
    found.as_deref().map_or("none".to_owned(), |version| format!("g++ {version} alone"))
)]
pub struct HostError {
    /// The version of the one that there is.
    found: Option<String>,
}

/// The name of a compiler that nvcc takes: the usual one if it can be, else one with its version in its name.
///
/// # Errors
/// [`HostError`], with what to install.
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
